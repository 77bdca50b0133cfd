"""How a server takes its leave is alike on both transports: watchers, checks under way, GOAWAY."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import StartSidecar
from grpc_health.v1 import health_pb2

from authz.envoy_api.grpc_calls import HEALTH_SERVICE
from support.grpc import CHECK_SERVICE, check_request
from support.http2_client import Answer, Http2Client, framed, grpc_headers
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.sidecar import NO_FEED, Sidecar
from support.transports import TRANSPORTS, good_token, outcome_of
from support.valkey import ValkeyServer
from support.waiting import wait_until

STATUS = health_pb2.HealthCheckResponse.ServingStatus
WATCH = grpc_headers(f"/{HEALTH_SERVICE}/Watch")


def watched(service: str) -> bytes:
    return framed(health_pb2.HealthCheckRequest(service=service).SerializeToString())


def states(answer: Answer) -> list[str]:
    """What a watcher was told so far."""
    found, rest = [], answer.body
    while rest:
        size = int.from_bytes(rest[1:5], "big")
        message = health_pb2.HealthCheckResponse.FromString(rest[5 : 5 + size])
        found.append(str(STATUS.Name(message.status)))
        rest = rest[5 + size :]
    return found


@pytest.fixture
def line(tmp_path: Path) -> Iterator[TcpProxy]:
    with ValkeyServer(tmp_path / "store") as server, TcpProxy(server.port) as proxy:
        yield proxy


def start(start_sidecar: StartSidecar, transport: str, line: TcpProxy) -> Sidecar:
    url = f"redis://{LOOPBACK}:{line.port}"
    sidecar = start_sidecar(
        {"transport": transport, "store": {"url": url, "timeout": "4s"}, "feed": NO_FEED}
    )
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
    return sidecar


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_watchers_are_told_of_the_end_and_their_calls_end(
    start_sidecar: StartSidecar, line: TcpProxy, transport: str
) -> None:
    sidecar = start(start_sidecar, transport, line)
    with Http2Client(sidecar.socket) as client:
        known, whole, other = (
            client.ask(WATCH, watched(service)) for service in (CHECK_SERVICE, "", "other")
        )
        for number, state in ((known, "SERVING"), (whole, "SERVING"), (other, "SERVICE_UNKNOWN")):
            client.until(lambda n=number: client.answers[n].body, "the present state")  # type: ignore[misc]
            assert states(client.answers[number]) == [state]
        sidecar.process.send(signal.SIGTERM)
        answers = [client.answer(number) for number in (known, whole, other)]
        assert [states(answer) for answer in answers] == [
            ["SERVING", "NOT_SERVING"],
            ["SERVING", "NOT_SERVING"],
            ["SERVICE_UNKNOWN"],
        ]
        assert {answer.grpc_status for answer in answers} == {0}
        while client.read():
            pass
        assert client.goaway is not None
        assert client.goaway.error_code == 0
    assert sidecar.process.wait() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_was_asked_before_the_end_is_answered_and_nothing_after_it(
    start_sidecar: StartSidecar, line: TcpProxy, transport: str
) -> None:
    """GOAWAY comes while checks wait for the store. They are answered, and the last GOAWAY says
    that they were; nobody gets a connection any more.
    """
    sidecar = start(start_sidecar, transport, line)
    body = framed(bytes(check_request(token=good_token())))
    with Http2Client(sidecar.socket) as client:
        client.call(grpc_headers(), framed(b""))
        line.block("to_client")
        numbers = [client.ask(grpc_headers(), body) for _ in range(10)]
        client.call(grpc_headers(), framed(b""))  # so it has read what came before
        sidecar.process.send(signal.SIGTERM)
        client.until(lambda: client.goaway, "GOAWAY")
        path = Path(sidecar.socket.removeprefix("unix:"))
        wait_until(lambda: not path.exists(), "the socket's file is gone")
        line.restore()
        outcomes = {outcome_of(client.answer(number)) for number in numbers}
        assert len(outcomes) == 1
        assert outcomes.pop().grpc == 0
        while client.read():
            pass
        assert client.goaway is not None
        assert (client.goaway.error_code, client.goaway.last_stream_id) == (0, numbers[-1] + 2)
    assert sidecar.process.wait() == 0
    assert "Traceback" not in sidecar.log_text()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_check_that_outlasts_the_drain_is_told_that_nobody_is_there(
    start_sidecar: StartSidecar, line: TcpProxy, transport: str
) -> None:
    """UNAVAILABLE means to try again, elsewhere (gRPC status codes)."""
    url = f"redis://{LOOPBACK}:{line.port}"
    sidecar = start_sidecar(
        {
            "transport": transport,
            "store": {"url": url, "timeout": "8s"},
            "feed": NO_FEED,
            "drain_timeout": "200ms",
        }
    )
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
    with Http2Client(sidecar.socket) as client:
        line.block("to_client")
        number = client.ask(grpc_headers(), framed(bytes(check_request(token=good_token()))))
        client.call(grpc_headers(), framed(b""))  # so it has read the one before
        sidecar.process.send(signal.SIGTERM)
        answer = client.answer(number)
        if transport == "native":
            assert (answer.grpc_status, answer.grpc_message) == (14, "the server is stopping")
        else:
            assert answer.grpc_status in {1, 14} or answer.reset is not None
    assert sidecar.process.wait() == 0
