"""One request and its answer: the states of a stream, as a table (RFC 9113 section 5.1).

A server that never pushes, and that resets a stream when it has answered before the end of the
request, needs two of the RFC's seven states for the streams that are here. The others tell apart
why a stream isn't.
"""

from typing import Final

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.errors import (
    Http2Error,
    MalformedStreamError,
    ProtocolError,
    StreamClosedError,
    StreamEndedError,
)
from authz.envoy_api.http2.headers import RequestHead

# States. Plain numbers: they index the table below for every frame.
IDLE: Final = 0
"""Not begun: the identifier is higher than all so far."""
OPEN: Final = 1
"""The head came, the end of the request not yet."""
ANSWERING: Final = 2
"""The request is complete and its answer is owed: half-closed (remote)."""
RESET: Final = 3
"""We ended it by RST_STREAM, so frames of before that may still come and are dropped."""
CLOSED: Final = 4
"""Both sides have ended it, or the peer has reset it."""
SKIPPED: Final = 5
"""Passed over, which closed it unused (section 5.1.1)."""

# What may come.
HEAD: Final = 0
"""HEADERS with no END_STREAM."""
HEAD_END: Final = 1
"""HEADERS with END_STREAM: a request without a body, or the trailers."""
BODY: Final = 2
"""DATA with no END_STREAM."""
BODY_END: Final = 3
"""DATA with END_STREAM."""
PEER_RESET: Final = 4
"""RST_STREAM."""
WINDOW: Final = 5
"""WINDOW_UPDATE."""

DROP: Final = -1
"""The frame is ignored, but for what it does to the connection: header compression and flow
control."""

Next = int | type[Http2Error]

RECEIVED: Final[tuple[tuple[Next, ...], ...]] = (
    # HEAD, HEAD_END, BODY, BODY_END, PEER_RESET, WINDOW
    (OPEN, ANSWERING, ProtocolError, ProtocolError, ProtocolError, ProtocolError),  # IDLE
    (MalformedStreamError, ANSWERING, OPEN, ANSWERING, CLOSED, OPEN),  # OPEN
    (StreamEndedError, StreamEndedError, StreamEndedError, StreamEndedError, CLOSED, ANSWERING),
    (DROP, DROP, DROP, DROP, DROP, DROP),  # RESET
    (StreamClosedError, StreamClosedError, StreamClosedError, StreamClosedError, DROP, DROP),
    (ProtocolError,) * 6,  # SKIPPED
)
"""State and input to the next state, or to what is wrong."""


def after(state: int, what: int) -> int:
    """The state after a frame, or DROP. Http2Error: the frame has no place in this state."""
    found = RECEIVED[state][what]
    if isinstance(found, int):
        return found
    raise found("a frame that the stream's state has no place for")


class Stream:
    """A stream that is OPEN or ANSWERING.

    What most streams never change stands on the class, so that one is made in half the time.
    """

    body: bytearray | None = None
    """What came of the body, where that was more than one frame."""
    received = 0
    """Bytes of the body so far."""
    receive_window = limits.STREAM_WINDOW
    """What the peer may still send."""
    extra_window = 0
    """What we may send, less the peer's SETTINGS_INITIAL_WINDOW_SIZE: that one may change."""
    delivered = False
    """Whether the layer above was told of the request; what comes after that is dropped."""
    queue: bytearray | None = None
    """DATA that waits for the peer's windows; None where none does."""
    queued_at = 0.0
    trailers: bytes | None = None
    """The block that ends the answer, waiting behind the queue."""

    def __init__(self, stream_id: int, head: RequestHead, state: int, now: float) -> None:
        self.id = stream_id
        self.head = head
        self.state = state
        self.begun_at = now
