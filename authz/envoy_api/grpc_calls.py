"""gRPC over HTTP/2 for calls of one message each way: what a request asks, and what answers it.

Sources: "gRPC over HTTP2" (PROTOCOL-HTTP2.md), "gRPC status codes" (statuscodes.md) and "gRPC
compression" (compression.md) of the gRPC project. Where these leave room, statuses and texts are
those of grpcio's server, which is the other transport. It differs on purpose in three things: it
ignores the content type, waits for ever where a request ends without its message, and answers the
first of several messages.
"""

import re
from enum import Enum, IntEnum
from functools import cache
from struct import Struct
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

from authz.envoy_api.http2.headers import Field, RequestHead, encode_block
from authz.envoy_api.http2.limits import MAX_HEADER_LIST
from authz.envoy_api.service import AUTHORIZATION_SERVICE

HEALTH_SERVICE = "grpc.health.v1.Health"

MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of a message; gRPC's own default. Envoy sends no body unless told to (`with_request_body`),
and then cuts it where `max_request_bytes` says."""

TIMEOUT_DIGITS = 8
"""Of `grpc-timeout`, at most (PROTOCOL-HTTP2.md, TimeoutValue)."""

_PREFIX = Struct(">BI")
"""Compressed-Flag and Message-Length."""
_COMPRESSED = 1


class Status(IntEnum):
    """The status codes that are given out here."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Method(Enum):
    """What can be called; the value is the path."""

    CHECK = f"/{AUTHORIZATION_SERVICE}/Check".encode()
    HEALTH_CHECK = f"/{HEALTH_SERVICE}/Check".encode()
    HEALTH_WATCH = f"/{HEALTH_SERVICE}/Watch".encode()


class Refusal(NamedTuple):
    """An answer that carries no message."""

    status: Status
    block: bytes
    """Of one HEADERS frame that also ends the stream (Trailers-Only)."""


class Call:
    """What the head of a request asks for: a method, or the refusal that it gets."""

    __slots__ = ("method", "refusal", "timeout")

    def __init__(
        self,
        method: Method | None = None,
        timeout: float | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        self.method = method
        self.timeout = timeout
        """Seconds after which no answer is wanted; None: it is waited for without end."""
        self.refusal = refusal


def read_call(head: RequestHead) -> Call:
    """Equal heads make equal calls, so `head.call` may keep it."""
    fields = dict(head.headers)
    if head.method != b"POST":
        return Call(refusal=_NOT_POST)
    if not _CONTENT_TYPE.fullmatch(fields.get(b"content-type", b"")):
        return Call(refusal=_NOT_GRPC)
    if b"te" not in fields:  # a proxy between that doesn't know trailers would lose the status
        return Call(refusal=refusal(Status.INTERNAL, "the request lacks te: trailers"))
    if fields.get(b"grpc-encoding", b"identity") != b"identity":
        return Call(refusal=_COMPRESSION)
    timeout = None
    if b"grpc-timeout" in fields:
        timeout = _seconds(fields[b"grpc-timeout"])
        if timeout is None:
            return Call(refusal=refusal(Status.INTERNAL, "Error parsing 'grpc-timeout' metadata"))
        if timeout == 0:
            return Call(refusal=DEADLINE_EXCEEDED)
    method = _METHODS.get(head.path)
    if method is None:
        return Call(refusal=refusal(Status.UNIMPLEMENTED, "Method not found!"))
    return Call(method, timeout)


def read_message(body: bytes) -> bytes | Refusal:
    """The one message in the body of a request, or the refusal that it gets."""
    size = len(body) - _PREFIX.size
    if size >= 0:
        flag, length = _PREFIX.unpack_from(body)
        if length == size and flag == 0:
            return body[_PREFIX.size :]
        return _framing_fault(flag, length, size)
    if body:
        return refusal(Status.INTERNAL, "the prefix of the message is cut short")
    return refusal(Status.UNIMPLEMENTED, "the request ended without its message")


def write_message(message: bytes) -> bytes:
    """A message as it stands in a body."""
    return _PREFIX.pack(0, len(message)) + message


@cache  # all texts are constants of this package
def refusal(status: Status, message: str = "") -> Refusal:
    """A status other than OK, and what a person reads beside it."""
    head = [(b":status", b"200"), _CONTENT_TYPE_FIELD]
    return Refusal(status, encode_block([*head, *_status_fields(status, message)]))


def _status_fields(status: Status, message: str) -> list[Field]:
    code = (b"grpc-status", str(status.value).encode())
    return [code, (b"grpc-message", _percent_encoded(message))] if message else [code]


def _framing_fault(flag: int, length: int, size: int) -> Refusal:
    if flag == _COMPRESSED:
        return refusal(Status.INTERNAL, "Compression bit set but no encoding configured")
    if flag:
        return refusal(Status.INTERNAL, "the prefix of the message has an unknown flag")
    if length > MAX_MESSAGE:
        return TOO_LARGE
    if length > size:
        return refusal(Status.INTERNAL, "the message is cut short")
    return refusal(Status.UNIMPLEMENTED, "the request has more than one message")


def _seconds(value: bytes) -> float | None:
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS[match[2]] if match else None


def _percent_encoded(text: str) -> bytes:
    """PROTOCOL-HTTP2.md, Percent-Encoded: printable ASCII but for `%` stands for itself."""
    return quote_from_bytes(text.encode(), safe=_PRINTABLE).encode()


_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_METHODS: Final = {method.value: method for method in Method}
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(?:\+proto)?(?:[ \t]*;.*)?", re.IGNORECASE)
"""Of the `+` forms only protobuf can be read."""
_CONTENT_TYPE_FIELD: Final = (b"content-type", b"application/grpc")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,%d})([HMSmun])" % TIMEOUT_DIGITS)
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

ANSWER_HEADERS: Final = encode_block([(b":status", b"200"), _CONTENT_TYPE_FIELD])
"""Before a message, and"""
ANSWER_TRAILERS: Final = encode_block([(b"grpc-status", b"0")])
"""after it."""

TOO_LARGE: Final = refusal(
    Status.RESOURCE_EXHAUSTED, f"Received message larger than max ({MAX_MESSAGE})"
)
HEAD_TOO_LARGE: Final = refusal(
    Status.RESOURCE_EXHAUSTED, f"Received metadata larger than max ({MAX_HEADER_LIST})"
)
TOO_MANY: Final = refusal(Status.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
DEADLINE_EXCEEDED: Final = refusal(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")
OVERDUE_TRAILERS: Final = encode_block(
    _status_fields(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")
)
"""DEADLINE_EXCEEDED where messages were sent before."""
CHECK_FAILED: Final = refusal(Status.INTERNAL, "the check failed")
STOPPING: Final = refusal(Status.UNAVAILABLE, "the server is stopping")
NOT_FOUND: Final = refusal(Status.NOT_FOUND)

# What is not gRPC is told so by HTTP, lest it took status 200 for success.
_NOT_GRPC: Final = Refusal(Status.UNKNOWN, encode_block([(b":status", b"415")]))
_NOT_POST: Final = Refusal(
    Status.UNKNOWN, encode_block([(b":status", b"405"), (b"allow", b"POST")])
)
_COMPRESSION: Final = Refusal(
    Status.UNIMPLEMENTED,
    encode_block(
        [
            (b":status", b"200"),
            _CONTENT_TYPE_FIELD,
            *_status_fields(Status.UNIMPLEMENTED, "no compression is enabled"),
            (b"grpc-accept-encoding", b"identity"),
        ]
    ),
)
