"""The native transport beside every kind of client that there is: each brings an HTTP/2 of its own.

Envoy has files of its own; so have clients that misbehave.
"""

import asyncio
import re
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpclib.client import Channel as GrpclibChannel
from grpclib.const import Cardinality
from grpclib.const import Status as GrpclibStatus
from grpclib.exceptions import GRPCError
from h2.settings import SettingCodes

from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.http2 import limits
from support.capture import METHOD
from support.certificates import Certificates
from support.grpc import CheckClient, check_request, status_of
from support.http2_client import Http2Client, framed, grpc_headers
from support.sidecar import Sidecar
from support.transports import good_token
from support.waiting import wait_until

MANY = 1000
DENIED = framed(bytes(check_request()))
"""A request with no token: 401, and the same bytes each time."""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with Sidecar(tmp_path_factory.mktemp("sidecar"), {"transport": "native"}) as sidecar:
        yield sidecar
        assert "Traceback" not in sidecar.log_text()
        assert '"level": "error"' not in sidecar.log_text()


@pytest.fixture(scope="module")
def tls_sidecar(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Sidecar]:
    """TLS on TCP; the Unix socket is as it always is."""
    listen_tls = {"cert_file": str(certificates.server), "key_file": str(certificates.server_key)}
    folder = tmp_path_factory.mktemp("tls")
    with Sidecar(folder, {"transport": "native", "listen_tls": listen_tls}) as sidecar:
        yield sidecar
        assert "Traceback" not in sidecar.log_text()


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, sidecar: Sidecar) -> str:
    return sidecar.socket if request.param == "unix" else sidecar.address


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A file with the framed check of a good token."""
    path = tmp_path / "body.bin"
    path.write_bytes(framed(bytes(check_request(token=good_token()))))
    return path


def run(*command: str | Path) -> str:
    """What a program has to say, both streams; it must end with 0, and soon."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    return output


# h2, which raises for every byte that RFC 9113 doesn't allow


def test_h2_finds_nothing_wrong_in_an_answer_of_any_kind(address: str) -> None:
    """One connection for all: answers, refusals, large requests, health, pings."""
    with Http2Client(address) as client:
        good = framed(bytes(check_request(token=good_token())))
        assert client.call(grpc_headers(), good).grpc_status == 0
        assert client.call(grpc_headers(), DENIED).grpc_status == 0
        assert client.call(grpc_headers("/x/y"), DENIED).grpc_status == 12
        assert client.call(grpc_headers(method="GET")).http_status == 405
        assert client.call(grpc_headers(), framed(b"\xff" * 3_000_000)).grpc_status == 13
        assert client.call(grpc_headers(), framed(b"\xff" * 5_000_000)).grpc_status == 8
        health = grpc_headers("/grpc.health.v1.Health/Check")
        assert client.call(health, framed(b"")).message == b"\x08\x01"
        client.h2.ping(b"8 octets")
        client.flush()
        assert client.call(grpc_headers(), good).grpc_status == 0
        assert any("Ping" in type(event).__name__ for event in client.events)
        assert client.goaways == []


def test_answers_keep_to_the_windows_of_the_peer(address: str) -> None:
    """A window of 100 bytes, opened bit by bit: `h2` counts. All arrives in the end."""
    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 100}
    with (
        Http2Client(address) as other,
        Http2Client(address, settings=settings, takes_data=False) as client,
    ):
        whole = other.call(grpc_headers(), DENIED)
        answer = client.answers[client.ask(grpc_headers(), DENIED)]
        room = 100
        while room < len(whole.body):
            client.until(lambda: len(answer.body) == room, f"{room} bytes")  # noqa: B023
            assert not answer.over
            client.h2.increment_flow_control_window(7, 1)
            client.flush()
            room += 7
        client.until(lambda: answer.over, "the end")
        assert (answer.body, answer.trailers) == (whole.body, whole.trailers)


# grpcio


def test_grpcios_threads_ask_a_thousand_at_once(address: str) -> None:
    message = bytes(check_request(token=good_token()))
    with CheckClient(address) as client, ThreadPoolExecutor(32) as pool:
        answers = set(pool.map(lambda _: client.check_bytes(message), range(MANY)))
    assert len(answers) == 1


async def test_grpcio_asks_a_thousand_at_once_on_one_connection(address: str) -> None:
    message = bytes(check_request(token=good_token()))
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        answers = await asyncio.gather(*[check(message, timeout=30) for _ in range(MANY)])
        assert len(set(answers)) == 1
        await asyncio.sleep(2.5)  # two keepalive pings on an idle connection
        assert await check(message, timeout=30) == answers[0]


async def test_grpcios_deadlines_and_cancellations_end_the_call_only(address: str) -> None:
    message = bytes(check_request(token=good_token()))
    async with grpc.aio.insecure_channel(address) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        for number in range(50):
            call = check(message, timeout=0.001 * (number % 5))
            await asyncio.sleep(0.0005 * (number % 7))
            call.cancel()
            done = (await asyncio.gather(call, return_exceptions=True))[0]
            assert isinstance(done, bytes | grpc.aio.AioRpcError | asyncio.CancelledError)
        watch = health_pb2_grpc.HealthStub(channel).Watch(  # type: ignore[no-untyped-call]
            health_pb2.HealthCheckRequest()
        )
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        assert await check(message, timeout=30)


@pytest.mark.parametrize("size", [1, 4000, 8000, limits.MAX_HEADER_LIST - 1000])
def test_grpcios_metadata_may_be_as_large_as_is_said(sidecar: Sidecar, size: int) -> None:
    metadata = (("x-large", "v" * size),)
    options = [("grpc.max_metadata_size", 64 * 1024), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(sidecar.socket, options=options) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        assert check(bytes(check_request()), metadata=metadata, timeout=30)


def test_grpcios_statuses_and_texts_are_understood(address: str) -> None:
    with CheckClient(address) as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.check_bytes(b"\xff")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "not a CheckRequest"
        assert client.health() == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            client.health("other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# grpclib


async def test_grpclib_is_answered(sidecar: Sidecar) -> None:
    channel = GrpclibChannel(path=sidecar.socket.removeprefix("unix:"))
    try:
        request = pb.CheckRequest.FromString(bytes(check_request(token=good_token())))
        answers = await asyncio.gather(*[_by_grpclib(channel, METHOD, request) for _ in range(200)])
        assert {answer.status.code for answer in answers} == {0}
        with pytest.raises(GRPCError) as caught:
            await _by_grpclib(channel, "/x/y", request)
        assert caught.value.status is GrpclibStatus.UNIMPLEMENTED
    finally:
        channel.close()


async def _by_grpclib(
    channel: GrpclibChannel, method: str, request: pb.CheckRequest
) -> pb.CheckResponse:
    async with channel.request(
        method, Cardinality.UNARY_UNARY, pb.CheckRequest, pb.CheckResponse, timeout=30
    ) as stream:
        await stream.send_message(request, end=True)
        answer = await stream.recv_message()
        assert answer is not None
        return answer


# curl and nghttp2's tools


def curl(address: str, body: Path, *more: str | Path) -> tuple[str, bytes]:
    """What `-v` shows, and the body."""
    received = body.with_suffix(".out")
    where = ["http://authz.example"]
    if address.startswith("unix:"):
        where += ["--unix-socket", address.removeprefix("unix:")]
    else:
        where = [f"http://{address}"]
    where[0] += METHOD
    output = run(
        "curl", "-sv", "--http2-prior-knowledge", "--max-time", "20",
        "-H", "content-type: application/grpc", "-H", "te: trailers",
        "--data-binary", f"@{body}", "-o", received, *more, *where,
    )  # fmt: skip
    return output, received.read_bytes()


@pytest.mark.needs_tool("curl")
def test_curl_gets_an_answer_and_its_trailers(address: str, body: Path) -> None:
    output, received = curl(address, body)
    assert "< HTTP/2 200" in output
    assert "< content-type: application/grpc" in output
    assert re.search(r"^< grpc-status: 0\r?$", output, re.MULTILINE), output
    assert pb.CheckResponse.FromString(received[5:]).status.code == 0


@pytest.mark.needs_tool("curl")
def test_curl_is_told_by_http_that_it_must_speak_grpc(address: str, body: Path) -> None:
    output, received = curl(address, body, "-H", "content-type: text/plain")
    assert "< HTTP/2 415" in output
    assert received == b""


@pytest.mark.needs_tool("nghttp")
def test_nghttp_sees_the_frames_that_are_due(sidecar: Sidecar, body: Path) -> None:
    """Its own codec prints each; nothing is left over, and it ends in order."""
    output = run(
        "nghttp", "-v", "-n", "--no-dep", "-t", "20", "-d", body,
        "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", ":method: POST",
        f"http://{sidecar.address}{METHOD}",
    )  # fmt: skip
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    received = re.findall(r"recv (?:\(stream_id=\d+\) )?([A-Z_]+|[a-z-]+:)", output)
    frames = [name for name in received if name.isupper()]
    assert frames[0] == "SETTINGS"
    assert [name for name in frames if name in {"HEADERS", "DATA"}] == [
        "HEADERS",
        "DATA",
        "HEADERS",
    ]
    assert "RST_STREAM" not in frames
    assert "GOAWAY" not in frames
    assert "grpc-status: 0" in output
    assert "[ERROR]" not in output


@pytest.mark.needs_tool("h2load")
@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (100, 100), (10, 1000)])
def test_h2load_has_no_call_that_fails(
    address: str, body: Path, clients: int, streams: int
) -> None:
    calls = 20_000 if clients * streams > 1 else 200
    assert_no_failure(h2load(address, body, calls, clients, streams), calls)


def h2load(address: str, body: Path, calls: int, clients: int, streams: int) -> str:
    base = ["-B", address] if address.startswith("unix:") else []
    url = "http://authz" if base else f"http://{address}"
    return run(
        "h2load", "-n", str(calls), "-c", str(clients), "-m", str(streams), "-t", "1", "-T", "30s",
        "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers",
        *base, f"{url}{METHOD}",
    )  # fmt: skip


def assert_no_failure(output: str, calls: int) -> None:
    done = re.search(r"(\d+) total, .* (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    assert done, output
    assert [int(number) for number in done.groups()] == [calls, calls, 0, 0], output


# TLS


def check_by_tls(address: str, certificates: Certificates, *, client: bool = False) -> bytes:
    credentials = grpc.ssl_channel_credentials(
        certificates.ca.read_bytes(),
        certificates.client_key.read_bytes() if client else None,
        certificates.client.read_bytes() if client else None,
    )
    options = [
        ("grpc.ssl_target_name_override", "localhost"),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        return check(bytes(check_request(token=good_token())), timeout=20)


def test_grpcio_is_answered_over_tls(tls_sidecar: Sidecar, certificates: Certificates) -> None:
    answer = check_by_tls(tls_sidecar.address, certificates)
    assert pb.CheckResponse.FromString(answer).status.code == 0
    assert status_of(tls_sidecar.client.check(token=good_token())) == 200, "on the Unix socket"


def client_context(
    certificates: Certificates, protocols: Sequence[str] = ("h2",)
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def test_h2_finds_nothing_wrong_over_tls(tls_sidecar: Sidecar, certificates: Certificates) -> None:
    with Http2Client(tls_sidecar.address, tls=client_context(certificates)) as client:
        for size in (0, 20_000, 300_000):
            body = framed(b"\xff" * size)
            assert client.call(grpc_headers(), body).grpc_status == (13 if size else 0)
        assert client.goaways == []


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_a_client_that_agrees_on_no_h2_is_hung_up_on(
    tls_sidecar: Sidecar, certificates: Certificates, protocols: Sequence[str]
) -> None:
    with (
        pytest.raises(OSError),  # noqa: PT011  a reset, an EOF, or an alert: OpenSSL's choice
        Http2Client(tls_sidecar.address, tls=client_context(certificates, protocols)) as client,
    ):
        client.call(grpc_headers(), DENIED)
    assert check_by_tls(tls_sidecar.address, certificates)


def test_plain_http2_on_a_tls_port_is_hung_up_on(
    tls_sidecar: Sidecar, certificates: Certificates
) -> None:
    with pytest.raises(OSError), Http2Client(tls_sidecar.address) as client:  # noqa: PT011
        client.call(grpc_headers(), DENIED)
    assert check_by_tls(tls_sidecar.address, certificates)


@pytest.mark.needs_tool("curl")
def test_curl_is_answered_over_tls(
    tls_sidecar: Sidecar, certificates: Certificates, body: Path
) -> None:
    received = body.with_suffix(".out")
    output = run(
        "curl", "-sv", "--http2", "--max-time", "20", "--cacert", certificates.ca,
        "-H", "content-type: application/grpc", "-H", "te: trailers",
        "--data-binary", f"@{body}", "-o", received,
        f"https://localhost:{tls_sidecar.port}{METHOD}",
        "--resolve", f"localhost:{tls_sidecar.port}:127.0.0.1",
    )  # fmt: skip
    assert "server accepted h2" in output
    assert "grpc-status: 0" in output


def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(
    tmp_path: Path, certificates: Certificates
) -> None:
    listen_tls = {
        "cert_file": str(certificates.server),
        "key_file": str(certificates.server_key),
        "client_ca_file": str(certificates.ca),
    }
    settings = {"transport": "native", "listen_tls": listen_tls}
    with Sidecar(tmp_path / "sidecar", settings) as sidecar:
        with pytest.raises(grpc.RpcError) as caught:
            check_by_tls(sidecar.address, certificates)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert check_by_tls(sidecar.address, certificates, client=True)
        wait_until(sidecar.is_ready, "still there")
        assert "Traceback" not in sidecar.log_text()
