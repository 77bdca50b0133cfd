"""Each frame in each state of a stream, beside the sentence of RFC 9113 that says what is due."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from authz.envoy_api.http2.errors import Http2Error
from authz.envoy_api.http2.streams import (
    ANSWERING,
    BODY,
    BODY_END,
    CLOSED,
    HEAD,
    HEAD_END,
    IDLE,
    OPEN,
    PEER_RESET,
    RECEIVED,
    RESET,
    SKIPPED,
    WINDOW,
    after,
)
from support.http2 import (
    EMPTY_TABLE,
    OPENING,
    PUSH_PROMISE,
    Step,
    answer,
    continuation,
    data,
    frame,
    headers,
    literals,
    ping,
    play,
    priority,
    rst_stream,
    trailers,
    window_update,
)

STREAM = 5

STATES: dict[str, Sequence[Step]] = {
    "idle": (headers(3),),
    "skipped": (headers(7),),
    "open": (headers(STREAM, end=False) + data(STREAM, b"bo"),),
    "half-closed": (headers(STREAM),),
    "closed": (headers(STREAM), answer(STREAM)),
    "reset by the peer": (headers(STREAM, end=False) + rst_stream(STREAM),),
    "reset by us": (headers(STREAM, EMPTY_TABLE + literals((b"not", b"a head")), end=False),),
    "answered early": (headers(STREAM, end=False), answer(STREAM)),
}
"""How stream 5 gets there."""

FRAMES = {
    "HEADERS": headers(STREAM, end=False),
    "HEADERS END_STREAM": trailers(STREAM, (b"x", b"y")),
    "DATA": data(STREAM, b"dy"),
    "DATA END_STREAM": data(STREAM, b"dy", end=True),
    "RST_STREAM": rst_stream(STREAM),
    "WINDOW_UPDATE": window_update(STREAM, 1),
    "PRIORITY": priority(STREAM),
    "CONTINUATION": continuation(STREAM, b""),
    "PUSH_PROMISE": frame(PUSH_PROMISE, 4, STREAM, bytes(4)),
}


class Due(NamedTuple):
    says: str
    """The frame that answers it; empty where there is none."""
    tells: str = ""


IGNORED = Due("")
PROTOCOL_ERROR = Due("GOAWAY {last} PROTOCOL_ERROR", "connection ended: PROTOCOL_ERROR")
STREAM_CLOSED = Due("GOAWAY {last} STREAM_CLOSED", "connection ended: STREAM_CLOSED")
STREAM_CLOSED_ALONE = Due("RST_STREAM 5 STREAM_CLOSED", "stream 5 ended: STREAM_CLOSED")

SENTENCES = {
    "idle": "5.1: receiving any frame other than HEADERS or PRIORITY in this state MUST be treated "
    "as a connection error of type PROTOCOL_ERROR",
    "skipped": "5.1.1: the first use of a new identifier closes all lower ones that are idle; an "
    "unexpected identifier MUST be answered with a connection error of type PROTOCOL_ERROR",
    "open": "5.1: in this state, either side may send any frame; 8.1: trailers end the stream, or "
    "are malformed, which 8.1.1 makes a stream error of type PROTOCOL_ERROR",
    "half-closed": "5.1: additional frames other than WINDOW_UPDATE, PRIORITY, or RST_STREAM MUST "
    "be answered with a stream error of type STREAM_CLOSED",
    "closed": "5.1: WINDOW_UPDATE and RST_STREAM MUST be ignored after END_STREAM was sent; other "
    "frames after END_STREAM was received MUST be a connection error of type STREAM_CLOSED",
    "reset by the peer": "5.1: an endpoint MUST NOT send frames other than PRIORITY on a closed "
    "stream; 5.4.2: a stream error may be treated as a connection error",
    "reset by us": "5.4.2: the endpoint that sends RST_STREAM MUST be prepared to receive frames "
    "that were sent before it arrived; these can be ignored",
    "answered early": "8.1: NO_ERROR asks for no more of the request; what is under way is ignored",
}
"""RFC 9113, shortened."""

MAY_COME = ("HEADERS", "HEADERS END_STREAM", "DATA", "DATA END_STREAM", "RST_STREAM",
            "WINDOW_UPDATE")  # fmt: skip

DUES: dict[str, dict[str, Due]] = {
    "idle": dict.fromkeys(MAY_COME, PROTOCOL_ERROR)
    | {
        "HEADERS": IGNORED,  # a body is to follow
        "HEADERS END_STREAM": Due("RST_STREAM 5 PROTOCOL_ERROR"),  # these are no head
    },
    "skipped": dict.fromkeys(MAY_COME, PROTOCOL_ERROR),
    "open": {
        "HEADERS": Due("RST_STREAM 5 PROTOCOL_ERROR"),
        "HEADERS END_STREAM": Due("", "request 5 b'bo'"),
        "DATA": IGNORED,
        "DATA END_STREAM": Due("", "request 5 b'body'"),
        "RST_STREAM": IGNORED,
        "WINDOW_UPDATE": IGNORED,
    },
    "half-closed": dict.fromkeys(MAY_COME, STREAM_CLOSED_ALONE)
    | {"RST_STREAM": Due("", "stream 5 ended: CANCEL"), "WINDOW_UPDATE": IGNORED},
    "closed": dict.fromkeys(MAY_COME, STREAM_CLOSED)
    | {"RST_STREAM": IGNORED, "WINDOW_UPDATE": IGNORED},
    "reset by the peer": dict.fromkeys(MAY_COME, STREAM_CLOSED)
    | {"RST_STREAM": IGNORED, "WINDOW_UPDATE": IGNORED},
    "reset by us": dict.fromkeys(MAY_COME, IGNORED),
    "answered early": dict.fromkeys(MAY_COME, IGNORED),
}

EVERYWHERE = {
    "PRIORITY": IGNORED,  # 6.3: may come in any state
    "CONTINUATION": PROTOCOL_ERROR,  # 6.10: not after a frame with END_HEADERS
    "PUSH_PROMISE": PROTOCOL_ERROR,  # 8.4: a client can't push
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("state", STATES)
def test_a_frame_in_a_state_does_what_the_rfc_says(state: str, kind: str) -> None:
    sentence = SENTENCES[state]
    due = (DUES[state] | EVERYWHERE)[kind]
    before = play((OPENING, *STATES[state]))
    said, told, connection = play((OPENING, *STATES[state], FRAMES[kind]))
    last = {"idle": 3, "skipped": 7}.get(state, STREAM)
    expected = due.says.format(last=last)
    assert said[len(before.says) :] == [expected] * bool(expected), sentence
    assert told[len(before.tells) :] == [due.tells] * bool(due.tells), sentence
    assert connection.closed == expected.startswith("GOAWAY")


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("state", STATES)
def test_a_connection_that_lives_on_answers_the_next_request(state: str, kind: str) -> None:
    """A stream error leaves the others alone (section 5.4.2)."""
    steps: tuple[Step, ...] = (OPENING, *STATES[state], FRAMES[kind])
    if play(steps).connection.closed:
        return
    said, told, _ = play((*steps, headers(99), answer(99), ping()))
    assert told[-1] == "request 99 b''"
    assert said[-4:] == ["HEADERS 99", "DATA 99 'ok'", "HEADERS 99 END_STREAM",
                         "PING '8 octets' ACK"]  # fmt: skip


def test_the_table_has_a_place_for_every_state_and_input() -> None:
    states = {IDLE, OPEN, ANSWERING, RESET, CLOSED, SKIPPED}
    inputs = {HEAD, HEAD_END, BODY, BODY_END, PEER_RESET, WINDOW}
    assert states == set(range(len(RECEIVED)))
    for state in states:
        assert inputs == set(range(len(RECEIVED[state])))
        for what in inputs:
            found = RECEIVED[state][what]
            if isinstance(found, int):
                assert after(state, what) == found
            else:
                with pytest.raises(Http2Error) as caught:
                    after(state, what)
                assert caught.type is found
