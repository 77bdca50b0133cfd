"""Peers that ask for nothing, or for too much: each is stopped where `limits` says, what it makes
us hold is bounded, and those who only look like it go on.
"""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.events import RequestReceived
from support.http2 import (
    ACK,
    EMPTY_TABLE,
    INITIAL_WINDOW_SIZE,
    OPENING,
    SETTINGS_ACK,
    answer,
    block,
    continuation,
    data,
    event_line,
    frame,
    headers,
    lines,
    literals,
    ping,
    play,
    priority,
    rst_stream,
    settings,
    window_update,
)

CALMED = "connection ended: ENHANCE_YOUR_CALM"
MiB = 1024 * 1024


def opened(*more: bytes) -> Connection:
    return play((OPENING, *more)).connection


def feed(connection: Connection, received: bytes, now: float = 0.0) -> list[str]:
    """The output is taken at once, as by a peer that reads."""
    events = [event_line(event) for event in connection.receive(received, now)]
    connection.take_output()
    return events


# ---- frames that ask for nothing

NOT_A_HEAD = headers(1, EMPTY_TABLE + literals((b"x", b"y")), end=False)
"""After it stream 1 is one that we reset."""

IDLE_FRAMES: dict[str, tuple[bytes, bytes]] = {
    "PING (CVE-2019-9512)": (b"", ping()),
    "PING that is acknowledged": (b"", ping(flags=ACK)),
    "SETTINGS (CVE-2019-9515)": (b"", settings()),
    "SETTINGS that are acknowledged": (b"", SETTINGS_ACK),
    "PRIORITY (CVE-2019-9513)": (b"", priority(1)),
    "WINDOW_UPDATE of the connection": (b"", window_update(0, 1)),
    "WINDOW_UPDATE of a stream": (headers(1), window_update(1, 1)),
    "WINDOW_UPDATE of a stream that is gone": (headers(1) + rst_stream(1), window_update(1, 1)),
    "empty DATA (CVE-2019-9518)": (headers(1, end=False), data(1)),
    "DATA of nothing but padding": (headers(1, end=False), data(1, padding=1)),
    "DATA of a stream that we reset": (NOT_A_HEAD, data(1, b"x")),
    "HEADERS of a stream that we reset": (NOT_A_HEAD, headers(1)),
    "RST_STREAM of a stream that is gone": (headers(1) + rst_stream(1), rst_stream(1)),
    "RST_STREAM of a stream that we reset": (NOT_A_HEAD, rst_stream(1)),
    "an unknown type": (b"", frame(99, 0, 7, b"whatever")),
}


@pytest.mark.parametrize("name", IDLE_FRAMES)
def test_a_flood_of_idle_frames_is_stopped(name: str) -> None:
    before, flood = IDLE_FRAMES[name]
    connection = opened(before)
    assert feed(connection, flood * (limits.IDLE_BURST - 1)) == []
    assert feed(connection, flood * 2) == [CALMED]
    assert connection.closed


@pytest.mark.parametrize("name", IDLE_FRAMES)
def test_the_same_frames_at_a_bearable_rate_go_on(name: str) -> None:
    before, flood = IDLE_FRAMES[name]
    connection = opened(before)
    for tenth in range(600):
        assert feed(connection, flood * (limits.IDLE_PER_SECOND // 10), tenth / 10) == []
    assert not connection.closed


def test_patience_that_was_spent_grows_back_no_further_than_it_was() -> None:
    connection = opened()
    feed(connection, ping() * (limits.IDLE_BURST - 1))
    assert feed(connection, ping() * limits.IDLE_BURST, now=3600.0) == []
    assert feed(connection, ping(), now=3600.0) == [CALMED]


def test_goaway_after_goaway_is_stopped() -> None:
    connection = opened(headers(1))
    assert feed(connection, frame(7, 0, 0, bytes(8)) * limits.IDLE_BURST) == []
    assert feed(connection, frame(7, 0, 0, bytes(8))) == [CALMED]


def test_settings_that_move_many_windows_count_as_much_as_they_cost() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)))
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        feed(connection, headers(stream))
        answer(stream)(connection)
    moved = 0
    while not connection.closed:
        feed(connection, settings((INITIAL_WINDOW_SIZE, moved % 2)))
        moved += 1
    assert moved <= limits.IDLE_BURST // 32


def test_blocks_that_are_decoded_for_nothing_count_as_much_as_they_cost() -> None:
    many_fields = headers(1, EMPTY_TABLE + b"\x95" * 400)
    connection = opened(NOT_A_HEAD)
    for _ in range(limits.IDLE_BURST // 51 + 1):
        feed(connection, many_fields)
    assert connection.closed


# ---- streams that come to nothing


def test_rapid_reset_is_stopped() -> None:
    """CVE-2023-44487: begun and given up at once, so that never many are open."""
    connection = opened()
    told: list[str] = []
    for stream in range(1, 2 * (limits.RESET_BURST + 10), 2):
        told += feed(connection, headers(stream) + rst_stream(stream))
    assert told[-1] == CALMED
    assert sum(one.startswith("request") for one in told) == limits.RESET_BURST + 1


MADE_RESETS: dict[str, Callable[[int], bytes]] = {
    "a head that is none": lambda stream: headers(stream, EMPTY_TABLE + literals((b"x", b"y"))),
    "WINDOW_UPDATE by 0": lambda stream: headers(stream) + window_update(stream, 0),
    "WINDOW_UPDATE by too much": lambda stream: headers(stream) + window_update(stream, 2**31 - 1),
    "DATA after the end": lambda stream: headers(stream) + data(stream, b"x"),
    "HEADERS after the end": lambda stream: headers(stream) + headers(stream),
    "PRIORITY of a wrong size": lambda stream: headers(stream) + priority(stream, b""),
    "a wrong content-length": lambda stream: headers(stream, block((b"content-length", b"1"))),
}


@pytest.mark.parametrize("name", MADE_RESETS)
def test_made_you_reset_is_stopped(name: str) -> None:
    """CVE-2025-8671: the peer doesn't reset its streams, it makes us do so."""
    connection = opened()
    told: list[str] = []
    streams = count(1, 2)
    for _ in range(limits.RESET_BURST):
        told += feed(connection, MADE_RESETS[name](next(streams)))
    assert not connection.closed
    told += feed(connection, MADE_RESETS[name](next(streams)))
    assert told[-1] == CALMED


def test_more_streams_than_allowed_are_refused_and_then_stopped() -> None:
    """What is refused was still decoded: a table that is in use stays right."""
    connection = opened()
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        assert len(connection.receive(headers(stream), 0.0)) == 1
    connection.take_output()
    first = 2 * limits.MAX_CONCURRENT_STREAMS + 1
    for stream in range(first, first + 2 * limits.RESET_BURST, 2):
        assert connection.receive(headers(stream), 0.0) == []
    said = lines(connection.take_output())
    assert said[0] == f"RST_STREAM {first} REFUSED_STREAM"
    assert len(said) == limits.RESET_BURST
    assert connection.open_streams == limits.MAX_CONCURRENT_STREAMS
    assert feed(connection, headers(first + 2 * limits.RESET_BURST)) == [CALMED]


def test_an_envoy_that_gives_up_all_its_streams_twice_goes_on() -> None:
    connection = opened()
    streams = count(1, 2)
    for _ in range(2):
        begun = [next(streams) for _ in range(limits.MAX_CONCURRENT_STREAMS)]
        feed(connection, b"".join(map(headers, begun)))
        told = feed(connection, b"".join(map(rst_stream, begun)))
        assert len(told) == limits.MAX_CONCURRENT_STREAMS
    assert feed(connection, headers(next(streams))) != []
    assert not connection.closed


def test_resets_at_a_bearable_rate_go_on() -> None:
    connection = opened()
    streams = count(1, 2)
    for tenth in range(600):
        for _ in range(limits.RESETS_PER_SECOND // 10):
            stream = next(streams)
            feed(connection, headers(stream) + rst_stream(stream), tenth / 10)
    assert not connection.closed


def test_frames_of_all_streams_that_were_refused_may_still_come() -> None:
    """A peer that hasn't read our SETTINGS may begin any number, and then send their bodies."""
    connection = opened()
    begun = range(1, 2 * (limits.MAX_CONCURRENT_STREAMS + limits.RESET_BURST), 2)
    feed(connection, b"".join(headers(stream, end=False) for stream in begun))
    for stream in begun:
        feed(connection, data(stream, b"x", end=True))
    assert not connection.closed


# ---- header blocks


def test_continuation_without_end_is_stopped() -> None:
    """CVE-2024-27316: a block that goes on and on."""
    connection = opened(headers(1, block(), flags=0))
    for _ in range(limits.MAX_CONTINUATIONS):
        assert feed(connection, continuation(1, b"", end=False)) == []
    assert feed(connection, continuation(1, b"", end=False)) == [CALMED]


def test_a_header_block_that_grows_is_stopped() -> None:
    connection = opened(headers(1, bytes(16_384), flags=0))
    for taken in range(limits.MAX_CONTINUATIONS):
        assert connection.buffered == (1 + taken) * 16_384
        assert feed(connection, continuation(1, bytes(16_384), end=False)) == []
    assert feed(connection, continuation(1, b"\0", end=False)) == [CALMED]
    assert connection.buffered == 0


def heavy(stream: int, fields: int) -> bytes:
    """A request whose head takes 40 times its bytes in memory, unlike all others."""
    return headers(stream, block((b"n", b"%d" % stream), *[(b"a", b"")] * fields), end=False)


def test_heads_that_take_much_memory_are_refused_together() -> None:
    """Each is within its limit; it is their number on streams that don't end."""
    connection = opened()
    for stream in range(1, 400, 2):
        feed(connection, heavy(stream, 400))
    held = sum(stream.head.weight for stream in connection._here.values())
    assert limits.MAX_HEADS // 2 < held <= limits.MAX_HEADS
    assert connection.open_streams < 100
    assert not connection.closed


def test_equal_heads_of_any_weight_are_counted_once() -> None:
    """As they are one object: an Envoy that sends a lot of metadata with each check."""
    connection = opened()
    large = block(*((b"n%d" % n, b"v" * 100) for n in range(20)))
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        assert feed(connection, headers(stream, large)) != []
    assert connection.open_streams == limits.MAX_CONCURRENT_STREAMS


# ---- answers that nobody takes


def test_answers_that_are_not_taken_are_bounded() -> None:
    """1,024 of the largest denial, 4 KiB, may wait; a byte more and the peer is given up."""
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)))
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        feed(connection, headers(stream))
        assert answer(stream, bytes(4096))(connection)
    assert connection.buffered == limits.MAX_QUEUED
    feed(connection, rst_stream(1) + headers(2 * limits.MAX_CONCURRENT_STREAMS + 1))
    assert not answer(2 * limits.MAX_CONCURRENT_STREAMS + 1, bytes(4097))(connection)
    assert lines(connection.take_output())[-1].endswith("ENHANCE_YOUR_CALM")
    assert (connection.closed, connection.buffered) == (True, 0)


def test_answers_that_are_taken_after_all_arrive_whole() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)))
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        feed(connection, headers(stream))
        answer(stream, bytes(4096))(connection)
    connection.take_output()
    connection.receive(settings((INITIAL_WINDOW_SIZE, 4096)), 1.0)
    connection.receive(window_update(0, limits.MAX_QUEUED), 1.0)
    assert sum(one.endswith("END_STREAM") for one in lines(connection.take_output())) == 1024
    assert (connection.open_streams, connection.buffered) == (0, 0)


def test_a_window_that_opens_by_a_byte_at_a_time_is_bounded() -> None:
    """CVE-2019-9511, the data dribble: each byte costs a frame, and the peer a frame, too."""
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)))
    feed(connection, headers(1))
    answer(1, bytes(65_536))(connection)
    dribbled = 0
    while not connection.closed:
        feed(connection, window_update(1, 1))
        dribbled += 1
    assert dribbled <= limits.IDLE_BURST + limits.IDLE_PER_REQUEST


# ---- bodies


def test_a_body_of_single_bytes_is_taken_up_to_its_limit() -> None:
    """It asks for a check, if in an odd way; time is what bounds it."""
    connection = opened(headers(1, end=False))
    for _ in range(8):
        assert feed(connection, data(1, b"x") * 65_536) == []
    assert connection.buffered == 8 * 65_536
    for _ in range(limits.MAX_BODY // 16_384 - 32):
        assert feed(connection, data(1, bytes(16_384))) == []
    assert feed(connection, data(1, b"123456")) == ["too large 1"]


# ---- those who are in order


def test_a_peer_with_small_windows_may_update_them_after_each_answer() -> None:
    """Twenty thousand checks in no time, with two updates each."""
    connection = opened()
    told = 0
    for stream in range(1, 40_000, 2):
        events = connection.receive(headers(stream, end=False) + data(stream, b"x", end=True), 0.0)
        told += len(events)
        answer(stream, bytes(600))(connection)
        connection.receive(window_update(0, 600) + window_update(stream, 600), 0.0)
        connection.take_output()
    assert (told, connection.closed) == (20_000, False)
    assert (connection.open_streams, connection.buffered) == (0, 0)


def test_a_long_lived_connection_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of checks with different heads, some reset from either side."""
    monkeypatch.setattr(limits, "REMEMBERED_RESETS", 64)
    connection = opened()

    def serve(streams: range) -> None:
        for stream in streams:
            now = stream / 100
            one = headers(stream, block((b"n", b"%d" % stream)))
            connection.receive(one, now)
            match stream % 8:
                case 1:
                    connection.receive(rst_stream(stream), now)
                case 3:
                    connection.receive(data(stream), now)
                case _:
                    answer(stream)(connection)
            connection.receive(window_update(0, 2), now)
            connection.take_output()

    with traced() as taken:
        serve(range(1, 2001, 2))
        gc.collect()
        after_the_first = taken()
        serve(range(2001, 8001, 2))
        gc.collect()
        assert taken() - after_the_first < 32 * 1024
    assert (connection.open_streams, connection.buffered, connection.closed) == (0, 0, False)


# ---- memory: `limits.MEMORY`


class traced:  # noqa: N801  used as a function
    """Bytes that were allocated since."""

    def __enter__(self) -> Callable[[], int]:
        gc.collect()
        tracemalloc.start()
        start = tracemalloc.get_traced_memory()[0]
        return lambda: tracemalloc.get_traced_memory()[0] - start

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()


def hoard_bodies() -> Iterator[bytes]:
    """As much as the connection's window lets unfinished bodies take."""
    streams = range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2)
    for stream in streams:
        yield headers(stream, end=False)
    size = limits.CONNECTION_WINDOW // limits.MAX_CONCURRENT_STREAMS - 16
    for stream in streams:
        yield data(stream, bytes(size))


def hoard_heads() -> Iterator[bytes]:
    """Heavy heads up to their limit, then as heavy ones as are small, and bodies."""
    for stream in range(1, 150, 2):
        yield heavy(stream, 400)
    for stream in range(151, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        yield heavy(stream, 16)
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        yield data(stream, bytes(8000))


def hoard_memo() -> Iterator[bytes]:
    """Blocks to be remembered, each as heavy as one may be."""
    for stream in range(1, 2 * limits.MEMO_BLOCKS + 1, 2):
        yield heavy(stream, 40)
        yield rst_stream(stream)


def hoard_resets() -> Iterator[bytes]:
    """Streams that we reset, and expect frames of."""
    for stream in range(1, 2 * limits.RESET_BURST, 2):
        yield headers(stream, EMPTY_TABLE + literals((b"x", b"y")), end=False)


def hoard_answers() -> Iterator[bytes]:
    yield settings((INITIAL_WINDOW_SIZE, 0))
    for stream in range(1, 2 * limits.MAX_CONCURRENT_STREAMS, 2):
        yield headers(stream)


HOARDS = [hoard_bodies, hoard_heads, hoard_memo, hoard_resets, hoard_answers]


@pytest.mark.parametrize("hoard", HOARDS, ids=lambda hoard: hoard.__name__)
def test_what_a_connection_holds_is_bounded(hoard: Callable[[], Iterator[bytes]]) -> None:
    connection = opened()
    with traced() as taken:
        for received in hoard():
            for event in connection.receive(received, 0.0):
                if isinstance(event, RequestReceived):
                    answer(event.stream_id, bytes(4096))(connection)
                del event
            connection.take_output()
        held = taken()
        assert not connection.closed
        assert connection.buffered <= limits.CONNECTION_WINDOW + limits.MAX_QUEUED
        assert held <= limits.MEMORY
    connection.close()
    assert connection.buffered == 0
