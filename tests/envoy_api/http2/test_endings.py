"""How a connection ends: in order, at once, or since somebody took too long."""

import pytest

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.errors import ErrorCode
from support.http2 import (
    ACK,
    ANSWER_HEADERS,
    GREETING,
    INITIAL_WINDOW_SIZE,
    OPENING,
    PREFACE,
    SETTINGS_ACK,
    answer,
    block,
    data,
    event_line,
    goaway,
    headers,
    lines,
    ping,
    play,
    rst_stream,
    settings,
    window_update,
)

OUR_PING = ping(b"draining", ACK)


def opened(*more: bytes) -> Connection:
    return play((OPENING, *more)).connection


def sent(connection: Connection) -> list[str]:
    return lines(connection.take_output())


def told(connection: Connection, received: bytes) -> list[str]:
    return [event_line(event) for event in connection.receive(received, 0.0)]


def expired(connection: Connection, now: float) -> list[str]:
    return [event_line(event) for event in connection.expire(now)]


# ---- in order: section 6.8


def test_a_drain_says_so_twice_and_ends_when_all_is_answered() -> None:
    connection = opened(headers(1) + headers(3, end=False))
    connection.drain()
    assert sent(connection) == [f"GOAWAY {2**31 - 1} NO_ERROR", "PING 'draining'"]
    assert told(connection, headers(5)) == ["request 5 b''"]
    assert told(connection, OUR_PING) == []
    assert sent(connection) == ["GOAWAY 5 NO_ERROR"]
    assert told(connection, headers(7)) == []
    assert sent(connection) == ["RST_STREAM 7 REFUSED_STREAM"]
    answer(5)(connection)
    answer(1)(connection)
    assert not connection.closed
    assert told(connection, data(3, b"late", end=True)) == ["request 3 b'late'"]
    answer(3)(connection)
    assert connection.closed
    assert sent(connection)[-1] == "HEADERS 3 END_STREAM"


def test_a_drain_with_nothing_owed_ends_after_a_round_trip() -> None:
    connection = opened()
    connection.drain()
    sent(connection)
    assert told(connection, OUR_PING) == ["connection ended"]
    assert (sent(connection), connection.closed) == (["GOAWAY 0 NO_ERROR"], True)


def test_a_drain_goes_on_where_no_ping_comes_back() -> None:
    connection = opened(headers(1))
    connection.drain()
    assert expired(connection, limits.DRAIN_ROUND_TRIP) == []
    sent(connection)
    assert expired(connection, limits.DRAIN_ROUND_TRIP + 0.1) == []
    assert sent(connection) == ["GOAWAY 1 NO_ERROR"]
    assert expired(connection, limits.DRAIN_ROUND_TRIP + 1.1) == []
    assert told(connection, OUR_PING) == []
    assert sent(connection) == []
    answer(1)(connection)
    assert connection.closed


def test_a_second_drain_says_nothing_more() -> None:
    connection = opened()
    connection.drain()
    connection.drain()
    assert len(sent(connection)) == 2


def test_only_our_own_ping_ends_the_first_half_of_a_drain() -> None:
    connection = opened()
    assert told(connection, OUR_PING) == []
    connection.drain()
    sent(connection)
    assert told(connection, ping(b"somebody", ACK) + ping(b"draining")) == []
    assert not any("GOAWAY" in one for one in sent(connection))


def test_a_drain_before_the_peer_has_said_anything() -> None:
    connection = Connection(0.0)
    connection.drain()
    assert sent(connection) == [*GREETING, f"GOAWAY {2**31 - 1} NO_ERROR", "PING 'draining'"]
    assert told(connection, OPENING + headers(1) + OUR_PING) == ["request 1 b''"]
    answer(1)(connection)
    assert connection.closed


def test_a_drain_ends_by_the_window_that_lets_the_last_answer_go() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)), headers(1))
    answer(1)(connection)
    connection.drain()
    told(connection, OUR_PING)
    assert told(connection, window_update(1, 2) + headers(3)) == ["connection ended"]
    assert sent(connection)[-2:] == ["DATA 1 'ok'", "HEADERS 1 END_STREAM"]


def test_a_drain_ends_by_the_reset_of_the_last_stream() -> None:
    connection = opened(headers(1))
    connection.drain()
    assert told(connection, OUR_PING + rst_stream(1)) == [
        "stream 1 ended: CANCEL", "connection ended",
    ]  # fmt: skip


def test_after_the_peer_s_goaway_the_answers_owed_are_sent() -> None:
    connection = opened(headers(1) + goaway())
    assert not connection.closed
    assert answer(1)(connection)
    assert connection.closed
    assert sent(connection)[-1] == "HEADERS 1 END_STREAM"


# ---- at once


def test_close_leaves_what_is_not_answered() -> None:
    connection = opened(headers(1) + headers(3, end=False) + data(3, b"x"))
    connection.close(ErrorCode.INTERNAL_ERROR)
    assert sent(connection) == ["GOAWAY 3 INTERNAL_ERROR"]
    assert connection.closed
    assert (connection.open_streams, connection.buffered) == (0, 0)
    assert not answer(1)(connection)
    assert told(connection, headers(5)) == []
    connection.close()
    connection.drain()
    connection.reset(3, ErrorCode.CANCEL)
    assert expired(connection, 1e9) == []
    assert sent(connection) == []


def test_a_stream_is_given_up() -> None:
    connection = opened(headers(1) + headers(3, end=False) + data(3, b"x"))
    connection.reset(1, ErrorCode.INTERNAL_ERROR)
    connection.reset(3, ErrorCode.CANCEL)
    connection.reset(5, ErrorCode.CANCEL)
    connection.reset(1, ErrorCode.CANCEL)
    assert sent(connection) == ["RST_STREAM 1 INTERNAL_ERROR", "RST_STREAM 3 CANCEL"]
    assert (connection.open_streams, connection.buffered) == (0, 0)
    assert told(connection, data(3, b"y")) == []


def test_an_error_says_what_it_was() -> None:
    """In a text that is constant, and never the peer's own bytes."""
    connection = opened()
    connection.receive(headers(2), 0.0)
    assert connection.take_output().endswith(b"HEADERS on a stream that a client can't begin")


# ---- since somebody took too long

OVERDUE = limits.REQUEST_TIMEOUT + 0.1


@pytest.mark.parametrize("received", [b"", PREFACE[:5], PREFACE, PREFACE + settings()])
def test_the_beginning_must_come_in_time(received: bytes) -> None:
    """The preface, the peer's SETTINGS, and the acknowledgement of ours (section 6.5.3)."""
    connection = Connection(0.0)
    connection.receive(received, 0.0)
    assert expired(connection, limits.PREFACE_TIMEOUT) == []
    assert expired(connection, limits.PREFACE_TIMEOUT + 0.1) == [
        "connection ended: SETTINGS_TIMEOUT"
    ]
    assert sent(connection)[-1] == "GOAWAY 0 SETTINGS_TIMEOUT"


def test_a_connection_in_use_may_be_silent() -> None:
    connection = opened(headers(1))
    assert expired(connection, 1e6) == []
    answer(1)(connection)
    assert expired(connection, 1e9) == []
    assert not connection.closed


def test_a_body_must_come_in_time() -> None:
    """However often a little of it comes."""
    connection = opened(headers(1, end=False) + headers(3))
    for second in range(10):
        connection.receive(data(1, b"x"), float(second))
    sent(connection)
    assert expired(connection, limits.REQUEST_TIMEOUT) == []
    assert expired(connection, OVERDUE) == []
    assert sent(connection) == ["RST_STREAM 1 CANCEL"]
    assert (connection.open_streams, connection.buffered) == (1, 0)


def test_a_body_over_its_limit_must_end_in_time_too() -> None:
    connection = opened(headers(1, end=False))
    for _ in range(limits.MAX_BODY // 16_384 + 1):
        connection.receive(data(1, bytes(16_384)), 0.0)
    assert expired(connection, OVERDUE) == ["stream 1 ended: CANCEL"]


def test_a_header_block_must_come_in_time() -> None:
    connection = opened(headers(1, b"", flags=0))
    assert expired(connection, limits.REQUEST_TIMEOUT) == []
    assert expired(connection, OVERDUE) == ["connection ended: PROTOCOL_ERROR"]


@pytest.mark.parametrize("begun", [headers(1), headers(1, flags=0), data(1, b"two"), ping()])
def test_a_frame_must_come_in_time(begun: bytes) -> None:
    """However often a byte of it comes: it holds a connection, and nothing else could follow."""
    connection = opened()
    for second, octet in enumerate(begun[:10]):
        connection.receive(bytes((octet,)), float(second))
    assert expired(connection, limits.REQUEST_TIMEOUT) == []
    assert expired(connection, OVERDUE) == ["connection ended: PROTOCOL_ERROR"]


def test_frames_that_follow_each_other_in_halves_are_no_late_frame() -> None:
    """At any time one is under way, never the same for long."""
    connection = opened()
    half = len(ping()) // 2
    stream = ping()[:half]
    for second in range(100):
        connection.receive(stream, float(second))
        assert expired(connection, float(second)) == []
        stream = ping()[half:] + ping()[:half]


def test_an_answer_must_be_taken_in_time() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)), headers(1) + headers(3))
    answer(1)(connection)
    assert expired(connection, 5.0) == []
    answer(3)(connection)
    for second in range(6, 30):
        connection.receive(window_update(0, 1), float(second))
    sent(connection)
    assert expired(connection, limits.ANSWER_TIMEOUT) == []
    assert expired(connection, limits.ANSWER_TIMEOUT + 0.1) == ["stream 1 ended: CANCEL"]
    assert sent(connection) == ["RST_STREAM 1 CANCEL"]
    assert connection.buffered == 2


def test_an_answer_that_is_taken_a_byte_at_a_time_is_not_waited_for_for_ever() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)), headers(1))
    answer(1, bytes(4096))(connection)
    for tick in range(1, 301):
        connection.receive(window_update(1, 1), tick / 10)
    sent(connection)
    assert expired(connection, limits.ANSWER_TIMEOUT + 0.1) == ["stream 1 ended: CANCEL"]
    assert connection.buffered == 0


def test_an_answer_in_parts_may_pause() -> None:
    """A watch of the health service says something now and then."""
    connection = opened(headers(1))
    connection.send_headers(1, ANSWER_HEADERS)
    connection.send_data(1, b"one")
    assert expired(connection, 1e6) == []
    connection.send_data(1, b"two")
    assert sent(connection)[-1] == "DATA 1 'two'"


def test_a_late_acknowledgement_still_changes_what_blocks_mean() -> None:
    connection = Connection(0.0)
    connection.receive(PREFACE + settings(), 0.0)
    connection.receive(SETTINGS_ACK, limits.PREFACE_TIMEOUT)
    assert told(connection, headers(1, block())) == ["request 1 b''"]
    assert expired(connection, 1e9) == []
