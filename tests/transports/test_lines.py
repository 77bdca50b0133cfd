"""Clients that come and go, at any moment and in any number, leave nothing behind: no descriptor,
no memory, no line in the log.
"""

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from authz.envoy_api.http2 import limits
from support.grpc import check_request
from support.http2_client import Http2Client, connect, conversation, framed, grpc_headers
from support.ports import LOOPBACK
from support.process import ChildProcess
from support.proxy import TcpProxy
from support.sidecar import NO_FEED, Sidecar
from support.transports import good_token
from support.valkey import ValkeyServer
from support.waiting import wait_until

LEAK_LIMIT = 16 * 2**20
"""Bytes that the allocator may keep. 10,000 connections of which each left its 12 KiB would be 120
MiB."""

STORE_CONNECTIONS = 8
"""More of them may be open after a test than before. Each test here opens far more of its own."""

DENIED = framed(bytes(check_request()))
CALL = conversation(grpc_headers(), DENIED)
"""It has no token: the answer is known at once, without the store."""
ANSWERED = b"grpc-status"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpProxy]:
    """The line to the store."""
    with ValkeyServer(tmp_path_factory.mktemp("store")) as server, TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def _sidecar(tmp_path_factory: pytest.TempPathFactory, line: TcpProxy) -> Iterator[Sidecar]:
    store = {"url": f"redis://{LOOPBACK}:{line.port}", "timeout": "9s"}
    settings = {"transport": "native", "store": store, "feed": NO_FEED}
    with Sidecar(tmp_path_factory.mktemp("sidecar"), settings) as sidecar:
        wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
        yield sidecar


@pytest.fixture
def sidecar(_sidecar: Sidecar) -> Iterator[Sidecar]:
    """When a test is over, nothing may be left of its connections, and nothing may be logged."""
    call(_sidecar.socket)
    before, log = descriptors(_sidecar.process), _sidecar.log_text()
    yield _sidecar
    wait_until(
        lambda: descriptors(_sidecar.process) <= before + STORE_CONNECTIONS, "all are closed"
    )
    assert call(_sidecar.socket)
    news = _sidecar.log_text().removeprefix(log)
    assert not [line for line in news.splitlines() if "loop_blocked" not in line], news


def descriptors(process: ChildProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def resident(process: ChildProcess) -> int:
    """Bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def call(address: str, data: bytes = CALL, *, finish: bool = False) -> bytes:
    """Send this, and read until there is an answer or the end. `finish`: say at once that nothing
    more will be sent.
    """
    received = b""
    with connect(address) as one:
        one.sendall(data)
        if finish:
            one.shutdown(socket.SHUT_WR)
        while ANSWERED not in received and (more := one.recv(65_536)):
            received += more
    return received


def hang_up(one: socket.socket, *, rudely: bool) -> None:
    """Close, by a reset of the line or in order."""
    if rudely:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, sidecar: Sidecar) -> str:
    return sidecar.socket if request.param == "unix" else sidecar.address


def test_ten_thousand_connections_leave_nothing(sidecar: Sidecar, address: str) -> None:
    """Half of them ask something, and half of those listen to the answer."""

    def come_and_go(count: int) -> None:
        for number in range(count):
            if number % 4 == 0:
                assert ANSWERED in call(address)
                continue
            one = connect(address)
            if number % 4 == 1:
                one.sendall(CALL)
            hang_up(one, rudely=number % 3 == 0)

    come_and_go(1000)
    before = resident(sidecar.process)
    come_and_go(10_000)
    assert resident(sidecar.process) - before < LEAK_LIMIT


def test_clients_may_hang_up_after_any_byte(sidecar: Sidecar, address: str) -> None:
    for size in range(len(CALL)):
        one = connect(address)
        one.sendall(CALL[:size])
        hang_up(one, rudely=size % 2 == 0)


def test_clients_may_hang_up_while_the_store_is_asked(
    sidecar: Sidecar, address: str, line: TcpProxy
) -> None:
    """The look-up goes on, and its answer is for nobody."""
    line.block("to_client")
    for number in range(200):
        body = framed(bytes(check_request(token=good_token())))
        with Http2Client(address) as client:
            client.ask(grpc_headers(), body)
            hang_up(client.line, rudely=number % 2 == 0)
    line.restore()


def test_clients_may_hang_up_while_they_are_answered(sidecar: Sidecar, address: str) -> None:
    """After some of many answers, with the rest in the socket, and more in the server."""
    for number in range(50):
        with Http2Client(address) as client:
            for _ in range(100):
                stream_id = client.h2.get_next_available_stream_id()
                client.h2.send_headers(stream_id, grpc_headers())
                client.h2.send_data(stream_id, DENIED, end_stream=True)
            client.flush()
            client.line.recv(1 + 997 * (number % 5))
            hang_up(client.line, rudely=number % 2 == 0)


def test_a_client_that_sends_no_more_still_gets_its_answer(address: str) -> None:
    """`shutdown(SHUT_WR)` right behind the request. Only an answer that has to be waited for is
    given up then, as this is also how clients look that went away.
    """
    assert ANSWERED in call(address, finish=True)


def test_random_bytes_are_hung_up_on(sidecar: Sidecar, address: str) -> None:
    """At the start, and in the place of each later frame."""
    dice = random.Random(7)
    for number in range(200):
        noise = dice.randbytes(dice.choice([1, 9, 100, 20_000]))
        with connect(address) as one:
            try:
                one.sendall((b"", CALL[:24], CALL)[number % 3] + noise)
                one.shutdown(socket.SHUT_WR)
                while one.recv(65_536):
                    pass
            except ConnectionError:
                pass  # it hung up while we were still sending


def silent(address: str) -> dict[str, socket.socket]:
    """Connections whose clients stop in the middle, and stay."""
    at_settings = CALL.index(b"\0", 24)
    body = conversation(grpc_headers(), framed(b"x" * 10_000))
    stops = {
        "at once": b"",
        "in the preface": CALL[:10],
        "behind the preface": CALL[:24],
        "in a frame": CALL[: at_settings + 5],
        "in the request": CALL[: -len(DENIED) - 20],
        "in a body": body[:-5000],
    }
    found = {}
    for name, data in stops.items():
        found[name] = connect(address, timeout=limits.PREFACE_TIMEOUT + limits.REQUEST_TIMEOUT + 10)
        found[name].sendall(data)
    return found


def test_clients_that_stop_in_the_middle_are_hung_up_on_in_time(sidecar: Sidecar) -> None:
    """None of them acknowledges our SETTINGS either. Others are answered meanwhile."""
    waiting = silent(sidecar.socket)
    ended: dict[str, bool] = {}

    def read_to_the_end(name: str, one: socket.socket) -> None:
        with one:
            try:
                while one.recv(65_536):
                    pass
            except ConnectionResetError:
                pass
            ended[name] = True

    readers = [threading.Thread(target=read_to_the_end, args=pair) for pair in waiting.items()]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        assert ANSWERED in call(sidecar.socket)
        readers[0].join(0.2)
        if not readers[0].is_alive():
            readers.sort(key=lambda reader: not reader.is_alive())
    assert ended.keys() == waiting.keys()


def test_a_crowd_that_floods_is_ended_and_the_others_are_served(
    sidecar: Sidecar, address: str
) -> None:
    """Pings, empty frames and resets without end on many connections at a time."""
    ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
    empty = b"\0\0\0\0\0\0\0\0\x01"
    floods: list[Callable[[], bytes]] = [
        lambda: CALL[:24] + b"\0\0\0\x04\0\0\0\0\0" + ping * 20_000,
        lambda: conversation(grpc_headers()) + empty * 20_000,
        lambda: CALL + b"\0\0\0\x04\0\0\0\0\0" * 20_000,
        lambda: CALL + b"\0\0\0\xff\0\0\0\0\0" * 20_000,
    ]
    before = resident(sidecar.process)
    hung_up_on: list[int] = []

    def flood(number: int) -> None:
        with connect(address) as one:
            try:
                one.sendall(floods[number % len(floods)]())
                while one.recv(65_536):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
            hung_up_on.append(number)

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        assert ANSWERED in call(sidecar.socket)
    for thread in threads:
        thread.join()
    assert len(hung_up_on) == len(threads)
    assert resident(sidecar.process) - before < 2 * LEAK_LIMIT
