"""Windows, both ways (RFC 9113 sections 5.2 and 6.9), and answers that wait for one."""

from collections.abc import Iterator

import pytest

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.connection import Connection
from support.http2 import (
    ANSWER_HEADERS,
    ANSWER_TRAILERS,
    DATA,
    INITIAL_WINDOW_SIZE,
    OPENING,
    answer,
    data,
    event_line,
    frames_of,
    headers,
    lines,
    literals,
    play,
    rst_stream,
    settings,
    window_update,
)

MAX = 2**31 - 1
STREAM_WINDOW, CONNECTION_WINDOW = limits.STREAM_WINDOW, limits.CONNECTION_WINDOW


def opened(*more: bytes) -> Connection:
    return play((OPENING, *more)).connection


def sent(connection: Connection) -> list[str]:
    """What it has to say, DATA by its length."""
    return [
        one if frame.kind != DATA else f"DATA {frame.stream} of {len(frame.payload)}"
        for output in (connection.take_output(),)
        for frame, one in zip(frames_of(output), lines(output), strict=True)
    ]


def told(connection: Connection, *received: bytes) -> list[str]:
    return [event_line(event) for one in received for event in connection.receive(one, 0.0)]


def upload(stream: int, size: int, *, frame: int = 16_384) -> Iterator[bytes]:
    """The body of a request, not ended."""
    for _ in range(size // frame):
        yield data(stream, bytes(frame))
    if size % frame:
        yield data(stream, bytes(size % frame))


# ---- what we may send


@pytest.mark.parametrize("size", [0, 1, 16_384])
def test_an_answer_that_fits_leaves_at_once(size: int) -> None:
    connection = opened(headers(1))
    assert answer(1, bytes(size))(connection)
    assert sent(connection) == ["HEADERS 1", f"DATA 1 of {size}", "HEADERS 1 END_STREAM"]
    assert (connection.open_streams, connection.buffered) == (0, 0)


def test_a_large_answer_leaves_in_frames_that_every_peer_takes() -> None:
    connection = opened(headers(1))
    answer(1, bytes(40_000))(connection)
    assert sent(connection) == [
        "HEADERS 1", "DATA 1 of 16384", "DATA 1 of 16384", "DATA 1 of 7232", "HEADERS 1 END_STREAM",
    ]  # fmt: skip


def test_an_answer_waits_for_the_window_of_the_connection() -> None:
    """65,535 bytes until the peer says more, for all streams together."""
    connection = opened(headers(1) + headers(3))
    answer(1, bytes(65_000))(connection)
    answer(3, bytes(1000))(connection)
    assert sent(connection)[-2:] == ["HEADERS 3", "DATA 3 of 535"]
    assert (connection.open_streams, connection.buffered) == (1, 465)
    told(connection, window_update(3, 1000))
    assert sent(connection) == []
    told(connection, window_update(0, 464))
    assert sent(connection) == ["DATA 3 of 464"]
    told(connection, window_update(0, 1))
    assert sent(connection) == ["DATA 3 of 1", "HEADERS 3 END_STREAM"]
    assert (connection.open_streams, connection.buffered) == (0, 0)


def test_an_answer_waits_for_the_window_of_its_stream() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 10)), headers(1) + headers(3))
    answer(1, b"twelve bytes")(connection)
    assert sent(connection) == ["HEADERS 1", "DATA 1 of 10"]
    told(connection, window_update(0, 1000))
    assert sent(connection) == []
    answer(3, b"short")(connection)
    assert sent(connection)[-1] == "HEADERS 3 END_STREAM"
    told(connection, window_update(1, 2))
    assert sent(connection) == ["DATA 1 of 2", "HEADERS 1 END_STREAM"]


def test_answers_that_wait_for_the_connection_leave_in_their_order() -> None:
    connection = opened(*(headers(stream) for stream in (1, 3, 5, 7)))
    answer(1, bytes(65_535))(connection)
    for stream in (5, 3, 7):
        answer(stream, bytes(10))(connection)
    told(connection, rst_stream(3))
    sent(connection)
    told(connection, window_update(0, 15))
    assert sent(connection) == ["DATA 5 of 10", "HEADERS 5 END_STREAM", "DATA 7 of 5"]


def test_an_answer_with_no_body_needs_no_window() -> None:
    """Not even one below zero."""
    connection = opened(settings((INITIAL_WINDOW_SIZE, 100)), headers(1) + headers(3))
    answer(1, bytes(1000))(connection)
    told(connection, settings((INITIAL_WINDOW_SIZE, 0)))
    sent(connection)
    answer(3, b"")(connection)
    assert sent(connection)[-1] == "HEADERS 3 END_STREAM"


def test_a_smaller_initial_window_takes_windows_below_zero() -> None:
    """What is owed must be given before more is sent (section 6.9.2)."""
    connection = opened(settings((INITIAL_WINDOW_SIZE, 100)), headers(1))
    answer(1, bytes(150))(connection)
    sent(connection)
    told(connection, settings((INITIAL_WINDOW_SIZE, 30)))
    assert sent(connection) == ["SETTINGS ACK"]
    told(connection, window_update(1, 70))
    assert sent(connection) == []
    told(connection, window_update(1, 1))
    assert sent(connection) == ["DATA 1 of 1"]
    told(connection, settings((INITIAL_WINDOW_SIZE, 79)))
    assert sent(connection) == ["SETTINGS ACK", "DATA 1 of 49", "HEADERS 1 END_STREAM"]


def test_a_larger_initial_window_lets_go_what_waits_for_a_stream() -> None:
    """Behind the acknowledgement, before which the peer may hold us to the smaller one."""
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)), headers(1) + headers(3))
    answer(1, b"one")(connection)
    answer(3, b"three")(connection)
    assert sent(connection) == ["HEADERS 1", "HEADERS 3"]
    told(connection, settings((INITIAL_WINDOW_SIZE, 4)))
    assert sent(connection) == [
        "SETTINGS ACK",
        "DATA 1 of 3",
        "HEADERS 1 END_STREAM",
        "DATA 3 of 4",
    ]


def test_new_streams_have_the_window_of_the_last_settings() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 9), (INITIAL_WINDOW_SIZE, 2)), headers(1))
    answer(1, b"one")(connection)
    assert sent(connection)[-1] == "DATA 1 of 2"


def test_an_answer_in_parts_leaves_as_it_comes() -> None:
    connection = opened(headers(1))
    assert connection.send_headers(1, ANSWER_HEADERS)
    assert connection.send_data(1, b"one")
    assert sent(connection) == ["HEADERS 1", "DATA 1 of 3"]
    assert connection.open_streams == 1
    assert connection.send_data(1, bytes(65_535))
    assert connection.send_data(1, b"two")
    assert connection.send_trailers(1, ANSWER_TRAILERS)
    assert sent(connection)[-1] == f"DATA 1 of {65_535 - 3 - 3 * 16_384}"
    assert connection.buffered == 6
    told(connection, window_update(0, 6) + window_update(1, 6))
    assert sent(connection) == ["DATA 1 of 6", "HEADERS 1 END_STREAM"]
    assert (connection.open_streams, connection.buffered) == (0, 0)


def test_an_answer_of_headers_alone() -> None:
    connection = opened(headers(1))
    assert connection.send_headers(1, literals((b":status", b"415")), end_stream=True)
    assert sent(connection) == ["HEADERS 1 END_STREAM"]
    assert connection.open_streams == 0


def test_an_answer_comes_too_late_for_a_stream_that_is_gone() -> None:
    connection = opened(headers(1) + headers(3))
    answer(1)(connection)
    told(connection, rst_stream(3))
    sent(connection)
    for stream in (1, 3, 5, 0):
        assert not answer(stream)(connection)
        assert not connection.send_headers(stream, ANSWER_HEADERS)
        assert not connection.send_data(stream, b"x")
        assert not connection.send_trailers(stream, ANSWER_TRAILERS)
    assert sent(connection) == []


def test_a_reset_drops_the_answer_that_waits() -> None:
    connection = opened(settings((INITIAL_WINDOW_SIZE, 0)), headers(1) + headers(3))
    answer(1, bytes(100))(connection)
    answer(3, bytes(7))(connection)
    assert connection.buffered == 107
    assert told(connection, rst_stream(1)) == ["stream 1 ended: CANCEL"]
    assert (connection.open_streams, connection.buffered) == (1, 7)
    sent(connection)
    told(connection, settings((INITIAL_WINDOW_SIZE, 1000)))
    assert sent(connection) == ["SETTINGS ACK", "DATA 3 of 7", "HEADERS 3 END_STREAM"]


# ---- what the peer may send


def test_the_greeting_opens_the_windows() -> None:
    assert lines(Connection(0.0).take_output()) == [
        "SETTINGS 1=0 3=1024 4=262144 6=16384",
        f"WINDOW_UPDATE 0 +{CONNECTION_WINDOW - 65_535}",
    ]


def test_a_body_up_to_the_window_of_its_stream_is_taken() -> None:
    connection = opened(headers(1, end=False))
    told(connection, *upload(1, STREAM_WINDOW // 2 - 1))
    assert sent(connection) == []
    told(connection, data(1, b"x"))
    assert sent(connection) == [f"WINDOW_UPDATE 1 +{STREAM_WINDOW // 2}"]
    assert connection.buffered == STREAM_WINDOW // 2


def test_a_body_over_the_window_of_its_stream_resets_it() -> None:
    """Padding counts. A window is extended as soon as half of it is used, so this is hard to do."""
    connection = opened(headers(1, end=False) + headers(3))
    connection._here[1].receive_window = 255
    told(connection, data(1, b"", padding=255))
    assert sent(connection)[-1] == "RST_STREAM 1 FLOW_CONTROL_ERROR"
    assert (connection.open_streams, connection.buffered) == (1, 0)


def test_padding_takes_window_and_gives_it_back() -> None:
    connection = opened(headers(1, end=False))
    frames = STREAM_WINDOW // 2 // 256
    told(connection, data(1, b"", padding=255) * frames)
    assert sent(connection) == [f"WINDOW_UPDATE 1 +{frames * 256}"]
    assert connection.buffered == 0
    inbox = connection._requests.inbox
    assert inbox.window + inbox._freed == CONNECTION_WINDOW


def finish(connection: Connection, stream: int, size: int) -> list[str]:
    events = told(
        connection, headers(stream, end=False), *upload(stream, size), data(stream, end=True)
    )
    answer(stream)(connection)
    return events


def test_the_connection_s_window_is_extended_by_what_was_finished() -> None:
    connection = opened()
    for stream in (1, 3, 5):
        finish(connection, stream, 1024 * 1024)
    assert not any(one.startswith("WINDOW_UPDATE 0") for one in sent(connection))
    finish(connection, 7, 1024 * 1024)
    assert f"WINDOW_UPDATE 0 +{CONNECTION_WINDOW // 2}" in sent(connection)


@pytest.mark.parametrize("end", ["reset by the peer", "reset by us", "malformed", "answered"])
def test_the_connection_s_window_is_given_back_however_a_body_ends(end: str) -> None:
    connection = opened(headers(1, end=False))
    told(connection, *upload(1, 200_000))
    match end:
        case "reset by the peer":
            told(connection, rst_stream(1))
        case "reset by us":
            connection.reset(1, 8)  # type: ignore[arg-type]
        case "malformed":
            told(connection, headers(1, end=False))
        case "answered":
            answer(1)(connection)
    assert connection.buffered == 0
    inbox = connection._requests.inbox
    assert inbox._freed == 200_000
    assert inbox.window + inbox._freed == CONNECTION_WINDOW


def test_data_for_a_stream_that_we_reset_still_counts() -> None:
    """For the connection (section 5.1): or the two sides would disagree for ever."""
    connection = opened(headers(1, end=False))
    told(connection, headers(1, end=False), *upload(1, 100_000))
    inbox = connection._requests.inbox
    assert (inbox.window, inbox._freed) == (CONNECTION_WINDOW - 100_000, 100_000)


def test_data_after_the_end_of_its_stream_still_counts() -> None:
    connection = opened(headers(1))
    told(connection, data(1, bytes(1000), padding=9))
    assert sent(connection) == ["RST_STREAM 1 STREAM_CLOSED"]
    inbox = connection._requests.inbox
    assert (inbox.window, inbox._freed) == (CONNECTION_WINDOW - 1010, 1010)


def test_more_than_the_connection_s_window_ends_it() -> None:
    connection = opened(headers(1, end=False))
    connection._requests.inbox.window = 100
    assert told(connection, data(1, bytes(101))) == ["connection ended: FLOW_CONTROL_ERROR"]


def test_the_largest_body_there_may_be() -> None:
    connection = opened()
    (event,) = finish(connection, 1, limits.MAX_BODY)
    assert event.startswith("request 1 b'\\x00")
    assert connection.buffered == 0


def test_a_body_over_the_limit_is_told_at_once_and_dropped() -> None:
    connection = opened(headers(1, end=False))
    assert told(connection, *upload(1, limits.MAX_BODY)) == []
    assert told(connection, data(1, b"x")) == ["too large 1"]
    assert connection.buffered == 0
    assert told(connection, *upload(1, 1_000_000)) == []
    assert connection.buffered == 0
    sent(connection)
    connection.send_headers(1, literals((b":status", b"200")), end_stream=True)
    assert sent(connection) == ["HEADERS 1 END_STREAM", "RST_STREAM 1 NO_ERROR"]
    assert told(connection, data(1, b"x")) == []


def test_a_body_over_the_limit_that_ended_needs_no_reset() -> None:
    connection = opened(headers(1, end=False))
    told(connection, *upload(1, limits.MAX_BODY))
    assert told(connection, data(1, b"x", end=True)) == ["too large 1"]
    sent(connection)
    answer(1)(connection)
    assert sent(connection)[-1] == "HEADERS 1 END_STREAM"


def test_bodies_that_fill_the_window_unfinished_don_t_stop_each_other_for_ever() -> None:
    """The longest is refused, which the peer may try again; the others can be finished."""
    connection = opened(*(headers(stream, end=False) for stream in range(1, 81, 2)))
    for _ in range(STREAM_WINDOW // 16_384):
        for stream in range(1, 81, 2):
            told(connection, data(stream, bytes(16_384), end=False))
    said = sent(connection)
    refused = [one for one in said if one.endswith("REFUSED_STREAM")]
    assert refused
    assert connection.buffered <= CONNECTION_WINDOW
    assert any(one.startswith("WINDOW_UPDATE 0") for one in said)
    inbox = connection._requests.inbox
    assert inbox.window + inbox._freed + inbox.held == CONNECTION_WINDOW
    gone = {int(one.split()[1]) for one in refused}
    finished = [
        event
        for stream in range(1, 81, 2)
        if stream not in gone
        for event in told(connection, data(stream, end=True))
    ]
    assert len(finished) == 40 - len(gone) >= 20


def test_a_small_rest_of_the_window_is_extended_by_what_is_free() -> None:
    """Before half of it is free: with 7 MiB held, the other MiB has to be enough to go on."""
    connection = opened(headers(1, end=False) + headers(3, end=False))
    told(connection, *upload(1, 4 * 1024 * 1024))
    told(connection, *upload(3, 3 * 1024 * 1024))
    sent(connection)
    for stream in range(5, 105, 2):
        finish(connection, stream, 64 * 1024)
    said = sent(connection)
    assert any(one.startswith("WINDOW_UPDATE 0") for one in said)
    assert not any("REFUSED" in one for one in said)
    assert told(connection, data(1, end=True)) != []


def test_the_window_that_slow_bodies_took_is_given_back_when_they_are_given_up() -> None:
    """Without waiting for a word of the peer's, who may have none to say."""
    connection = opened(headers(1, end=False) + headers(3, end=False))
    told(connection, *upload(1, 4 * 1024 * 1024), *upload(3, 4 * 1024 * 1024 - 20_000))
    sent(connection)
    connection.expire(limits.REQUEST_TIMEOUT + 1)
    taken = 8 * 1024 * 1024 - 20_000
    assert sent(connection) == [
        "RST_STREAM 1 CANCEL", "RST_STREAM 3 CANCEL", f"WINDOW_UPDATE 0 +{taken}",
    ]  # fmt: skip
