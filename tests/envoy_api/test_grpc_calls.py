"""What a request asks, and how its message is framed (gRPC over HTTP2)."""

import pytest
from hpack import Decoder

from authz.envoy_api.grpc_calls import (
    ANSWER_HEADERS,
    ANSWER_TRAILERS,
    MAX_MESSAGE,
    OVERDUE_TRAILERS,
    Call,
    Method,
    Refusal,
    Status,
    read_call,
    read_message,
    refusal,
    write_message,
)
from authz.envoy_api.http2.headers import RequestHead
from support.capture import METHOD
from support.http2_client import grpc_headers


def call_of(*args: object, **changes: object) -> Call:
    return read_call(RequestHead(grpc_headers(*args, **changes)))  # type: ignore[arg-type]


def with_fields(**fields: str) -> Call:
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return call_of(extra=extra)


def fields_of(block: bytes) -> dict[str, str]:
    pairs = [(bytes(k), bytes(v)) for k, v in Decoder().decode(block, raw=True)]
    assert len(dict(pairs)) == len(pairs), "no field is there twice"
    return {name.decode(): value.decode() for name, value in pairs}


def told(found: Call | bytes | Refusal) -> tuple[Status, str]:
    """Status and message of a refusal."""
    one = found.refusal if isinstance(found, Call) else found
    assert isinstance(one, Refusal), found
    fields = fields_of(one.block)
    assert int(fields.get("grpc-status", Status.UNKNOWN)) == one.status
    return one.status, fields.get("grpc-message", "")


# Heads


@pytest.mark.parametrize("method", Method)
def test_each_method_is_known_by_its_path(method: Method) -> None:
    call = call_of(method.value.decode())
    assert (call.method, call.timeout, call.refusal) == (method, None, None)


@pytest.mark.parametrize(
    "path", ["/", METHOD + "/", METHOD + "?x", METHOD.lower(), "/grpc.health.v1.Health/List"]
)
def test_any_other_path_is_unimplemented(path: str) -> None:
    assert told(call_of(path)) == (Status.UNIMPLEMENTED, "Method not found!")


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "Application/GRPC", "application/grpc; a=b",
     "application/grpc+proto;x"],
)  # fmt: skip
def test_these_content_types_are_grpc(content_type: str) -> None:
    assert call_of(content_type=content_type).method is Method.CHECK


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "application/grpc-web", "application/grpc+json", "text/plain",
     "application/grpcx"],
)  # fmt: skip
def test_any_other_content_type_is_http_415(content_type: str | None) -> None:
    call = call_of(content_type=content_type)
    assert call.refusal is not None
    assert fields_of(call.refusal.block) == {":status": "415"}


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "post"])
def test_any_other_http_method_is_405(method: str) -> None:
    call = call_of(method=method)
    assert call.refusal is not None
    assert fields_of(call.refusal.block) == {":status": "405", "allow": "POST"}


def test_without_te_trailers_somebody_between_may_lose_the_status() -> None:
    assert told(call_of(te=None)) == (Status.INTERNAL, "the request lacks te: trailers")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1H", 3600), ("2M", 120), ("3S", 3), ("200m", 0.2), ("5u", 5e-6), ("6n", 6e-9),
        ("99999999H", 99_999_999 * 3600), ("00000001S", 1),
    ],
)  # fmt: skip
def test_timeouts_are_read_with_their_unit(value: str, seconds: float) -> None:
    assert with_fields(grpc_timeout=value).timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "S",
        "1s",
        "1h",
        "-1S",
        "1.5S",
        "123456789S",
        "1 S",
        " 1S",
        "1S\t",
        "0x1S",
        "\u0661S",
    ],
)
def test_a_timeout_that_is_none_is_refused(value: str) -> None:
    assert told(with_fields(grpc_timeout=value)) == (
        Status.INTERNAL,
        "Error parsing 'grpc-timeout' metadata",
    )


@pytest.mark.parametrize("value", ["0S", "0n", "00000000H"])
def test_a_timeout_of_nothing_has_passed(value: str) -> None:
    assert told(with_fields(grpc_timeout=value)) == (Status.DEADLINE_EXCEEDED, "Deadline Exceeded")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", ""])
def test_compression_is_refused_and_told_what_there_is(encoding: str) -> None:
    call = with_fields(grpc_encoding=encoding)
    assert told(call) == (Status.UNIMPLEMENTED, "no compression is enabled")
    assert call.refusal is not None
    assert fields_of(call.refusal.block)["grpc-accept-encoding"] == "identity"


def test_identity_is_no_compression() -> None:
    assert with_fields(grpc_encoding="identity").method is Method.CHECK


# Messages


@pytest.mark.parametrize("message", [b"", b"a", bytes(range(256)) * 300])
def test_a_message_is_read_as_it_was_written(message: bytes) -> None:
    assert read_message(write_message(message)) == message


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", Status.UNIMPLEMENTED, "the request ended without its message"),
        (b"\0\0\0\0", Status.INTERNAL, "the prefix of the message is cut short"),
        (b"\0\0\0\0\x02a", Status.INTERNAL, "the message is cut short"),
        (b"\0\0\0\0\x01ab", Status.UNIMPLEMENTED, "the request has more than one message"),
        (b"\0\0\0\0\0" * 2, Status.UNIMPLEMENTED, "the request has more than one message"),
        (b"\x01\0\0\0\x01a", Status.INTERNAL, "Compression bit set but no encoding configured"),
        (b"\x02\0\0\0\x01a", Status.INTERNAL, "the prefix of the message has an unknown flag"),
        (b"\0\xff\xff\xff\xffa", Status.RESOURCE_EXHAUSTED,
         f"Received message larger than max ({MAX_MESSAGE})"),
    ],
)  # fmt: skip
def test_a_body_that_is_not_one_message_is_refused(body: bytes, status: Status, text: str) -> None:
    assert told(read_message(body)) == (status, text)


# Answers


def test_an_answer_says_ok_in_its_trailers() -> None:
    assert fields_of(ANSWER_HEADERS) == {":status": "200", "content-type": "application/grpc"}
    assert fields_of(ANSWER_TRAILERS) == {"grpc-status": "0"}


def test_trailers_have_no_status_of_http() -> None:
    assert fields_of(OVERDUE_TRAILERS) == {"grpc-status": "4", "grpc-message": "Deadline Exceeded"}


def test_a_refusal_is_one_block() -> None:
    assert fields_of(refusal(Status.UNAVAILABLE, "gone").block) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "14",
        "grpc-message": "gone",
    }
    assert "grpc-message" not in fields_of(refusal(Status.NOT_FOUND).block)


def test_messages_are_percent_encoded() -> None:
    """PROTOCOL-HTTP2.md, Percent-Encoded."""
    block = refusal(Status.INTERNAL, "50 % of «it»\n~!").block
    assert fields_of(block)["grpc-message"] == "50 %25 of %C2%ABit%C2%BB%0A~!"
