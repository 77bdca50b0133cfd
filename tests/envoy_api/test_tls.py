"""TLS of both servers: ALPN, client certificates, files that can't be used, and new files."""

import shutil
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from conftest import StartSidecar

from authz.envoy_api import server
from authz.envoy_api.grpcio_server import GrpcioServer
from authz.envoy_api.health import SERVING
from authz.envoy_api.tls import server_context
from authz.settings import ListenTlsSettings, SettingsError
from support.capture import METHOD
from support.certificates import Certificates, make_certificates
from support.http2_client import Http2Client, connect, framed, grpc_headers
from support.ports import LOOPBACK, free_port
from support.serving import LOOPS, ServerThread
from support.waiting import wait_until


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def own(tmp_path: Path) -> Certificates:
    """A set of the test's own, which it may change."""
    return make_certificates(tmp_path)


def settings_of(files: Certificates, **changes: Path) -> ListenTlsSettings:
    return ListenTlsSettings(cert_file=files.server, key_file=files.server_key).model_copy(
        update=changes
    )


def client_context(files: Certificates, *alpn: str, certificate: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate:
        context.load_cert_chain(files.client, files.client_key)
    return context


def served(address: str, context: ssl.SSLContext) -> bytes:
    """The answer to a check; OSError where there is no such thing."""
    with Http2Client(address, tls=context) as client:
        return client.call(grpc_headers(), framed(b"hello")).message


# The native server


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_checks_over_tls(loop: str, certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = client_context(certificates, "h2", "http/1.1")
    context.minimum_version = context.maximum_version = version
    with (
        ServerThread(loop=loop, tls=settings_of(certificates)) as running,
        Http2Client(running.address, tls=context) as client,
    ):
        assert client.call(grpc_headers(), framed(b"x")).message == b"x"
        assert isinstance(client.line, ssl.SSLSocket)
        assert client.line.selected_alpn_protocol() == "h2"
        large = client.call(grpc_headers(), framed(bytes(1_000_000)))
        assert large.message == bytes(1_000_000)


def test_a_unix_socket_stays_without_tls(
    loop: str, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    listen = (f"unix:{path}", f"{LOOPBACK}:0")
    with ServerThread(loop=loop, tls=settings_of(certificates), listen=listen) as running:
        with Http2Client(f"unix:{path}") as client:
            assert client.call(grpc_headers(), framed(b"x")).message == b"x"
        assert served(running.server.addresses[1], client_context(certificates, "h2")) == b"hello"


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_a_client_that_does_not_offer_h2_is_closed(
    loop: str, certificates: Certificates, alpn: tuple[str, ...]
) -> None:
    with ServerThread(loop=loop, tls=settings_of(certificates)) as running:
        with connect(running.address) as line:
            context = client_context(certificates, *alpn)
            with context.wrap_socket(line, server_hostname="localhost") as secure:
                assert secure.recv(1) == b"", "not even SETTINGS"
        wait_until(lambda: running.server.counters.refused["tls"] == 1, "it is counted")
        wait_until(lambda: running.server.connections == 0, "it is gone")
        assert served(running.address, client_context(certificates, "h2")) == b"hello"


def test_old_tls_and_no_tls_are_refused_and_nothing_is_logged(
    loop: str, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    with ServerThread(loop=loop, tls=settings_of(certificates)) as running:
        with connect(running.address) as line:
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            with suppress(OSError):
                while line.recv(4096):
                    pass
        wait_until(lambda: running.server.counters.refused["tls"] == 1, "plain text is counted")
        wait_until(lambda: running.server.connections == 0, "it is gone")
    assert not caplog.records


def test_a_handshake_that_does_not_come_is_not_waited_for(
    loop: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 0.1)
    with ServerThread(loop=loop, tls=settings_of(certificates)) as running:
        with connect(running.address) as line, suppress(OSError):
            assert line.recv(1) == b""
        wait_until(lambda: running.server.connections == 0, "it is given up")
        assert running.server.counters.refused == {"limit": 0, "tls": 1}


def test_unfinished_handshakes_count_as_connections(
    loop: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    with (
        ServerThread(loop=loop, tls=settings_of(certificates)) as running,
        connect(running.address),
    ):
        wait_until(lambda: running.server.connections == 1, "the first is taken")
        with connect(running.address) as second, suppress(OSError):
            assert second.recv(1) == b""
        wait_until(lambda: running.server.counters.refused["limit"] == 1, "it is refused")


def test_only_clients_of_the_client_ca_come_in(loop: str, certificates: Certificates) -> None:
    tls = settings_of(certificates, client_ca_file=certificates.ca)
    with ServerThread(loop=loop, tls=tls) as running:
        known = client_context(certificates, "h2", certificate=True)
        assert served(running.address, known) == b"hello"
        with pytest.raises(OSError):  # noqa: PT011  the alert's number is OpenSSL's to choose
            served(running.address, client_context(certificates, "h2"))
        wait_until(lambda: running.server.counters.refused["tls"] == 1, "it is counted")


def test_new_certificates_are_for_new_connections(
    loop: str, own: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fresh = make_certificates(tmp_path_factory.mktemp("fresh"))
    before = client_context(own, "h2")
    with (
        ServerThread(loop=loop, tls=settings_of(own)) as running,
        Http2Client(running.address, tls=before) as old,
    ):
        assert old.call(grpc_headers(), framed(b"x")).message == b"x"
        for name in ("server", "server_key"):
            shutil.copy(getattr(fresh, name), getattr(own, name))
        running.call(running.server.reload_tls)
        assert served(running.address, client_context(fresh, "h2")) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            served(running.address, before)
        assert old.call(grpc_headers(), framed(b"y")).message == b"y"


def test_a_client_ca_that_is_taken_out_is_trusted_no_more(loop: str, own: Certificates) -> None:
    tls = settings_of(own, client_ca_file=own.ca)
    known = client_context(own, "h2", certificate=True)
    with ServerThread(loop=loop, tls=tls) as running:
        assert served(running.address, known) == b"hello"
        own.ca.write_bytes(own.other_ca.read_bytes())
        running.call(running.server.reload_tls)
        with pytest.raises(OSError):  # noqa: PT011
            served(running.address, known)


@pytest.mark.parametrize("broken", ["cert_file", "key_file"])
def test_new_files_that_cannot_be_used_change_nothing_and_are_logged(
    loop: str, own: Certificates, broken: str
) -> None:
    path = {"cert_file": own.server, "key_file": own.server_key}[broken]
    with ServerThread(loop=loop, tls=settings_of(own)) as running:
        path.write_text("half a file")
        with structlog.testing.capture_logs() as logs:
            running.call(running.server.reload_tls)
        assert [line["event"] for line in logs] == ["listen_tls_unusable"]
        assert str(path) in logs[0]["problem"]
        assert served(running.address, client_context(own, "h2")) == b"hello"


def test_a_peer_with_tls_is_drained_like_any_other(loop: str, certificates: Certificates) -> None:
    with ServerThread(loop=loop, tls=settings_of(certificates)) as running:
        channel = grpc.secure_channel(
            running.address.replace(LOOPBACK, "localhost"),
            grpc.ssl_channel_credentials(certificates.ca.read_bytes()),
        )
        with channel:
            stub: Any = channel.unary_unary(METHOD)
            assert stub(b"x", timeout=10) == b"x"
            running.stop(5)
        assert running.server.connections == 0


# Both


Make = Callable[[ListenTlsSettings], object]


@pytest.fixture(params=["context", "native", "grpcio"])
def make(request: pytest.FixtureRequest) -> Make:
    """What reads the settings: the function, and the two servers by it."""

    class Checks:
        def check(self, data: bytes) -> bytes:
            return data

    makers: dict[str, Make] = {
        "context": server_context,
        "native": lambda tls: server.NativeServer(Checks(), tls=tls),
        "grpcio": lambda tls: GrpcioServer(Checks(), [], tls=tls),
    }
    return makers[request.param]


@pytest.mark.parametrize("name", ["cert_file", "key_file", "client_ca_file"])
async def test_a_file_that_is_not_there_is_named(
    certificates: Certificates, make: Make, name: str, tmp_path: Path
) -> None:
    absent = tmp_path / "absent.pem"
    with pytest.raises(SettingsError, match=f"^listen_tls.{name}: {absent}: No such file"):
        make(settings_of(certificates, **{name: absent}))


@pytest.mark.parametrize("name", ["cert_file", "key_file", "client_ca_file"])
async def test_a_file_that_is_no_pem_is_named(
    certificates: Certificates, make: Make, name: str, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"\x00junk")
    with pytest.raises(SettingsError, match=rf"^listen_tls\.\w+.*{junk}") as caught:
        make(settings_of(certificates, **{name: junk}))
    assert "\n" not in str(caught.value)


async def test_a_key_of_another_certificate_is_said_so(
    certificates: Certificates, make: Make
) -> None:
    with pytest.raises(SettingsError, match="key values mismatch"):
        make(settings_of(certificates, key_file=certificates.client_key))


async def test_grpcio_serves_by_tls_and_takes_new_certificates(
    own: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    class Checks:
        def check(self, data: bytes) -> bytes:
            return data

    async def ask(files: Certificates) -> bytes:
        credentials = grpc.ssl_channel_credentials(
            files.ca.read_bytes(), files.client_key.read_bytes(), files.client.read_bytes()
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"localhost:{port}"
        async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
            stub: Any = channel.unary_unary(METHOD)
            return bytes(await stub(b"x", timeout=10))

    fresh, port = make_certificates(tmp_path_factory.mktemp("fresh")), free_port()
    tls = settings_of(own, client_ca_file=own.ca)
    grpcio = GrpcioServer(Checks(), [f"{LOOPBACK}:{port}"], tls=tls)
    await grpcio.start()
    try:
        assert await ask(own) == b"x"
        for name in ("server", "server_key", "ca"):
            shutil.copy(getattr(fresh, name), getattr(own, name))
        grpcio.reload_tls()
        assert await ask(fresh) == b"x"
        own.server.write_text("broken")
        with structlog.testing.capture_logs() as logs:
            grpcio.reload_tls()
        assert [line["event"] for line in logs] == ["listen_tls_unusable"]
        assert await ask(fresh) == b"x"
    finally:
        await grpcio.stop(0)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_sighup_takes_new_certificates(
    own: Certificates,
    start_sidecar: StartSidecar,
    tmp_path_factory: pytest.TempPathFactory,
    transport: str,
) -> None:
    fresh = make_certificates(tmp_path_factory.mktemp("fresh"))
    tls = {"cert_file": str(own.server), "key_file": str(own.server_key)}
    before, after = client_context(own, "h2"), client_context(fresh, "h2")
    sidecar = start_sidecar({"transport": transport, "listen_tls": tls})

    def is_served(context: ssl.SSLContext) -> bool:
        try:
            with Http2Client(sidecar.address, tls=context) as client:
                health = grpc_headers("/grpc.health.v1.Health/Check")
                return client.call(health, framed(b"")).message == SERVING
        except ssl.SSLCertVerificationError:
            return False

    assert is_served(before)
    assert not is_served(after)
    for name in ("server", "server_key"):
        shutil.copy(getattr(fresh, name), getattr(own, name))
    sidecar.reload()
    wait_until(lambda: is_served(after), "the new certificate is shown")
    assert not is_served(before)
    assert sidecar.client.health() == "SERVING", "on the Unix socket there is no TLS"


def test_a_plain_socket_is_no_tls(certificates: Certificates) -> None:
    """The client of these tests would notice."""
    with ServerThread() as running, socket.socket(), pytest.raises(ssl.SSLError):
        served(running.address, client_context(certificates, "h2"))
