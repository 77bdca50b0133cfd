"""What both servers do: their sockets, their answers to good and bad calls, health, and the end."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, PingAckReceived

from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.grpcio_server import GrpcioServer
from authz.envoy_api.open import CheckServer
from authz.envoy_api.server import NativeServer
from authz.envoy_api.service import AUTHORIZATION_SERVICE, CheckService
from authz.envoy_api.sockets import SOCKET_MODE
from authz.settings import SettingsError
from support.capture import METHOD
from support.ports import LOOPBACK, free_port
from support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TIMEOUT = 10.0
"""Seconds; nothing here should take one."""


class Service(CheckService):
    """Answers with what it was sent, or does as the test says."""

    def __init__(self, answer: Callable[[bytes], bytes | Awaitable[bytes]] = bytes) -> None:
        self._answer = answer
        self.asked: list[bytes] = []

    def check(self, data: bytes) -> bytes | Awaitable[bytes]:
        self.asked.append(data)
        return self._answer(data)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's must fit into 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="authz-") as folder:
        yield Path(folder)


MakeServer = Callable[..., CheckServer]
Serving = Callable[..., AbstractAsyncContextManager[CheckServer]]


@pytest.fixture(params=["native", "grpcio"])
def make_server(request: pytest.FixtureRequest) -> MakeServer:
    """Make a server: `make_server(service, ["unix:/path"])`."""
    return {"native": NativeServer, "grpcio": GrpcioServer}[request.param]


@pytest.fixture
def serving(make_server: MakeServer) -> Serving:
    """Start a server, and stop it in the end: `serving(service, "unix:/path", "host:port")`."""

    @asynccontextmanager
    async def start(service: CheckService, *listen: str) -> AsyncIterator[CheckServer]:
        server = make_server(service, listen)
        await server.start()
        try:
            yield server
        finally:
            await server.stop(0)

    return start


@asynccontextmanager
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def call(address: str, data: bytes = b"ping", *, method: str = METHOD) -> bytes:
    async with channel(address) as line:
        stub: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = line.unary_unary(method)
        return await stub(data, timeout=TIMEOUT)


async def failure(address: str, data: bytes = b"", *, method: str = METHOD) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, data, method=method)
    return caught.value


def health_stub(line: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(line)  # type: ignore[no-untyped-call]


# Sockets


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_a_unix_socket_is_for_owner_and_group_whatever_the_umask(
    serving: Serving, folder: Path, umask: int
) -> None:
    path = folder / "authz.sock"
    before = os.umask(umask)
    try:
        async with serving(Service(), f"unix:{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == SOCKET_MODE == 0o660
            assert os.umask(umask) == umask, "the process's own umask is as it was"
            assert await call(f"unix:{path}") == b"ping"
    finally:
        os.umask(before)


async def test_tcp_and_unix_are_served_side_by_side_and_the_socket_file_goes_in_the_end(
    serving: Serving,
    folder: Path,
) -> None:
    path, address = folder / "authz.sock", f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), f"unix:{path}", address):
        assert await call(address, b"one") == b"one"
        assert await call(f"unix:{path}", b"two") == b"two"
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(serving: Serving, folder: Path) -> None:
    path = folder / "authz.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with serving(Service(), f"unix:{path}"):
        assert await call(f"unix:{path}") == b"ping"


async def test_a_live_socket_is_not_stolen(
    serving: Serving, make_server: MakeServer, folder: Path
) -> None:
    path = folder / "authz.sock"
    async with serving(Service(), f"unix:{path}"):
        with pytest.raises(SettingsError, match="another process is listening"):
            await make_server(Service(), [f"unix:{path}"]).start()
        assert await call(f"unix:{path}") == b"ping"


async def test_a_file_that_is_no_socket_is_left_alone(
    make_server: MakeServer, folder: Path
) -> None:
    path = folder / "precious"
    path.write_text("data")
    with pytest.raises(SettingsError, match="is not a socket"):
        await make_server(Service(), [f"unix:{path}"]).start()
    assert path.read_text() == "data"


async def test_a_symbolic_link_is_not_followed_to_what_is_removed(
    make_server: MakeServer, folder: Path
) -> None:
    target, link = folder / "precious", folder / "authz.sock"
    target.write_text("data")
    link.symlink_to(target)
    with pytest.raises(SettingsError, match="is not a socket"):
        await make_server(Service(), [f"unix:{link}"]).start()
    assert target.read_text() == "data"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/authz.sock", "does not exist"),
        ("a" * 108, "107 bytes"),
        ("file/authz.sock", "Not a directory"),
    ],
)
async def test_a_socket_that_cannot_be_is_one_clear_line(
    make_server: MakeServer, folder: Path, path: str, words: str
) -> None:
    (folder / "file").touch()
    with pytest.raises(SettingsError) as caught:
        await make_server(Service(), [f"unix:{folder}/{path}"]).start()
    assert str(caught.value).startswith(f"listen: unix:{folder}/{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_port_in_use_is_one_clear_line(serving: Serving, make_server: MakeServer) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), address):
        with pytest.raises(SettingsError, match=f"^listen: {address}: Address already in use$"):
            await make_server(Service(), [address]).start()
        assert await call(address) == b"ping"


@pytest.mark.parametrize("address", ["192.0.2.1:9191", "host.invalid:9191"])
async def test_an_address_of_another_machine_is_one_clear_line(
    make_server: MakeServer, address: str
) -> None:
    with pytest.raises(SettingsError, match=f"^listen: {address}: [A-Z]") as caught:
        await make_server(Service(), [address]).start()
    assert "\n" not in str(caught.value)


# Calls


async def test_an_answer_may_come_later(serving: Serving) -> None:
    async def later(data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data[::-1]

    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(later), address):
        assert await call(address, b"abc") == b"cba"


async def test_a_message_that_is_none_gets_internal_and_the_next_one_is_answered(
    serving: Serving,
) -> None:
    def picky(data: bytes) -> bytes:
        if data == b"bad":
            raise MalformedRequestError("not a CheckRequest")
        return data

    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(picky), address):
        error = await failure(address, b"bad")
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "not a CheckRequest")
        assert await call(address, b"good") == b"good"


@pytest.mark.parametrize("later", [False, True])
async def test_a_bug_gets_internal_tells_nothing_and_ends_nothing(
    serving: Serving, later: bool
) -> None:
    """An error of ours is an error to Envoy (`failure_mode_allow: false`), never an answer."""

    def broken(data: bytes) -> bytes | Awaitable[bytes]:
        if data != b"bad":
            return data
        if later:
            return broken_later()
        raise RuntimeError("secret")

    async def broken_later() -> bytes:
        raise RuntimeError("secret")

    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(broken), address):
        error = await failure(address, b"bad")
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "the check failed")
        assert await call(address) == b"ping"


@pytest.mark.parametrize(
    "method",
    [
        f"/{AUTHORIZATION_SERVICE}/Delete",
        "/envoy.service.auth.v2.Authorization/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/",
    ],
)
async def test_an_unknown_method_is_unimplemented(serving: Serving, method: str) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    service = Service()
    async with serving(service, address):
        assert (await failure(address, method=method)).code() is grpc.StatusCode.UNIMPLEMENTED
    assert service.asked == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"\x00" * 4096,
    ],
    ids=["HTTP/1.1", "TLS", "bad frames", "zeros"],
)
async def test_what_is_no_http2_is_dropped_and_the_others_are_answered(
    serving: Serving, data: bytes
) -> None:
    port = free_port()
    async with serving(Service(), f"{LOOPBACK}:{port}"):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(data)
        async with asyncio.timeout(TIMEOUT):
            if b"bad" in data:
                await reader.read()
            await writer.drain()
        assert await call(f"{LOOPBACK}:{port}") == b"ping"
        writer.close()


async def test_pings_without_calls_are_answered_however_many(serving: Serving) -> None:
    """Envoy's `connection_keepalive`: grpcio would end the connection after a few."""
    port, pings = free_port(), 10
    connection = H2Connection(H2Configuration())
    connection.initiate_connection()
    seen: list[Event] = []
    async with serving(Service(), f"{LOOPBACK}:{port}"):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        async with asyncio.timeout(TIMEOUT):
            for number in range(pings):
                connection.ping(number.to_bytes(8, "big"))
                writer.write(connection.data_to_send())
                while not _acknowledged(seen, number):
                    data = await reader.read(65_536)
                    assert data, f"closed after {number} pings"
                    seen += connection.receive_data(data)
                    writer.write(connection.data_to_send())
        writer.close()
    assert not [event for event in seen if isinstance(event, ConnectionTerminated)]


def _acknowledged(events: list[Event], number: int) -> bool:
    return any(
        isinstance(event, PingAckReceived) and event.ping_data == number.to_bytes(8, "big")
        for event in events
    )


# Health


@pytest.mark.parametrize("service", ["", AUTHORIZATION_SERVICE])
async def test_health_is_told_of_the_server_and_of_the_service(
    serving: Serving, service: str
) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    request = health_pb2.HealthCheckRequest(service=service)
    async with serving(Service(), address) as server, channel(address) as line:
        stub = health_stub(line)
        assert (await stub.Check(request, timeout=TIMEOUT)).status == SERVING
        watch = stub.Watch(request)
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(server.stop(5))
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.wait_for(stopping, TIMEOUT)


async def test_the_health_of_another_service_is_unknown(serving: Serving) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    request = health_pb2.HealthCheckRequest(service="envoy.service.auth.v2.Authorization")
    async with serving(Service(), address), channel(address) as line:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_stub(line).Check(request, timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# The end


async def test_an_answer_in_flight_is_finished_and_nothing_new_is_taken(serving: Serving) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def held(data: bytes) -> bytes:
        asked.set()
        await release.wait()
        return data

    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(held), address) as server:
        waiting = asyncio.create_task(call(address, b"held"))
        await asked.wait()
        stopping = asyncio.create_task(server.stop(TIMEOUT))
        await eventually(lambda: _refuses(address), "no new calls are taken")
        assert not stopping.done()
        release.set()
        assert await waiting == b"held"
        await asyncio.wait_for(stopping, TIMEOUT)


async def _refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False


async def test_an_answer_that_takes_longer_than_the_grace_is_given_up(serving: Serving) -> None:
    asked = asyncio.Event()

    async def hung(_: bytes) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(hung), address) as server:
        waiting = asyncio.create_task(failure(address, b"hung"))
        await asked.wait()
        await asyncio.wait_for(server.stop(0.05), TIMEOUT)
        assert (await waiting).code() in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        }


async def test_health_watchers_do_not_hold_up_the_end(serving: Serving) -> None:
    """They never end by themselves, and the grace is for checks."""
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), address) as server, channel(address) as line:
        watches = [health_stub(line).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        await asyncio.wait_for(server.stop(3600), TIMEOUT)


async def test_a_client_that_keeps_its_connection_costs_the_grace_and_no_more(
    serving: Serving,
) -> None:
    """One that doesn't heed GOAWAY."""
    port = free_port()
    connection = H2Connection(H2Configuration())
    connection.initiate_connection()
    async with serving(Service(), f"{LOOPBACK}:{port}") as server:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(connection.data_to_send())
        assert await reader.read(1), "it has been accepted"
        await asyncio.wait_for(server.stop(0.05), TIMEOUT)
        writer.close()


async def test_a_watch_of_an_unknown_service_says_so_and_ends_with_the_others(
    serving: Serving,
) -> None:
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), address) as server, channel(address) as line:
        watch = health_stub(line).Watch(health_pb2.HealthCheckRequest(service="other"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        await asyncio.wait_for(server.stop(3600), TIMEOUT)
        assert await watch.read() is grpc.aio.EOF
