"""HTTP/2 by hand: frames as bytes, bytes as lines a test can be read by, and `Connection` fed in
every way that bytes can arrive.

It shares no code with what it tests (RFC 9113 sections 4.1 and 6, RFC 7541 section 6).
"""

from collections.abc import Callable, Iterator, Sequence
from struct import pack, unpack, unpack_from
from typing import NamedTuple, assert_never

from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.events import (
    ConnectionEnded,
    Event,
    RequestReceived,
    RequestTooLarge,
    StreamEnded,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

KINDS = (
    "DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY",
    "WINDOW_UPDATE", "CONTINUATION",
)  # fmt: skip
(
    DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
    CONTINUATION,
) = range(10)  # fmt: skip

ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
    "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
    "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip

ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


# ---- what a client sends


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return pack(">I", len(payload))[1:] + bytes((kind, flags)) + pack(">I", stream) + payload


def settings(*values: tuple[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(pack(">HI", *one) for one in values))


SETTINGS_ACK = frame(SETTINGS, ACK)
OPENING = PREFACE + settings() + SETTINGS_ACK
"""After it, the connection is in use and a header block is answered from the memo."""

EMPTY_TABLE = b"\x20"
"""Dynamic table size update to 0, which the first block after the acknowledgement begins with."""

PATH = b"/envoy.service.auth.v3.Authorization/Check"
POST = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH), (b":authority", b"authz"))


def literals(*fields: tuple[bytes, bytes]) -> bytes:
    """Fields that are neither indexed nor Huffman coded, of at most 254 bytes each text."""
    texts = (text for field in fields for text in field)
    encoded = [
        bytes((len(text),) if len(text) < 127 else (127, len(text) - 127)) + text for text in texts
    ]
    return b"".join(
        b"\0" + name + value for name, value in zip(encoded[::2], encoded[1::2], strict=True)
    )


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block of literals; the usual pseudo-header fields where none are given."""
    pseudo = () if any(name.startswith(b":") for name, _ in fields) else POST
    return EMPTY_TABLE + literals(*pseudo, *fields)


def headers(
    stream: int, fragment: bytes | None = None, *, end: bool = True, flags: int = END_HEADERS
) -> bytes:
    """HEADERS of a request; `end`: it has no body."""
    return frame(
        HEADERS, flags | end * END_STREAM, stream, block() if fragment is None else fragment
    )


def continuation(stream: int, fragment: bytes, *, end: bool = True) -> bytes:
    return frame(CONTINUATION, end * END_HEADERS, stream, fragment)


def trailers(stream: int, *fields: tuple[bytes, bytes], end: bool = True) -> bytes:
    return headers(stream, EMPTY_TABLE + literals(*fields), end=end)


def data(
    stream: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None
) -> bytes:
    """DATA; `padding`: bytes of it, None for a frame that has no such field."""
    if padding is None:
        return frame(DATA, end * END_STREAM, stream, payload)
    return frame(
        DATA, PADDED | end * END_STREAM, stream, bytes((padding,)) + payload + bytes(padding)
    )


def rst_stream(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, stream=stream, payload=pack(">I", code))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, stream=stream, payload=pack(">I", increment))


def ping(payload: bytes = b"8 octets", flags: int = 0) -> bytes:
    return frame(PING, flags, payload=payload)


def goaway(last: int = 0, code: int = 0) -> bytes:
    return frame(GOAWAY, payload=pack(">II", last, code))


def priority(stream: int, payload: bytes = bytes(5)) -> bytes:
    return frame(PRIORITY, stream=stream, payload=payload)


# ---- what a server says, as lines


def frames_of(output: bytes) -> Iterator[Frame]:
    """Its frames. AssertionError: the last one is not whole, or one breaks section 4.1."""
    offset = 0
    while offset < len(output):
        high, low, kind, flags, stream = unpack_from(">BHBBI", output, offset)
        end = offset + 9 + (high << 16 | low)
        assert end <= len(output), "a frame is cut short"
        assert end - offset - 9 <= 16_384, "a frame is longer than every peer must take"
        assert stream < 2**31, "the reserved bit is set"
        yield Frame(kind, flags, stream, output[offset + 9 : end])
        offset = end


def line(one: Frame) -> str:
    """A frame as a test names it: `RST_STREAM 5 CANCEL`, `DATA 1 'ok' END_STREAM`."""
    kind, flags, stream, payload = one
    words: list[object] = [KINDS[kind]]
    match kind:
        case 0:
            words += [stream, repr(payload)[1:]]
        case 3:
            words += [stream, ERRORS[unpack(">I", payload)[0]]]
        case 4 if not flags & ACK:
            values = (unpack_from(">HI", payload, at) for at in range(0, len(payload), 6))
            words += [f"{name}={value}" for name, value in values]
        case 7:
            last, code = unpack_from(">II", payload)
            words += [last, ERRORS[code]]
        case 8:
            words += [stream, f"+{unpack('>I', payload)[0]}"]
        case 6:
            words += [repr(payload)[1:]]
        case 1:
            words += [stream]
    if kind in {DATA, HEADERS} and flags & END_STREAM:
        words.append("END_STREAM")
    if kind in {SETTINGS, PING} and flags & ACK:
        words.append("ACK")
    return " ".join(map(str, words))


def lines(output: bytes) -> list[str]:
    return [line(one) for one in frames_of(output)]


def event_line(event: Event) -> str:
    """An event as a test names it."""
    match event:
        case RequestReceived(stream, _, body):
            return f"request {stream} {body!r}"
        case RequestTooLarge(stream, _):
            return f"too large {stream}"
        case StreamEnded(stream, code):
            return f"stream {stream} ended: {ERRORS[code] if code < len(ERRORS) else code}"
        case ConnectionEnded(error):
            return "connection ended" + (f": {error.code.name}" if error else "")
        case _:
            assert_never(event)


# ---- a connection under test

Step = bytes | Callable[[Connection], object]
"""What comes, or what the layer above does meanwhile."""


class Transcript(NamedTuple):
    says: list[str]
    """What the connection sent after its greeting, frame by frame."""
    tells: list[str]
    """Its events."""
    connection: Connection


GREETING = lines(Connection(0.0).take_output())


def whole(sent: bytes) -> Iterator[bytes]:
    yield sent


def byte_by_byte(sent: bytes) -> Iterator[bytes]:
    return (sent[at : at + 1] for at in range(len(sent))) if sent else whole(sent)


def play(steps: Sequence[Step], arrive: Callable[[bytes], Iterator[bytes]] = whole) -> Transcript:
    """Feed a new connection; the clock stands still."""
    connection = Connection(0.0)
    output = b""
    events: list[Event] = []
    for step in steps:
        if isinstance(step, bytes):
            for piece in arrive(step):
                events += connection.receive(piece, 0.0)
                output += connection.take_output()
        else:
            step(connection)
            output += connection.take_output()
    said = lines(output)
    assert said[: len(GREETING)] == GREETING
    return Transcript(said[len(GREETING) :], [event_line(event) for event in events], connection)


# ---- answers

ANSWER_HEADERS = literals((b":status", b"200"), (b"content-type", b"application/grpc"))
ANSWER_TRAILERS = literals((b"grpc-status", b"0"))


def answer(stream: int, body: bytes = b"ok") -> Callable[[Connection], bool]:
    """The step in which the layer above answers."""
    return lambda connection: connection.respond(stream, ANSWER_HEADERS, body, ANSWER_TRAILERS)
