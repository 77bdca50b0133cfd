"""`grpc.health.v1`: our messages are the protocol's, and calls go as with any other server."""

import grpc
import pytest
from grpc_health.v1 import health_pb2 as theirs

from authz.envoy_api import health, health_pb2
from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.service import AUTHORIZATION_SERVICE
from support.grpc import CheckClient
from support.http2_client import Http2Client, framed, grpc_headers
from support.serving import ServerThread
from support.waiting import wait_until

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


def test_our_messages_are_the_protocols() -> None:
    ours = health_pb2.DESCRIPTOR.message_types_by_name
    for name, message in ours.items():
        their = theirs.DESCRIPTOR.message_types_by_name[name]
        assert [(f.name, f.number, f.type, f.is_repeated) for f in message.fields] == [
            (f.name, f.number, f.type, f.is_repeated) for f in their.fields
        ]
    statuses = health_pb2.HealthCheckResponse.ServingStatus.items()
    assert statuses == theirs.HealthCheckResponse.ServingStatus.items()


@pytest.mark.parametrize("name", ["SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"])
def test_statuses_are_read_as_what_they_say(name: str) -> None:
    response = theirs.HealthCheckResponse.FromString(getattr(health, name))
    assert theirs.HealthCheckResponse.ServingStatus.Name(response.status) == name


@pytest.mark.parametrize(
    ("service", "known"),
    [("", True), (AUTHORIZATION_SERVICE, True), ("other", False), ("grpc.health.v1.Health", False)],
)
def test_only_the_server_and_the_service_are_known(service: str, known: bool) -> None:
    assert health.knows(theirs.HealthCheckRequest(service=service).SerializeToString()) is known


@pytest.mark.parametrize("data", [b"\x0a\x05a", b"\x0a\x01\xff", b"\xff"])
def test_what_is_no_request_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedRequestError, match=r"^not a HealthCheckRequest$"):
        health.knows(data)


def test_a_grpcio_client_checks_and_watches_to_the_end() -> None:
    with ServerThread() as running, CheckClient(running.address) as client:
        assert client.health() == client.health("") == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            client.health("other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        states, unknown = client.watch_health(), client.watch_health("other")
        assert next(states) == "SERVING"
        assert next(unknown) == "SERVICE_UNKNOWN"
        stopping = running.begin(running.server.stop(3600))
        assert list(states) == ["NOT_SERVING"]
        assert list(unknown) == []
        stopping.result(10)


def test_a_malformed_request_gets_internal() -> None:
    with ServerThread() as running, Http2Client(running.address) as client:
        for path in (CHECK, WATCH):
            answer = client.call(grpc_headers(path), framed(b"\xff"))
            assert (answer.grpc_status, answer.grpc_message) == (13, "not a HealthCheckRequest")


def test_a_watch_has_a_deadline_too() -> None:
    with ServerThread() as running, Http2Client(running.address) as client:
        answer = client.call(grpc_headers(WATCH, extra=[(b"grpc-timeout", b"50m")]), framed(b""))
        assert answer.message == health.SERVING
        assert (answer.grpc_status, answer.grpc_message) == (4, "Deadline Exceeded")


def test_a_watch_that_is_taken_back_is_forgotten() -> None:
    with ServerThread() as running, Http2Client(running.address) as client:
        stream_id = client.ask(grpc_headers(WATCH), framed(b""))
        client.until(lambda: client.answers[stream_id].body, "the first status")
        client.h2.reset_stream(stream_id)
        client.flush()
        wait_until(lambda: running.server.counters.calls()["CANCELLED"], "it is counted")
        running.stop(10)
        assert running.server.counters.calls()["OK"] == 0
