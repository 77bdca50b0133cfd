"""A connection without its socket: what one read costs, in writes, tasks and log lines."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from authz.envoy_api import peer as peers
from authz.envoy_api.http2.errors import ErrorCode
from authz.envoy_api.peer import Peer
from authz.envoy_api.shared import Shared
from support.http2_client import framed, grpc_headers
from support.waiting import eventually


class Transport(asyncio.Transport):
    """Keeps what is written, and can be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.said: list[str] = []
        """What else was asked of it, in order."""
        self.unsent = 0

    def write(self, data: Any) -> None:
        assert not {"eof", "close", "abort"} & set(self.said), "something was written after the end"
        self.writes.append(bytes(data))

    def take(self) -> bytes:
        data = b"".join(self.writes)
        self.writes.clear()
        return data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (peers.WRITE_HIGH, peers.WRITE_LOW)

    def is_closing(self) -> bool:
        return "close" in self.said

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.said.append("eof")

    def close(self) -> None:
        self.said.append("close")

    def abort(self) -> None:
        self.said.append("abort")

    def pause_reading(self) -> None:
        self.said.append("pause")

    def resume_reading(self) -> None:
        self.said.append("resume")


class Line:
    """A peer, its transport, and an h2 client at the other end."""

    def __init__(self, answer: Callable[[bytes], bytes | Awaitable[bytes]] = bytes) -> None:
        self.ended = 0
        self.shared = Shared(answer, gone=self._gone, overfull=self._overfull)
        self.overfull = 0
        self.transport = Transport()
        self.peer = Peer(self.shared)
        self.shared.arriving = 1
        self.peer.connection_made(self.transport)
        self.client = H2Connection(H2Configuration())
        self.client.initiate_connection()
        self.exchange()

    def _gone(self) -> None:
        self.ended += 1

    def _overfull(self) -> None:
        self.overfull += 1

    def exchange(self) -> list[Any]:
        """What each side has to say reaches the other; the client's events."""
        found = []
        for _ in range(3):
            self.peer.data_received(self.client.data_to_send())
            found += self.client.receive_data(self.transport.take())
        return found

    def ask(self, *messages: bytes) -> bytes:
        """What the client sends for these checks."""
        for message in messages:
            stream_id = self.client.get_next_available_stream_id()
            self.client.send_headers(stream_id, grpc_headers())
            self.client.send_data(stream_id, framed(message), end_stream=True)
        return self.client.data_to_send()

    def answers(self) -> list[bytes]:
        """The messages that came, in their order."""
        found = self.client.receive_data(self.transport.take())
        return [event.data[5:] for event in found if isinstance(event, DataReceived)]


async def test_all_requests_of_one_read_are_answered_in_one_write() -> None:
    line = Line()
    messages = [f"{n}".encode() for n in range(100)]
    line.peer.data_received(line.ask(*messages))
    assert len(line.transport.writes) == 1
    assert line.answers() == messages


async def test_an_answer_out_of_memory_makes_no_task_and_logs_nothing() -> None:
    line = Line()
    tasks = asyncio.all_tasks()
    data = line.ask(b"x")
    with structlog.testing.capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        for name in ("create_task", "create_future", "call_soon", "call_later"):
            patch.setattr(line.peer._loop, name, None)
        line.peer.data_received(data)
    assert asyncio.all_tasks() == tasks
    assert logs == []
    assert line.answers() == [b"x"]


async def test_later_answers_of_one_turn_leave_in_one_write() -> None:
    release = asyncio.Event()

    async def later(data: bytes) -> bytes:
        await release.wait()
        return data

    line = Line(later)
    line.peer.data_received(line.ask(b"a", b"b", b"c"))
    assert line.transport.writes == []
    assert line.shared.waiting == 3
    release.set()
    await eventually(lambda: line.transport.writes, "they are written")
    assert line.shared.waiting == 0
    assert len(line.transport.writes) == 1
    assert line.answers() == [b"a", b"b", b"c"]


async def test_a_check_given_up_before_it_began_complains_of_nothing() -> None:
    """Its coroutine holds another one, which nobody would ever await."""

    async def inner() -> bytes:
        await asyncio.sleep(3600)
        return b""

    async def outer(waiting: Awaitable[bytes]) -> bytes:
        return await waiting

    line = Line(lambda _: outer(inner()))
    data = line.ask(b"x")
    line.client.reset_stream(1)
    line.peer.data_received(data + line.client.data_to_send())
    await eventually(lambda: not line.shared.waiting, "no check is waited for")
    assert line.shared.counters.calls()["CANCELLED"] == 1


async def test_a_peer_that_does_not_take_its_answers_is_not_listened_to() -> None:
    line = Line()
    line.peer.pause_writing()
    assert line.peer.stuck
    line.peer.resume_writing()
    assert not line.peer.stuck
    assert line.transport.said == ["pause", "resume"]


async def test_one_that_is_stuck_for_too_long_is_cut_off() -> None:
    line = Line()
    line.peer.pause_writing()
    since = line.peer._stuck_since
    assert since is not None
    line.peer.look_after(since + peers.STUCK_TIMEOUT)
    assert "abort" not in line.transport.said
    line.peer.look_after(since + peers.STUCK_TIMEOUT + 0.1)
    assert line.transport.said[-1] == "abort"


async def test_what_is_held_is_known_to_the_server_and_let_go_in_the_end() -> None:
    line = Line()
    line.client.send_headers(1, grpc_headers())
    line.client.send_data(1, framed(bytes(50_000))[:10_000])
    line.peer.data_received(line.client.data_to_send())
    assert line.shared.buffered == line.peer.held == 10_000
    line.transport.unsent = 5_000
    line.peer.measure()
    assert line.shared.buffered == 15_000
    line.transport.unsent = 0
    line.client.send_data(1, framed(bytes(50_000))[10_000:20_000])
    line.peer.data_received(line.client.data_to_send())
    assert line.shared.buffered == 20_000
    line.peer.connection_lost(None)
    assert line.shared.buffered == 0


async def test_the_server_is_asked_for_relief_when_too_much_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "MAX_BUFFERED", 9_999)
    line = Line()
    line.client.send_headers(1, grpc_headers())
    line.client.send_data(1, framed(bytes(50_000))[:10_000])
    line.peer.data_received(line.client.data_to_send())
    assert line.overfull == 1


async def test_after_the_last_word_the_peer_may_hang_up_first() -> None:
    """Closing while it still sends would make the kernel reset the line, over what was said."""
    line = Line()
    line.peer.end(ErrorCode.NO_ERROR)
    assert line.transport.said == ["eof"]
    line.peer.data_received(line.ask(b"too late"))
    ended = line.peer._ended_at
    assert ended is not None
    line.peer.look_after(ended + peers.LINGER_TIME)
    assert line.transport.said == ["eof"]
    line.peer.look_after(ended + peers.LINGER_TIME + 0.1)
    assert line.transport.said == ["eof", "close"]


async def test_a_peer_that_is_gone_already_does_not_stop_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asyncio shuts the socket down at once, and says so where nobody is at the other end."""
    line = Line()

    def not_connected() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(line.transport, "write_eof", not_connected)
    line.peer.end(ErrorCode.NO_ERROR)
    assert line.transport.said == ["abort"]


async def test_after_its_end_nothing_is_written_and_nothing_waits() -> None:
    release = asyncio.Event()

    async def stubborn(_: bytes) -> bytes:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await release.wait()
        return b"nobody wants it"

    line = Line(stubborn)
    line.peer.data_received(line.ask(b"x"))
    await asyncio.sleep(0)
    line.peer.connection_lost(None)
    assert line.ended == 1
    assert line.shared.peers == set()
    assert line.shared.waiting == 1, "it counts until it has really ended"
    for act in (line.peer.drain, line.peer.close, line.peer.abort):
        act()
    line.peer.end(ErrorCode.NO_ERROR)
    release.set()
    await eventually(lambda: not line.shared.waiting, "no check is waited for")
    assert line.transport.writes == []


@pytest.mark.parametrize("calls", [1, 3])
async def test_a_drained_peer_ends_when_its_calls_have(calls: int) -> None:
    release = asyncio.Event()

    async def later(data: bytes) -> bytes:
        await release.wait()
        return data

    line = Line(later)
    line.peer.data_received(line.ask(*[b"x"] * calls))
    line.peer.drain()
    # PING comes back: the client has heard GOAWAY, and knows of no other calls.
    line.peer.data_received(b"\0\0\x08\x06\x01\0\0\0\0" + _ping_of(line.transport.take()))
    assert "eof" not in line.transport.said
    release.set()
    await eventually(lambda: "eof" in line.transport.said, "it has said its last")
    assert line.shared.counters.calls()["OK"] == calls


def _ping_of(written: bytes) -> bytes:
    at = written.index(b"\0\0\x08\x06\0\0\0\0\0")
    return written[at + 9 : at + 17]
