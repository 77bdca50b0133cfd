"""The native server on real sockets: many calls at a time, its limits, its end."""

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from h2.connection import ConnectionInputs, ConnectionState
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from authz.envoy_api import dispatcher, peer, server
from authz.envoy_api.server import NativeServer
from support.http2_client import Http2Client, connect, framed, grpc_headers
from support.ports import LOOPBACK
from support.serving import LOOPS, Held, ServerThread
from support.waiting import wait_until


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's must fit into 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="authz-") as folder:
        yield Path(folder)


def ask(client: Http2Client, message: bytes, **extra: str) -> int:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in extra.items()]
    return client.ask(grpc_headers(extra=fields), framed(message))


def patient(client: Http2Client) -> Http2Client:
    """One that goes on with what it began when it is told GOAWAY (RFC 9113 section 6.8), unlike
    `h2`, for which that is the end of everything.
    """
    machine = client.h2.state_machine
    machine._transitions = {
        **machine._transitions,
        **{
            (state, ConnectionInputs.RECV_GOAWAY): (None, state)
            for state in (ConnectionState.IDLE, ConnectionState.CLIENT_OPEN)
        },
    }
    return client


def open_windows(client: Http2Client) -> None:
    """Let the server send as much as it has; what is not read waits with it, or in the kernel."""
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    client.h2.increment_flow_control_window(2**31 - 1 - 65_535)
    client.flush()


# Calls


def test_a_thousand_calls_at_a_time_are_answered_in_any_order(loop: str) -> None:
    held, count = Held(), 1000
    with ServerThread(held, loop=loop) as running, Http2Client(running.address) as client:
        streams = {f"{n}".encode(): ask(client, f"{n}".encode()) for n in range(count)}
        wait_until(lambda: len(held.futures) == count, "all were asked")
        for message, future in reversed(held.futures.items()):
            running.call(future.set_result, message[::-1])
        for message, stream_id in streams.items():
            assert client.answer(stream_id).message == message[::-1]
        assert running.server.counters.calls()["OK"] == count


def test_answers_that_are_there_at_once_do_not_wait_for_those_that_are_not(loop: str) -> None:
    held = Held()

    def answer(data: bytes) -> bytes | Awaitable[bytes]:
        return held(data) if data == b"cold" else data

    with ServerThread(answer, loop=loop) as running, Http2Client(running.address) as client:
        cold, warm = ask(client, b"cold"), ask(client, b"warm")
        assert client.answer(warm).message == b"warm"
        assert not client.answers[cold].headers
        wait_until(lambda: held.futures, "it was asked")
        running.call(held.futures[b"cold"].set_result, b"cold")
        assert client.answer(cold).message == b"cold"


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 1_000_000, 4 * 1024 * 1024])
def test_a_message_of_any_size_to_4_mib_is_answered(loop: str, size: int) -> None:
    message = os.urandom(size)
    with ServerThread(loop=loop) as running, Http2Client(running.address) as client:
        assert client.answer(ask(client, message)).message == message


def test_a_message_over_4_mib_is_refused_and_the_connection_goes_on(loop: str) -> None:
    with ServerThread(loop=loop) as running, Http2Client(running.address) as client:
        answer = client.answer(ask(client, bytes(4 * 1024 * 1024 + 1)))
        assert answer.grpc_status == 8  # RESOURCE_EXHAUSTED
        assert client.answer(ask(client, b"next")).message == b"next"


def test_a_deadline_ends_the_check(loop: str) -> None:
    held = Held()
    with ServerThread(held, loop=loop) as running, Http2Client(running.address) as client:
        answer = client.answer(ask(client, b"slow", grpc_timeout="20m"))
        assert (answer.grpc_status, answer.grpc_message) == (4, "Deadline Exceeded")
        wait_until(lambda: held.cancelled == [b"slow"], "the check is cancelled")
        assert running.server.counters.calls()["DEADLINE_EXCEEDED"] == 1


def test_an_answer_within_the_deadline_is_not_disturbed_by_it(loop: str) -> None:
    held = Held()
    with ServerThread(held, loop=loop) as running, Http2Client(running.address) as client:
        stream_id = ask(client, b"quick", grpc_timeout="50m")
        wait_until(lambda: held.futures, "it was asked")
        running.call(held.futures[b"quick"].set_result, b"done")
        assert client.answer(stream_id).message == b"done"
        later = ask(client, b"later", grpc_timeout="100m")
        assert client.answer(later).grpc_status == 4
        wait_until(lambda: held.cancelled == [b"later"], "only the other is cancelled")


def test_a_call_that_the_peer_takes_back_is_cancelled_and_the_others_are_not(loop: str) -> None:
    held = Held()
    with ServerThread(held, loop=loop) as running, Http2Client(running.address) as client:
        first, second = ask(client, b"first"), ask(client, b"second")
        wait_until(lambda: len(held.futures) == 2, "both were asked")
        client.h2.reset_stream(first, ErrorCodes.CANCEL)
        client.flush()
        wait_until(lambda: held.cancelled == [b"first"], "the check is cancelled")
        running.call(held.futures[b"second"].set_result, b"second")
        assert client.answer(second).message == b"second"
        assert running.server.counters.calls()["CANCELLED"] == 1


def test_a_peer_that_hangs_up_cancels_what_it_asked(loop: str) -> None:
    held = Held()
    with ServerThread(held, loop=loop) as running:
        with Http2Client(running.address) as client:
            ask(client, b"gone")
            wait_until(lambda: held.futures, "it was asked")
        wait_until(lambda: held.cancelled == [b"gone"], "the check is cancelled")
        wait_until(lambda: running.server.connections == 0, "the connection is forgotten")


def test_a_bug_in_an_answer_is_logged_and_tells_the_peer_nothing(loop: str) -> None:
    async def later(_: bytes) -> bytes:
        raise RuntimeError("secret")

    def at_once(_: bytes) -> bytes:
        raise RuntimeError("secret")

    for broken in (later, at_once):
        with (
            structlog.testing.capture_logs() as logs,
            ServerThread(broken, loop=loop) as running,
            Http2Client(running.address) as client,
        ):
            answer = client.answer(ask(client, b"x"))
            assert (answer.grpc_status, answer.grpc_message) == (13, "the check failed")
        assert [line["event"] for line in logs] == ["check_failed"]
        assert logs[0]["exc_info"]


# Limits


def test_checks_over_the_limit_are_refused_at_once(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "MAX_CONCURRENT_CHECKS", 3)
    held = Held()
    with (
        ServerThread(held, loop=loop) as running,
        Http2Client(running.address) as one,
        Http2Client(running.address) as other,
    ):
        waiting = [ask(one, f"{n}".encode()) for n in range(3)]
        wait_until(lambda: len(held.futures) == 3, "three wait")
        answer = other.answer(ask(other, b"3"))
        assert (answer.grpc_status, answer.grpc_message) == (8, "Concurrent RPC limit exceeded!")
        for message, future in list(held.futures.items()):
            running.call(future.set_result, message)
        assert [one.answer(stream_id).message for stream_id in waiting] == [b"0", b"1", b"2"]
        again = ask(other, b"4")
        wait_until(lambda: b"4" in held.futures, "there is room again")
        running.call(held.futures[b"4"].set_result, b"4")
        assert other.answer(again).message == b"4"


def test_connections_over_the_limit_are_closed_and_the_others_are_served(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    with ServerThread(loop=loop) as running, ExitStack() as stack:
        clients = [stack.enter_context(Http2Client(running.address)) for _ in range(2)]
        for client in clients:
            assert client.answer(ask(client, b"hello")).message == b"hello"
        with suppress(OSError), connect(running.address) as third:
            assert third.recv(1) == b""
        wait_until(lambda: running.server.counters.refused["limit"] == 1, "it was counted")
        assert clients[0].answer(ask(clients[0], b"still")).message == b"still"
        clients[1].close()
        wait_until(lambda: running.server.connections == 1, "a place is free")
        with Http2Client(running.address) as fourth:
            assert fourth.answer(ask(fourth, b"in")).message == b"in"


def test_a_peer_that_does_not_read_is_not_read_from_and_is_cut_off_in_the_end(
    loop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it can make the server hold is bounded, and others are served meanwhile."""
    monkeypatch.setattr(server, "SWEEP_INTERVAL", 0.05)
    answer = bytes(8192)
    with (
        # A Unix socket: the kernel buffers less.
        ServerThread(lambda _: answer, loop=loop, listen=(f"unix:{folder}/s",)) as running,
        Http2Client(running.address) as other,
        Http2Client(running.address) as greedy,
    ):
        open_windows(greedy)
        greedy.line.settimeout(0.2)
        sent = 0
        with suppress(OSError):
            while sent < 100_000:
                # As one that never heard of the limit on streams: it doesn't read.
                stream_id = 1 + 2 * sent
                head = greedy.h2.encoder.encode(grpc_headers())
                greedy.line.sendall(_request(stream_id, head, framed(b"x")))
                sent += 1
        assert sent < 100_000, "it was never made to wait"
        held = running.call(lambda: max(one.held for one in running.server._shared.peers))
        assert held < 4 * 1024 * 1024
        assert other.answer(ask(other, b"me too")).message == answer
        assert running.server.connections == 2
        monkeypatch.setattr(peer, "STUCK_TIMEOUT", 0.1)
        wait_until(lambda: running.server.connections == 1, "it is cut off")
        assert other.answer(ask(other, b"and later")).message == answer


def _request(stream_id: int, head: bytes, body: bytes) -> bytes:
    number = stream_id.to_bytes(4, "big")
    return (
        len(head).to_bytes(3, "big") + b"\x01\x04" + number + head
        + len(body).to_bytes(3, "big") + b"\x00\x01" + number + body
    )  # fmt: skip


def test_the_greediest_connection_is_ended_where_all_hold_too_much(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (peer, server):
        monkeypatch.setattr(module, "MAX_BUFFERED", 1_000_000)
    with (
        ServerThread(loop=loop) as running,
        Http2Client(running.address) as modest,
        Http2Client(running.address) as greedy,
    ):
        small = modest.begin(grpc_headers())
        modest.send(small, framed(bytes(200_000))[:150_000], end_stream=False)
        large = greedy.begin(grpc_headers())
        with suppress(OSError, ProtocolError):  # of h2, which doesn't send after GOAWAY
            greedy.send(large, framed(bytes(3_000_000))[:2_000_000], end_stream=False)
            greedy.until(lambda: greedy.goaway, "it is told to calm down")
        assert greedy.goaway is not None
        assert greedy.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        modest.send(small, framed(bytes(200_000))[150_000:])
        assert modest.answer(small).message == bytes(200_000)
        assert running.server.counters.faults == {"ENHANCE_YOUR_CALM": 1}
        assert running.call(lambda: running.server._shared.buffered) < 1_000_000


def test_a_fault_of_the_peers_ends_its_connection_and_is_counted(loop: str) -> None:
    with ServerThread(loop=loop) as running, Http2Client(running.address) as good:
        with connect(running.address) as bad:
            bad.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64)
            while bad.recv(4096):
                pass
        wait_until(lambda: running.server.connections == 1, "it is gone")
        assert running.server.counters.faults == {"FRAME_SIZE_ERROR": 1}
        assert good.answer(ask(good, b"x")).message == b"x"


def test_without_descriptors_accepting_pauses_and_goes_on(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ACCEPT_PAUSE", 0.05)

    class Exhausted(socket.socket):
        failures = 2

        def accept(self) -> Any:
            if Exhausted.failures:
                Exhausted.failures -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    with Exhausted() as listener, structlog.testing.capture_logs() as logs:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        with (
            ServerThread(loop=loop, listen=(), sockets=[listener]) as running,
            Http2Client(running.address) as client,
        ):
            assert client.answer(ask(client, b"x")).message == b"x"
    assert [line["event"] for line in logs] == ["accept_failed"] * 2


# Where it listens


def test_what_was_accepted_elsewhere_can_be_adopted(loop: str) -> None:
    ends = []
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        ServerThread(loop=loop, listen=()) as running,
    ):
        assert running.server.addresses == []
        running.server.on_connection_end = lambda: ends.append(running.server.connections)
        host, port = listener.getsockname()
        with Http2Client(f"{host}:{port}") as client:
            accepted, _ = listener.accept()
            running.call(running.server.adopt, accepted)
            assert running.server.connections == 1
            assert client.answer(ask(client, b"x")).message == b"x"
        wait_until(lambda: ends == [0], "its end was told")


def test_a_connection_adopted_after_the_end_is_closed(loop: str) -> None:
    one, other = socket.socketpair()
    with one, ServerThread(loop=loop) as running:
        running.stop()
        running.call(running.server.adopt, other)
        assert one.recv(1) == b""


def test_shed_connections_finish_their_calls_and_go(loop: str) -> None:
    held = Held()
    with ServerThread(held, loop=loop) as running, patient(Http2Client(running.address)) as client:
        stream_id = ask(client, b"x")
        wait_until(lambda: held.futures, "it was asked")
        running.call(running.server.shed, 1)
        client.until(lambda: client.goaway, "it is told to go")
        running.call(held.futures[b"x"].set_result, b"y")
        assert client.answer(stream_id).message == b"y"
        with Http2Client(running.address) as fresh:
            again = ask(fresh, b"z")
            wait_until(lambda: b"z" in held.futures, "others are served")
            running.call(held.futures[b"z"].set_result, b"z")
            assert fresh.answer(again).message == b"z"


@pytest.mark.parametrize("address", [f"{LOOPBACK}:0", "[::1]:0", "localhost:0"])
def test_any_free_port_of_either_family(loop: str, address: str) -> None:
    with ServerThread(loop=loop, listen=(address,)) as running:
        assert not running.address.endswith(":0")
        host, _, port = running.address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as line:
            assert line.recv(9), "SETTINGS"


def test_tcp_answers_do_not_wait_for_more(loop: str) -> None:
    """Without TCP_NODELAY an answer could wait for the acknowledgement of the one before."""
    with ServerThread(loop=loop) as running, Http2Client(running.address) as client:
        client.answer(ask(client, b"x"))
        (one,) = running.call(lambda: list(running.server._shared.peers))
        line = one._transport.get_extra_info("socket")
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_successors_socket_file_is_left_alone(loop: str, folder: Path) -> None:
    path = folder / "authz.sock"
    with ServerThread(loop=loop, listen=(f"unix:{path}",)) as running:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            running.stop()
            assert path.exists()


# The end


def test_no_call_is_lost_when_it_stops_under_load(loop: str) -> None:
    """All that the peer was let begin is answered, and it is told which those are."""

    async def soon(data: bytes) -> bytes:
        await asyncio.sleep(0.001)
        return data

    asked: dict[int, bytes] = {}
    stopping: list[Any] = []
    with ServerThread(soon, loop=loop) as running, patient(Http2Client(running.address)) as client:
        while client.goaway is None or client.goaway.last_stream_id == 2**31 - 1:
            if len(asked) == 500:
                stopping.append(running.begin(running.server.stop(10)))
            for _ in range(20):
                message = f"{len(asked)}".encode()
                asked[ask(client, message)] = message
            client.read()
        answered = {n: client.answer(n).message for n in asked if n <= _last(client)}
        stopping[0].result(10)
    assert answered == {n: asked[n] for n in answered}
    assert len(answered) >= 500


def _last(client: Http2Client) -> int:
    assert client.goaway is not None
    return int(client.goaway.last_stream_id or 0)


def test_a_connection_that_was_not_accepted_yet_is_told_goaway(
    loop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "authz.sock"
    with (
        ServerThread(loop=loop, listen=(f"unix:{path}",)) as running,
        socket.socket(socket.AF_UNIX) as line,
    ):
        line.settimeout(10)

        stop_accepting = running.server._stop_accepting

        connected = threading.Event()

        def connect_at_the_last_moment() -> None:
            line.connect(str(path))
            connected.set()
            stop_accepting()

        monkeypatch.setattr(running.server, "_stop_accepting", connect_at_the_last_moment)
        stopping = running.begin(running.server.stop(5))
        assert connected.wait(10)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("support.http2_client.connect", lambda *_, **__: line)
            client = patient(Http2Client(""))
        client.until(lambda: client.goaway, "GOAWAY")
        client.close()
        stopping.result(10)


def test_what_takes_longer_than_the_grace_gets_unavailable(loop: str) -> None:
    held = Held()
    with ServerThread(held, loop=loop) as running, patient(Http2Client(running.address)) as client:
        stream_id = ask(client, b"hung")
        wait_until(lambda: held.futures, "it was asked")
        running.stop(0.05)
        answer = client.answer(stream_id)
        assert (answer.grpc_status, answer.grpc_message) == (14, "the server is stopping")
        assert held.cancelled == [b"hung"]


def test_answers_that_were_written_leave_before_the_end(loop: str) -> None:
    """Also where the peer reads slowly."""
    message = os.urandom(4 * 1024 * 1024)
    with (
        ServerThread(loop=loop) as running,
        patient(Http2Client(running.address)) as client,
    ):
        open_windows(client)
        stream_id = ask(client, message)
        wait_until(lambda: running.server.counters.calls()["OK"], "it is answered")
        stopping = running.begin(running.server.stop(10))
        assert client.answer(stream_id).message == message
        stopping.result(10)


def test_it_may_be_stopped_many_times_and_before_it_started(loop: str) -> None:
    with ServerThread(loop=loop) as running, Http2Client(running.address) as client:
        assert client.answer(ask(client, b"x")).message == b"x"
        stops = [running.begin(running.server.stop(0.1)) for _ in range(3)]
        for stop in stops:
            stop.result(10)
        running.stop()
        running.run(NativeServer(running.answers).stop(1))
