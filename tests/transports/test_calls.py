"""How a call is made is judged alike by both transports: its head, its framing, its time.

Where the two differ, DIFFERENCES says how and why. Nothing else may.
"""

import gzip
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from authz.envoy_api.grpc_calls import HEALTH_SERVICE, MAX_MESSAGE
from support.capture import METHOD
from support.grpc import CHECK_SERVICE, check_request
from support.http2_client import TIMEOUT, Fields, Http2Client, framed, grpc_headers
from support.transports import Outcome, Pair, call_once, good_token, in_order

GOOD = bytes(check_request(token=good_token()))
SPOILT = b"\xff"
HEALTH = f"/{HEALTH_SERVICE}/Check"
WATCH = f"/{HEALTH_SERVICE}/Watch"
KNOWN = b"\x0a" + bytes((len(CHECK_SERVICE),)) + CHECK_SERVICE.encode()
UNKNOWN = b"\x0a\x05other"


class Case(NamedTuple):
    """A call: header fields, and the body; None where HEADERS end the stream."""

    headers: Fields = grpc_headers()
    body: bytes | None = framed(GOOD)


def head(**changes: str | None) -> Case:
    return Case(grpc_headers(**changes))  # type: ignore[arg-type]  # `extra` isn't among them


def with_field(name: str, *values: str | bytes) -> Case:
    pairs = [(name.encode(), v if isinstance(v, bytes) else v.encode()) for v in values]
    return Case(grpc_headers(extra=pairs))


def encoded(encoding: str, message: bytes, *, flag: int) -> Case:
    return Case(
        grpc_headers(extra=[(b"grpc-encoding", encoding.encode())]), framed(message, flag=flag)
    )


def without(name: bytes, *more: tuple[bytes, bytes]) -> Case:
    return Case([*more, *(field for field in grpc_headers() if field[0] != name)])


def asking(path: str, message: bytes = b"") -> Case:
    return Case(grpc_headers(path), framed(message))


PATHS = (
    "/", "*", METHOD[1:], f"{METHOD}/", f"/{METHOD}", f"{METHOD}?x=1", METHOD.lower(),
    f"/{CHECK_SERVICE}/Delete", "/envoy.service.auth.v2.Authorization/Check",
    f"/{HEALTH_SERVICE}/", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)  # fmt: skip
METHODS_RESET = ("GET", "PUT")  # grpcio knows these two
METHODS_REFUSED = ("HEAD", "OPTIONS", "post", "BREW")
TYPES_TAKEN = ("application/grpc", "application/grpc+proto", "application/grpc;x=y",
               "APPLICATION/GRPC")  # fmt: skip
TYPES_REFUSED = (None, "", "text/plain", "application/json", "application/grpc+json",
                 "application/grpc-web", "application/grpcx")  # fmt: skip
TIMEOUTS_BAD = ("", "1", "S", "1x", "1s", "1h", "-1S", "+1S", "1.5S", "1S1S")
TIMEOUTS_GOOD = ("9S", "99999999H", "00000009S", "9000m", "9000000u", "99999999u")
TIMEOUTS_OVER = ("0S", "0n", "00000000m")

CASES: dict[str, Case] = {
    "a good call": Case(),
    **{f"path {path}": asking(path, GOOD) for path in PATHS},
    "an unknown method without a body": Case(grpc_headers("/x/y"), None),
    **{f"{name} without a body": Case(grpc_headers(method=name), None)
       for name in (*METHODS_RESET, *METHODS_REFUSED)},
    **{f"{name} with a message": head(method=name) for name in (*METHODS_RESET, *METHODS_REFUSED)},
    **{f"content-type {name!r}": head(content_type=name)
       for name in (*TYPES_TAKEN, *TYPES_REFUSED)},
    **{f"te {name!r}": head(te=name) for name in (None, "", "gzip", "trailers, gzip", "Trailers")},
    # time
    **{f"grpc-timeout {value!r}": with_field("grpc-timeout", value)
       for value in (*TIMEOUTS_BAD, *TIMEOUTS_GOOD, *TIMEOUTS_OVER)},
    "grpc-timeout of nine digits": with_field("grpc-timeout", "123456789S"),
    "grpc-timeout with a blank": with_field("grpc-timeout", "1 S"),
    # metadata
    "metadata": with_field("x-one", "two", "three"),
    "binary metadata": with_field("x-one-bin", "AAEC/w==", "AAEC"),
    "binary metadata that is none": with_field("x-one-bin", "!"),
    "7 KiB of metadata": with_field("x-one", "v" * 7 * 1024),
    "a user-agent": with_field("user-agent", "grpc-test/1"),
    "Envoy's own fields": Case(
        grpc_headers(
            extra=[
                (b"grpc-timeout", b"200m"),
                (b"x-envoy-internal", b"true"),
                (b"x-forwarded-for", b"192.0.2.1"),
                (b"x-envoy-expected-rq-timeout-ms", b"200"),
            ]
        )
    ),
    "a grpc-status in the request": with_field("grpc-status", "0"),
    "scheme https": without(b":scheme", (b":scheme", b"https")),
    # compression
    "grpc-encoding identity": encoded("identity", GOOD, flag=0),
    "compressed without grpc-encoding": Case(body=framed(gzip.compress(GOOD), flag=1)),
    "compressed by identity": encoded("identity", GOOD, flag=1),
    "gzip": encoded("gzip", gzip.compress(GOOD), flag=1),
    "gzip that isn't": encoded("gzip", GOOD, flag=1),
    "gzip, not used": encoded("gzip", GOOD, flag=0),
    "deflate": encoded("deflate", zlib.compress(GOOD), flag=1),
    "snappy": encoded("snappy", GOOD, flag=1),
    "the client would take gzip": with_field("grpc-accept-encoding", "gzip, identity"),
    # framing
    "no message": Case(body=None),
    "no message, empty DATA": Case(body=b""),
    "a prefix cut short": Case(body=b"\0\0\0\0"),
    "a message cut short": Case(body=framed(GOOD)[:-1]),
    "two messages": Case(body=framed(GOOD) * 2),
    "a message and a byte": Case(body=framed(GOOD) + b"\0"),
    "flag 2": Case(body=framed(GOOD, flag=2)),
    "flag 255": Case(body=framed(GOOD, flag=255)),
    "an empty message": Case(body=framed(b"")),
    "a spoilt message": Case(body=framed(SPOILT)),
    "4 MiB": Case(body=framed(SPOILT * MAX_MESSAGE)),
    "4 MiB and a byte": Case(body=framed(SPOILT * (MAX_MESSAGE + 1))),
    "5 MiB": Case(body=framed(SPOILT * 5 * 2**20)),
    "5 MiB announced": Case(body=framed(SPOILT, length=5 * 2**20)),
    "4 GiB announced": Case(body=framed(SPOILT, length=2**32 - 1)),
    # what RFC 9113 section 8 calls malformed
    **{f"no {name}": without(name.encode()) for name in (":method", ":scheme", ":path")},
    "no :authority": without(b":authority"),
    "host for :authority": Case([*without(b":authority").headers, (b"host", b"authz")]),
    ":path twice": with_field(":path", METHOD),
    "an unknown pseudo-header field": Case([(b":x", b"y"), *grpc_headers()]),
    "a pseudo-header field after the others": Case(
        [*without(b":path").headers, (b":path", METHOD.encode())]
    ),
    "a name in upper case": with_field("X-One", "two"),
    "a zero in a value": with_field("x-one", b"t\0o"),
    "a blank before a value": with_field("x-one", " two"),
    "a blank after a timeout": with_field("grpc-timeout", "1S "),
    "connection: close": with_field("connection", "close"),
    "content-length": with_field("content-length", str(len(framed(GOOD)))),
    "a wrong content-length": with_field("content-length", "3"),
    # health
    "health of the server": asking(HEALTH),
    "health of the service": asking(HEALTH, KNOWN),
    "health of another": asking(HEALTH, UNKNOWN),
    "health, spoilt": asking(HEALTH, SPOILT),
    "health, name not UTF-8": asking(HEALTH, b"\x0a\x01\xff"),
    "health in an unknown field": asking(HEALTH, b"\x10\x01"),
    "watch, spoilt": asking(WATCH, SPOILT),
    "list of healths": asking(f"/{HEALTH_SERVICE}/List"),
}  # fmt: skip


def refused(status: int, text: str) -> Outcome:
    return Outcome(grpc=status, text=text)


def by_http(status: int) -> Outcome:
    return Outcome(http=status, content_type=None)


def reset(code: int) -> Outcome:
    return Outcome(http=None, content_type=None, ending=f"reset {code}")


ANSWERED = Outcome(grpc=0, message=b"as a good call")
QUIET = 0.5
"""Seconds without an answer after which none is expected any more."""
SILENCE = Outcome(http=None, content_type=None, ending="silence")
PROTOCOL_ERROR, INTERNAL_ERROR = 1, 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Calls that the two answer differently, each in one way."""

    names: tuple[str, ...]
    native: Outcome
    grpcio: Outcome | None
    """None: it differs from time to time."""


def _unread(value: str) -> Outcome:
    return refused(13, f"Error parsing '{value}' metadata")


DIFFERENCES = [
    # A unary call without its message, or with a part of one. grpcio waits for the rest even after
    # the end of the stream. Without any it is a violation of cardinality (gRPC status codes).
    Difference(
        ("no message", "no message, empty DATA"),
        refused(12, "the request ended without its message"),
        SILENCE,
    ),
    Difference(
        ("a prefix cut short",), refused(13, "the prefix of the message is cut short"), SILENCE
    ),
    Difference(("a message cut short",), refused(13, "the message is cut short"), SILENCE),
    # More than one message: the same violation. grpcio answers the first and forgets the others.
    Difference(
        ("two messages", "a message and a byte"),
        refused(12, "the request has more than one message"),
        ANSWERED,
    ),
    # compression.md has it UNIMPLEMENTED. The texts are constants here, and don't name what a
    # client sent; grpcio doesn't know the name of snappy.
    Difference(
        ("gzip", "gzip that isn't", "gzip, not used"),
        refused(12, "no compression is enabled"),
        refused(12, "Compression algorithm 'gzip' is disabled."),
    ),
    Difference(
        ("deflate",),
        refused(12, "no compression is enabled"),
        refused(12, "Compression algorithm 'deflate' is disabled."),
    ),
    Difference(
        ("snappy",), refused(12, "no compression is enabled"), _unread("grpc-encoding")
    ),
    # The same here: the text is constant.
    *(
        Difference(
            names,
            refused(8, f"Received message larger than max ({MAX_MESSAGE})"),
            refused(8, f"SERVER: Received message larger than max ({size} vs. {MAX_MESSAGE})"),
        )
        for names, size in (
            (("4 MiB and a byte",), MAX_MESSAGE + 1),
            (("5 MiB", "5 MiB announced"), 5 * 2**20),
            (("4 GiB announced",), 2**32 - 1),
        )
    ),
    # Not gRPC. PROTOCOL-HTTP2.md wants 415 for the content type, which grpcio never looks at, and
    # has no word for the method; 405 is HTTP's.
    Difference(
        tuple(f"content-type {name!r}" for name in TYPES_REFUSED), by_http(415), ANSWERED
    ),
    Difference(
        tuple(f"{name} {body}" for name in METHODS_RESET
              for body in ("without a body", "with a message")),
        by_http(405),
        reset(INTERNAL_ERROR),
    ),
    Difference(
        tuple(f"{name} {body}" for name in METHODS_REFUSED
              for body in ("without a body", "with a message")),
        by_http(405),
        _unread(":method"),
    ),
    Difference(
        ("te None",), refused(13, "the request lacks te: trailers"), reset(INTERNAL_ERROR)
    ),
    # Malformed for RFC 9113 (section 8.1.1: a stream error of type PROTOCOL_ERROR). grpcio has
    # another code for it, takes it, or tells of it by gRPC.
    Difference(
        tuple(f"te {name!r}" for name in ("", "gzip", "trailers, gzip")),
        reset(PROTOCOL_ERROR),
        _unread("te"),
    ),
    Difference(
        ("no :method", "no :scheme", "no :path"), reset(PROTOCOL_ERROR), reset(INTERNAL_ERROR)
    ),
    Difference(
        ("an unknown pseudo-header field",),
        reset(PROTOCOL_ERROR),
        refused(13, "Illegal header key: :x"),
    ),
    Difference(
        ("a name in upper case",), reset(PROTOCOL_ERROR), refused(13, "Illegal header key: X-One")
    ),
    Difference(
        (
            ":path twice", "a pseudo-header field after the others", "a zero in a value",
            "a blank before a value", "a blank after a timeout", "connection: close",
            "a wrong content-length",
        ),
        reset(PROTOCOL_ERROR),
        ANSWERED,
    ),
    # Taken here, and harmless: te's value is a token of HTTP, so its case says nothing;
    # :authority is optional; binary metadata are nothing that we read.
    Difference(("te 'Trailers'",), ANSWERED, _unread("te")),
    Difference(("no :authority",), ANSWERED, reset(INTERNAL_ERROR)),
    Difference(
        ("binary metadata that is none",),
        ANSWERED,
        refused(13, "Error parsing 'x-one-bin' metadata: illegal base64 encoding"),
    ),
    # PROTOCOL-HTTP2.md: eight digits at most, and no blank.
    Difference(
        ("grpc-timeout of nine digits", "grpc-timeout with a blank"),
        _unread("grpc-timeout"),
        ANSWERED,
    ),
    # The flag is 0 or 1 (PROTOCOL-HTTP2.md, Compressed-Flag). grpcio drops such a message, and
    # either hands on an empty one or waits for another.
    Difference(
        ("flag 2", "flag 255"),
        refused(13, "the prefix of the message has an unknown flag"),
        None,
    ),
    # A message that can't be parsed is INTERNAL (gRPC status codes). In grpcio's health service it
    # is an exception like any other.
    *(
        Difference(
            names,
            refused(13, "not a HealthCheckRequest"),
            refused(
                2,
                "Unexpected <class 'google.protobuf.message.DecodeError'>: Error parsing message "
                f"with type 'grpc.health.v1.HealthCheckRequest': {what}",
            ),
        )
        for names, what in (
            (("health, spoilt", "watch, spoilt"), "Wire format was corrupt"),
            (("health, name not UTF-8",), "String field had bad UTF-8"),
        )
    ),
    Difference(
        ("list of healths",),
        refused(12, "Method not found!"),
        refused(12, "Unexpected <class 'NotImplementedError'>: Method not implemented!"),
    ),
]  # fmt: skip

OF_CASE = {name: difference for difference in DIFFERENCES for name in difference.names}


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_judged_alike(pair: Pair, name: str) -> None:
    native = answer(pair.native.socket, CASES[name])
    known = OF_CASE.get(name)
    if known is None:
        assert native == answer(pair.grpcio.socket, CASES[name])
        assert native.ending == "end"
        return
    assert native == expected(pair.native.socket, known.native)
    if known.grpcio is not None:
        patience = QUIET if known.grpcio is SILENCE else TIMEOUT
        grpcio = answer(pair.grpcio.socket, CASES[name], patience)
        assert grpcio == expected(pair.grpcio.socket, known.grpcio)


def answer(address: str, case: Case, patience: float = TIMEOUT) -> Outcome:
    return in_order(call_once(address, *case, patience=patience))


def expected(address: str, outcome: Outcome) -> Outcome:
    return answer(address, Case()) if outcome is ANSWERED else outcome


def test_every_difference_is_one_and_of_a_case_that_there_is() -> None:
    assert OF_CASE.keys() <= CASES.keys()
    assert sum(len(one.names) for one in DIFFERENCES) == len(OF_CASE)
    assert all(one.native != one.grpcio for one in DIFFERENCES)


def test_the_native_transport_is_never_silent() -> None:
    """Whatever a client does with a call, it is told."""
    assert all(one.native.ending != "silence" for one in DIFFERENCES)


@pytest.mark.parametrize("size", [17 * 1024, 60 * 1024])
def test_too_much_metadata_is_the_fault_of_its_call_alone(pair: Pair, size: int) -> None:
    """Envoy passes on what a client has chosen (`initial_metadata`, a trace state), on connections
    that it shares with others.
    """
    large = grpc_headers(extra=[(b"x-one", b"v" * size)])
    with Http2Client(pair.native.socket) as client:
        for _ in range(2):  # before SETTINGS are acknowledged, and after
            streams = [client.ask(one, framed(GOOD)) for one in (large, grpc_headers())]
            statuses = [client.answer(stream).grpc_status for stream in streams]
            assert statuses == [8, 0]
