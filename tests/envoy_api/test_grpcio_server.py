"""The gRPC server: its sockets, its answers to good and bad calls, its health and its end."""

import asyncio
import os
import signal
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import StartSidecar
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, PingAckReceived

from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.grpcio_server import SOCKET_MODE, GrpcioServer
from authz.envoy_api.service import AUTHORIZATION_SERVICE, CheckService
from authz.settings import SettingsError
from support.capture import METHOD
from support.grpc import CheckClient, check_request, status_of
from support.jwks import claims, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.process import ProcessFailedError
from support.sidecar import KID, Sidecar
from support.waiting import eventually, wait_until

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


@asynccontextmanager
async def serving(service: CheckService, *listen: str) -> AsyncIterator[GrpcioServer]:
    server = GrpcioServer(service, listen)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


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
    folder: Path, umask: int
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
    folder: Path,
) -> None:
    path, address = folder / "authz.sock", f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), f"unix:{path}", address):
        assert await call(address, b"one") == b"one"
        assert await call(f"unix:{path}", b"two") == b"two"
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(folder: Path) -> None:
    path = folder / "authz.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with serving(Service(), f"unix:{path}"):
        assert await call(f"unix:{path}") == b"ping"


async def test_a_live_socket_is_not_stolen(folder: Path) -> None:
    path = folder / "authz.sock"
    async with serving(Service(), f"unix:{path}"):
        with pytest.raises(SettingsError, match="another process is listening"):
            await GrpcioServer(Service(), [f"unix:{path}"]).start()
        assert await call(f"unix:{path}") == b"ping"


async def test_a_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    path = folder / "precious"
    path.write_text("data")
    with pytest.raises(SettingsError, match="is not a socket"):
        await GrpcioServer(Service(), [f"unix:{path}"]).start()
    assert path.read_text() == "data"


async def test_a_symbolic_link_is_not_followed_to_what_is_removed(folder: Path) -> None:
    target, link = folder / "precious", folder / "authz.sock"
    target.write_text("data")
    link.symlink_to(target)
    with pytest.raises(SettingsError, match="is not a socket"):
        await GrpcioServer(Service(), [f"unix:{link}"]).start()
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
    folder: Path, path: str, words: str
) -> None:
    (folder / "file").touch()
    with pytest.raises(SettingsError) as caught:
        await GrpcioServer(Service(), [f"unix:{folder}/{path}"]).start()
    assert str(caught.value).startswith(f"listen: unix:{folder}/{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_port_in_use_is_one_clear_line() -> None:
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), address):
        with pytest.raises(SettingsError, match=f"^listen: {address}: Address already in use$"):
            await GrpcioServer(Service(), [address]).start()
        assert await call(address) == b"ping"


@pytest.mark.parametrize("address", ["192.0.2.1:9191", "host.invalid:9191"])
async def test_an_address_of_another_machine_is_one_clear_line(address: str) -> None:
    with pytest.raises(SettingsError, match=f"^listen: {address}: [A-Z]") as caught:
        await GrpcioServer(Service(), [address]).start()
    assert "\n" not in str(caught.value)


# Calls


async def test_an_answer_may_come_later() -> None:
    async def later(data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data[::-1]

    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(later), address):
        assert await call(address, b"abc") == b"cba"


async def test_a_message_that_is_none_gets_internal_and_the_next_one_is_answered() -> None:
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
async def test_a_bug_gets_internal_tells_nothing_and_ends_nothing(later: bool) -> None:
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
async def test_an_unknown_method_is_unimplemented(method: str) -> None:
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
async def test_what_is_no_http2_is_dropped_and_the_others_are_answered(data: bytes) -> None:
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


async def test_pings_without_calls_are_answered_however_many() -> None:
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
async def test_health_is_told_of_the_server_and_of_the_service(service: str) -> None:
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


async def test_the_health_of_another_service_is_unknown() -> None:
    address = f"{LOOPBACK}:{free_port()}"
    request = health_pb2.HealthCheckRequest(service="envoy.service.auth.v2.Authorization")
    async with serving(Service(), address), channel(address) as line:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_stub(line).Check(request, timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# The end


async def test_an_answer_in_flight_is_finished_and_nothing_new_is_taken() -> None:
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


async def test_an_answer_that_takes_longer_than_the_grace_is_given_up() -> None:
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


async def test_health_watchers_do_not_hold_up_the_end() -> None:
    """They never end by themselves, and the grace is for checks."""
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), address) as server, channel(address) as line:
        watches = [health_stub(line).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        await asyncio.wait_for(server.stop(3600), TIMEOUT)


async def test_a_client_that_keeps_its_connection_costs_the_grace_and_no_more() -> None:
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


async def test_a_watch_of_an_unknown_service_says_so_and_ends_with_the_others() -> None:
    address = f"{LOOPBACK}:{free_port()}"
    async with serving(Service(), address) as server, channel(address) as line:
        watch = health_stub(line).Watch(health_pb2.HealthCheckRequest(service="other"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        await asyncio.wait_for(server.stop(3600), TIMEOUT)
        assert await watch.read() is grpc.aio.EOF


# As a process


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """For tests that leave it as it was."""
    with Sidecar(tmp_path_factory.mktemp("sidecar")) as sidecar:
        yield sidecar


def good_token() -> str:
    return sign(claims(), rsa_key(), kid=KID)


def test_a_killed_sidecars_socket_is_taken_over_by_the_next(start_sidecar: StartSidecar) -> None:
    sidecar = start_sidecar()
    path = Path(sidecar.socket.removeprefix("unix:"))
    sidecar.process.kill()
    assert path.is_socket()
    sidecar.process.start(sidecar.is_ready)
    with CheckClient(sidecar.socket) as client:
        assert status_of(client.check(token=good_token())) == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_bytes_that_are_no_request_leave_the_sidecar_as_it_was(sidecar: Sidecar) -> None:
    for data in (b"\xff" * 100, b"\x0a\xff", os.urandom(64) + b"\xff", b"\x0a" * 1_000_001):
        with pytest.raises(grpc.RpcError) as caught:
            sidecar.client.check_bytes(data)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert status_of(sidecar.client.check(token=good_token())) == 200
    assert status_of(sidecar.client.check(check_request())) == 401
    assert sidecar.client.health() == "SERVING"
    assert "Traceback" not in sidecar.log_text()


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
def test_a_second_sidecar_on_the_same_port_ends_with_one_line(
    sidecar: Sidecar, tmp_path: Path, setting: str
) -> None:
    value = {"listen": [sidecar.address], "http_listen": sidecar.settings["http_listen"]}[setting]
    second = Sidecar(tmp_path / "second", {setting: value})
    try:
        with pytest.raises(ProcessFailedError, match="ended with 2"):
            second.process.start(lambda: False)
        lines = [line for line in second.log_text().splitlines() if not line.startswith("{")]
        assert len(lines) == 1, lines
        assert f"{setting}: " in lines[0]
        assert "in use" in lines[0]
    finally:
        second.close()
    assert sidecar.client.health() == "SERVING"


def test_sigterm_says_not_serving_and_ends_with_0(start_sidecar: StartSidecar) -> None:
    sidecar = start_sidecar()
    states = sidecar.client.watch_health()
    assert next(states) == "SERVING"
    sidecar.process.send(signal.SIGTERM)
    assert next(states) == "NOT_SERVING"
    assert sidecar.process.wait() == 0
    wait_until(
        lambda: not Path(sidecar.socket.removeprefix("unix:")).exists(), "the socket is gone"
    )
