"""What each frame does to a connection, however its bytes arrive (RFC 9113 sections 3 to 6)."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import pytest

from support import http2 as wire
from support.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    EMPTY_TABLE,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    OPENING,
    PADDED,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Step,
    answer,
    block,
    byte_by_byte,
    continuation,
    data,
    frame,
    goaway,
    headers,
    literals,
    ping,
    play,
    priority,
    rst_stream,
    settings,
    trailers,
    whole,
    window_update,
)

REQUEST = block()
SOME_PRIORITY = b"\0\0\0\0\x10"


class Case(NamedTuple):
    steps: tuple[Step, ...]
    says: list[str]
    tells: list[str]


CASES: dict[str, Case] = {}


def case(name: str, *steps: Step, says: list[str] | None = None, tells: list[str] | None = None,
         ends: str | None = None) -> None:  # fmt: skip
    """On a new connection. `ends`: the GOAWAY it ends with, of which event and frame are alike."""
    assert name not in CASES
    says, tells = says or [], tells or []
    if ends is not None:
        says = [*says, f"GOAWAY {ends}"]
        tells = [*tells, f"connection ended: {ends.split()[1]}"]
    CASES[name] = Case(steps, says, tells)


def opened(name: str, *steps: Step, says: list[str] | None = None, tells: list[str] | None = None,
           ends: str | None = None) -> None:  # fmt: skip
    """The same on a connection that is in use."""
    case(name, OPENING, *steps, says=["SETTINGS ACK", *(says or [])], tells=tells, ends=ends)


# ---- the preface: section 3.4

case("the preface and SETTINGS are acknowledged", PREFACE + settings(), says=["SETTINGS ACK"])
case("a part of the preface is waited for", PREFACE[:10])
case("nothing is waited for", b"")
case("the preface alone waits for SETTINGS", PREFACE)
case("HTTP/1 is no preface", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ends="0 PROTOCOL_ERROR")
case("TLS is no preface", b"\x16\x03\x01\x02\0\x01", ends="0 PROTOCOL_ERROR")
case("a preface that ends otherwise", PREFACE[:-1] + b"X", ends="0 PROTOCOL_ERROR")
for kind in (DATA, HEADERS, RST_STREAM, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION):
    case(
        f"first comes {wire.KINDS[kind]}, not SETTINGS",
        PREFACE + frame(kind, 0, 1, bytes(8)),
        ends="0 PROTOCOL_ERROR",
    )
case("first comes an unknown frame", PREFACE + frame(99), ends="0 PROTOCOL_ERROR")
case("first comes PRIORITY", PREFACE + priority(1), ends="0 PROTOCOL_ERROR")
case("first comes an acknowledgement", PREFACE + SETTINGS_ACK, ends="0 PROTOCOL_ERROR")
case("first comes an oversize frame", PREFACE + frame(SETTINGS, 0, 0, bytes(16_386)),
     ends="0 FRAME_SIZE_ERROR")  # fmt: skip
opened("a second preface is no frame", PREFACE, ends="0 FRAME_SIZE_ERROR")

# ---- frames in general: sections 4.1, 4.2, 5.5

opened("an unknown frame is ignored", frame(99, 255, 77, b"anything"))
opened("an unknown frame on the connection is ignored", frame(0xFE))
opened("an unknown frame of the largest size is ignored", frame(99, 0, 1, bytes(16_384)))
opened("the reserved bit is ignored", frame(PING, 0, 2**31, b"8 octets"),
       says=["PING '8 octets' ACK"])  # fmt: skip
opened("flags that mean nothing are ignored", ping(flags=0xFE), says=["PING '8 octets' ACK"])
for kind in (*range(10), 99):
    opened(f"{kind} is longer than SETTINGS_MAX_FRAME_SIZE", frame(kind, 0, 1, bytes(16_385)),
           ends="0 FRAME_SIZE_ERROR")  # fmt: skip
opened("a header that says 16 MiB is not waited for", b"\xff\xff\xff\0\0\0\0\0\1",
       ends="0 FRAME_SIZE_ERROR")  # fmt: skip

# ---- SETTINGS: section 6.5

opened("SETTINGS on a stream", frame(SETTINGS, 0, 1), ends="0 PROTOCOL_ERROR")
opened("an acknowledgement on a stream", frame(SETTINGS, ACK, 1), ends="0 PROTOCOL_ERROR")
opened("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, bytes(5)), ends="0 FRAME_SIZE_ERROR")
opened("SETTINGS of 7 bytes", frame(SETTINGS, 0, 0, bytes(7)), ends="0 FRAME_SIZE_ERROR")
opened("an acknowledgement with a payload", frame(SETTINGS, ACK, 0, bytes(6)),
       ends="0 FRAME_SIZE_ERROR")  # fmt: skip
opened("a second acknowledgement is ignored", SETTINGS_ACK)
opened("later SETTINGS are acknowledged, each", settings((3, 1)) + settings(),
       says=["SETTINGS ACK"] * 2)  # fmt: skip
for name, value, error in (
    (wire.HEADER_TABLE_SIZE, 0, None),
    (wire.HEADER_TABLE_SIZE, 2**32 - 1, None),
    (wire.ENABLE_PUSH, 0, None),
    (wire.ENABLE_PUSH, 1, None),
    (wire.ENABLE_PUSH, 2, "PROTOCOL_ERROR"),
    (wire.ENABLE_PUSH, 2**32 - 1, "PROTOCOL_ERROR"),
    (wire.MAX_CONCURRENT_STREAMS, 0, None),
    (wire.MAX_CONCURRENT_STREAMS, 2**32 - 1, None),
    (wire.INITIAL_WINDOW_SIZE, 0, None),
    (wire.INITIAL_WINDOW_SIZE, 2**31 - 1, None),
    (wire.INITIAL_WINDOW_SIZE, 2**31, "FLOW_CONTROL_ERROR"),
    (wire.INITIAL_WINDOW_SIZE, 2**32 - 1, "FLOW_CONTROL_ERROR"),
    (wire.MAX_FRAME_SIZE, 16_383, "PROTOCOL_ERROR"),
    (wire.MAX_FRAME_SIZE, 16_384, None),
    (wire.MAX_FRAME_SIZE, 2**24 - 1, None),
    (wire.MAX_FRAME_SIZE, 2**24, "PROTOCOL_ERROR"),
    (wire.MAX_HEADER_LIST_SIZE, 0, None),
    (wire.MAX_HEADER_LIST_SIZE, 2**32 - 1, None),
    (0, 7, None),
    (8, 1, None),
    (0xFFFF, 2**32 - 1, None),
):
    if error is None:
        opened(f"setting {name} may be {value}", settings((name, value)), says=["SETTINGS ACK"])
    else:
        opened(f"setting {name} may not be {value}", settings((name, value)), ends=f"0 {error}")
        opened(
            f"setting {name} may not be {value} for a while",
            settings((name, value), (name, 0)),
            ends=f"0 {error}",
        )

# ---- PING, GOAWAY, PRIORITY, PUSH_PROMISE: section 6.3, 6.6 to 6.8

opened("PING is echoed", ping(b"\0\1\2\3\4\5\6\7"),
       says=[r"PING '\x00\x01\x02\x03\x04\x05\x06\x07' ACK"])  # fmt: skip
opened("PING's acknowledgement is not", ping(flags=ACK))
opened("PING of 7 bytes", frame(PING, 0, 0, bytes(7)), ends="0 FRAME_SIZE_ERROR")
opened("PING of 9 bytes", frame(PING, 0, 0, bytes(9)), ends="0 FRAME_SIZE_ERROR")
opened("PING on a stream", frame(PING, 0, 1, bytes(8)), ends="0 PROTOCOL_ERROR")

opened("GOAWAY with nothing owed ends in order", goaway(), tells=["connection ended"])
opened("GOAWAY with a reason ends in order, too", frame(GOAWAY, 0, 0, bytes(7) + b"\2why"),
       tells=["connection ended"])  # fmt: skip
opened("GOAWAY leaves what is owed, and refuses what is new", headers(1) + goaway() + headers(3),
       says=["RST_STREAM 3 REFUSED_STREAM"], tells=["request 1 b''"])  # fmt: skip
opened("after GOAWAY a body is still finished",
       headers(1, end=False) + goaway() + data(1, end=True), tells=["request 1 b''"])  # fmt: skip
opened("GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, bytes(7)), ends="0 FRAME_SIZE_ERROR")
opened("GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), ends="0 PROTOCOL_ERROR")

opened("PRIORITY is ignored, on any stream", b"".join(map(priority, (1, 2, 3, 99, 2**31 - 1))))
opened("PRIORITY on the connection", priority(0), ends="0 PROTOCOL_ERROR")
opened("PRIORITY of 4 bytes on a stream that is open",
       headers(1, end=False) + priority(1, bytes(4)),
       says=["RST_STREAM 1 FRAME_SIZE_ERROR"])  # fmt: skip
opened("PRIORITY of 6 bytes on an idle stream", priority(1, bytes(6)), ends="0 FRAME_SIZE_ERROR")

opened("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + REQUEST),
       ends="0 PROTOCOL_ERROR")  # fmt: skip

# ---- HEADERS and CONTINUATION: section 6.2, 6.10

opened("a request without a body", headers(1), tells=["request 1 b''"])
opened("two requests", headers(1) + headers(3), tells=["request 1 b''", "request 3 b''"])
opened("HEADERS with priority fields", headers(1, SOME_PRIORITY + REQUEST, flags=0x24),
       tells=["request 1 b''"])  # fmt: skip
opened("HEADERS with priority fields cut short", headers(1, bytes(4), flags=0x24),
       ends="0 FRAME_SIZE_ERROR")  # fmt: skip
opened("HEADERS with padding", headers(1, b"\3" + REQUEST + bytes(3), flags=END_HEADERS | PADDED),
       tells=["request 1 b''"])  # fmt: skip
opened("HEADERS whose padding isn't zeros", headers(1, b"\3" + REQUEST + b"abc", flags=0xC),
       tells=["request 1 b''"])  # fmt: skip
opened("HEADERS with both", headers(1, b"\1" + SOME_PRIORITY + REQUEST + b"\0", flags=0x2C),
       tells=["request 1 b''"])  # fmt: skip
opened("HEADERS with padding but no length of it", headers(1, b"", flags=END_HEADERS | PADDED),
       ends="0 FRAME_SIZE_ERROR")  # fmt: skip
opened("HEADERS with more padding than payload", headers(1, b"\2\0", flags=END_HEADERS | PADDED),
       ends="0 PROTOCOL_ERROR")  # fmt: skip
opened("HEADERS with a block of nothing", headers(1, EMPTY_TABLE),
       says=["RST_STREAM 1 PROTOCOL_ERROR"])  # fmt: skip
opened("HEADERS all of padding, where a first block must say that the table is empty",
       headers(1, b"\1\0", flags=END_HEADERS | PADDED), ends="0 COMPRESSION_ERROR")  # fmt: skip
opened("HEADERS on the connection", headers(0), ends="0 PROTOCOL_ERROR")
opened("HEADERS on a stream of the server's", headers(2), ends="0 PROTOCOL_ERROR")
opened("HEADERS on a lower stream", headers(5) + headers(3), tells=["request 5 b''"],
       ends="5 PROTOCOL_ERROR")  # fmt: skip
opened("HEADERS on the highest stream there is", headers(2**31 - 1),
       tells=[f"request {2**31 - 1} b''"])  # fmt: skip

opened("a block in two parts", headers(1, REQUEST[:9], flags=0) + continuation(1, REQUEST[9:]),
       tells=["request 1 b''"])  # fmt: skip
opened("a block in parts, some of them empty",
       headers(1, b"", flags=0) + continuation(1, REQUEST[:1], end=False)
       + continuation(1, b"", end=False) + continuation(1, REQUEST[1:]),
       tells=["request 1 b''"])  # fmt: skip
opened("a block in parts, with padding, before a body",
       headers(1, b"\2" + SOME_PRIORITY + REQUEST[:7] + bytes(2),
               flags=PADDED | WITH_PRIORITY, end=False) + continuation(1, REQUEST[7:])
       + data(1, b"body", end=True),
       tells=["request 1 b'body'"])  # fmt: skip
opened("CONTINUATION's other flags are ignored",
       headers(1, REQUEST[:9], flags=0, end=False) + frame(CONTINUATION, 0xFF, 1, REQUEST[9:])
       + data(1, b"more", end=True), tells=["request 1 b'more'"])  # fmt: skip
opened("CONTINUATION of nothing", continuation(1, REQUEST), ends="0 PROTOCOL_ERROR")
opened("CONTINUATION after a whole block", headers(1) + continuation(1, b""),
       tells=["request 1 b''"], ends="1 PROTOCOL_ERROR")  # fmt: skip
opened("CONTINUATION of another stream", headers(1, flags=0) + continuation(3, b""),
       ends="0 PROTOCOL_ERROR")  # fmt: skip
opened("CONTINUATION of the connection", headers(1, flags=0) + continuation(0, b""),
       ends="0 PROTOCOL_ERROR")  # fmt: skip
for kind in (*range(9), 99):
    opened(f"{kind} comes within a header block", headers(1, flags=0) + frame(kind, 0, 1, bytes(8)),
           ends="0 PROTOCOL_ERROR")  # fmt: skip

# ---- DATA: section 6.1

opened("a body in one frame", headers(1, end=False) + data(1, b"body", end=True),
       tells=["request 1 b'body'"])  # fmt: skip
opened("a body in many frames", headers(1, end=False)
       + b"".join(data(1, bytes((n,))) for n in b"a body of letters") + data(1, end=True),
       tells=["request 1 b'a body of letters'"])  # fmt: skip
opened("bodies that are interleaved",
       headers(1, end=False) + headers(3, end=False) + data(1, b"o") + data(3, b"th")
       + data(1, b"ne", end=True) + data(3, b"ree", end=True),
       tells=["request 1 b'one'", "request 3 b'three'"])  # fmt: skip
opened("an empty body", headers(1, end=False) + data(1, end=True), tells=["request 1 b''"])
opened("a body that is not finished", headers(1, end=False) + data(1, b"body"))
opened("a body with padding", headers(1, end=False) + data(1, b"bo", padding=0)
       + data(1, b"", padding=255) + data(1, b"dy", padding=7, end=True),
       tells=["request 1 b'body'"])  # fmt: skip
opened("DATA on the connection", data(0, b"x"), ends="0 PROTOCOL_ERROR")
for stream, why in ((1, "is open"), (3, "was reset")):
    begun = headers(1, end=False) + headers(3, literals((b"Not", b"lower case")), end=False)
    said = ["RST_STREAM 3 PROTOCOL_ERROR"]
    opened(f"DATA with more padding than payload, where the stream {why}",
           begun + frame(DATA, PADDED, stream, b"\4abc"), says=said,
           ends="3 PROTOCOL_ERROR")  # fmt: skip
    opened(f"DATA with padding but no length of it, where the stream {why}",
           begun + frame(DATA, PADDED, stream), says=said, ends="3 FRAME_SIZE_ERROR")  # fmt: skip

# ---- trailers: section 8.1

BODY = headers(1, end=False) + data(1, b"body")
opened("trailers end a request", BODY + trailers(1, (b"x", b"y")), tells=["request 1 b'body'"])
opened("trailers end a request without DATA", headers(1, end=False) + trailers(1),
       tells=["request 1 b''"])  # fmt: skip
opened("trailers in parts", BODY + headers(1, EMPTY_TABLE, flags=0)
       + continuation(1, literals((b"x", b"y"))), tells=["request 1 b'body'"])  # fmt: skip
for why, bad in {
    "that don't end the stream": trailers(1, (b"x", b"y"), end=False),
    "with a pseudo-header field": trailers(1, (b":path", b"/")),
    "with a name in upper case": trailers(1, (b"X", b"y")),
    "with a field of the connection": trailers(1, (b"connection", b"close")),
    "over the limit of a header list": headers(1, EMPTY_TABLE + literals((b"a", b"")) * 600),
}.items():
    opened(f"trailers {why}", BODY + bad, says=["RST_STREAM 1 PROTOCOL_ERROR"])

# ---- content-length: section 8.1.1


def with_length(*values: bytes, end: bool = False) -> bytes:
    return headers(1, block(*((b"content-length", value) for value in values)), end=end)


opened("content-length is the body's",
       with_length(b"4") + data(1, b"bo") + data(1, b"dy", end=True),
       tells=["request 1 b'body'"])  # fmt: skip
opened("padding is no part of content-length",
       with_length(b"4") + data(1, b"body", end=True, padding=9),
       tells=["request 1 b'body'"])  # fmt: skip
opened("content-length 0 without a body", with_length(b"0", end=True), tells=["request 1 b''"])
opened("content-length may be said twice alike", with_length(b"0", b"0", end=True),
       tells=["request 1 b''"])  # fmt: skip
for why, bad in {
    "is longer than the body": with_length(b"5") + data(1, b"body", end=True),
    "is shorter than the body": with_length(b"3") + data(1, b"body", end=True),
    "is longer than the body that trailers end": with_length(b"5") + data(1, b"body") + trailers(1),
    "comes without a body": with_length(b"1", end=True),
    "is said twice, not alike": with_length(b"0", b"00", end=True),
    "is no number": with_length(b"-0", end=True),
    "is a list": with_length(b"0, 0", end=True),
    "has 19 digits": with_length(b"0" * 19, end=True),
    "is empty": with_length(b"", end=True),
}.items():
    opened(f"content-length {why}", bad, says=["RST_STREAM 1 PROTOCOL_ERROR"])

# ---- RST_STREAM and WINDOW_UPDATE: section 6.4, 6.9; by state in test_states.py

opened("RST_STREAM on the connection", rst_stream(0), ends="0 PROTOCOL_ERROR")
opened("RST_STREAM of 3 bytes", headers(1) + frame(RST_STREAM, 0, 1, bytes(3)),
       tells=["request 1 b''"], ends="1 FRAME_SIZE_ERROR")  # fmt: skip
opened("RST_STREAM of 5 bytes", headers(1) + frame(RST_STREAM, 0, 1, bytes(5)),
       tells=["request 1 b''"], ends="1 FRAME_SIZE_ERROR")  # fmt: skip
opened("RST_STREAM with a code that nobody knows", headers(1) + rst_stream(1, 2**32 - 1),
       tells=["request 1 b''", f"stream 1 ended: {2**32 - 1}"])  # fmt: skip

opened("WINDOW_UPDATE by the most there is", window_update(0, 2**31 - 1 - 65_535))
opened("WINDOW_UPDATE's reserved bit is ignored", frame(WINDOW_UPDATE, 0, 0, b"\x80\0\0\1"))
opened("WINDOW_UPDATE by 0", window_update(0, 0), ends="0 PROTOCOL_ERROR")
opened("WINDOW_UPDATE by 0, its reserved bit aside", frame(WINDOW_UPDATE, 0, 0, b"\x80\0\0\0"),
       ends="0 PROTOCOL_ERROR")  # fmt: skip
opened("WINDOW_UPDATE over 2^31-1", window_update(0, 2**31 - 65_535), ends="0 FLOW_CONTROL_ERROR")
opened("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, bytes(3)), ends="0 FRAME_SIZE_ERROR")
opened("WINDOW_UPDATE of 5 bytes", frame(WINDOW_UPDATE, 0, 0, bytes(5)), ends="0 FRAME_SIZE_ERROR")
opened("WINDOW_UPDATE of a stream by 0", headers(1) + window_update(1, 0),
       says=["RST_STREAM 1 PROTOCOL_ERROR"],
       tells=["request 1 b''", "stream 1 ended: PROTOCOL_ERROR"])  # fmt: skip
opened("WINDOW_UPDATE of a stream over 2^31-1", headers(1) + window_update(1, 2**31 - 65_535),
       says=["RST_STREAM 1 FLOW_CONTROL_ERROR"],
       tells=["request 1 b''", "stream 1 ended: FLOW_CONTROL_ERROR"])  # fmt: skip
opened("a stream's window, the connection's, or both: they are counted apart",
       headers(1) + window_update(1, 2**31 - 1 - 65_535) + window_update(0, 2**31 - 1 - 65_535),
       tells=["request 1 b''"])  # fmt: skip
opened("SETTINGS that bring a stream's window over 2^31-1",
       headers(1) + window_update(1, 1) + settings((wire.INITIAL_WINDOW_SIZE, 2**31 - 1)),
       says=["SETTINGS ACK"], tells=["request 1 b''"], ends="1 FLOW_CONTROL_ERROR")  # fmt: skip

# ---- what is answered

opened("an answer ends its stream", headers(1), answer(1, b"body"),
       says=["HEADERS 1", "DATA 1 'body'", "HEADERS 1 END_STREAM"],
       tells=["request 1 b''"])  # fmt: skip
opened("an answer in the middle of a request resets the rest of it",
       headers(1, end=False) + data(1, b"x"), answer(1), data(1, b"y", end=True) + ping(),
       says=["HEADERS 1", "DATA 1 'ok'", "HEADERS 1 END_STREAM", "RST_STREAM 1 NO_ERROR",
             "PING '8 octets' ACK"])  # fmt: skip


# ---- each of them, in each way

ARRIVALS = {"whole": whole, "byte by byte": byte_by_byte}


@pytest.mark.parametrize(
    ("name", "arrival"),
    [pytest.param(*pair, id=" - ".join(pair)) for pair in product(CASES, ARRIVALS)],
)
def test_a_frame_does_the_same_however_it_arrives(name: str, arrival: str) -> None:
    steps, says, tells = CASES[name]
    arrive: Callable[[bytes], Iterator[bytes]] = ARRIVALS[arrival]
    said, told, connection = play(steps, arrive)
    assert (said, told) == (says, tells)
    assert connection.closed == (bool(tells) and tells[-1].startswith("connection ended"))


IN_USE = [name for name, one in CASES.items() if one.steps[0] == OPENING]


@pytest.mark.parametrize("name", IN_USE)
def test_what_follows_a_frame_changes_nothing_of_it(name: str) -> None:
    """The next frame, of which some or all has come with it."""
    steps, says, tells = CASES[name]
    following = ping(b"the next")
    ended = play(steps).connection.closed
    for cut in range(1, len(following)):
        with_some = _append(steps, following[:cut])
        said, told, _ = play(with_some)
        assert (said, told) == (says, tells), f"with {cut} bytes of a PING behind it"
        said, told, _ = play((*with_some, following[cut:]))
        assert (said, told) == (says + ["PING 'the next' ACK"] * (not ended), tells)


def _append(steps: tuple[Step, ...], more: bytes) -> tuple[Step, ...]:
    if isinstance(steps[-1], bytes):
        return (*steps[:-1], steps[-1] + more)
    return (*steps, more)
