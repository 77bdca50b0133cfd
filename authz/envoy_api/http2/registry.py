"""The streams of a connection: those that are here, and why another one isn't."""

from collections import OrderedDict, deque
from typing import Final

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.streams import CLOSED, IDLE, RESET, SKIPPED, Stream

_GAPS: Final = 16
"""Ranges of skipped identifiers that are remembered. Honest peers skip none; forgetting one makes a
PROTOCOL_ERROR a STREAM_CLOSED."""


class StreamRegistry:
    """Streams by identifier (RFC 9113 section 5.1.1)."""

    __slots__ = ("_resets", "_skipped", "here", "last_id")

    def __init__(self) -> None:
        self.here: dict[int, Stream] = {}
        """Those that are OPEN or ANSWERING."""
        self.last_id = -1
        """The highest that the peer has begun; -1 before the first, as client streams are odd."""
        self._skipped: deque[range] = deque(maxlen=_GAPS)
        self._resets: OrderedDict[int, None] = OrderedDict()

    def advance(self, stream_id: int) -> None:
        """The peer begins this stream. It must be higher than all before."""
        if stream_id != self.last_id + 2:
            self._skipped.append(range(self.last_id + 1, stream_id))
        self.last_id = stream_id

    def remember_reset(self, stream_id: int) -> None:
        """Frames of a stream that we reset may still be under way: expect them for a while."""
        self._resets[stream_id] = None
        if len(self._resets) > limits.REMEMBERED_RESETS:
            self._resets.popitem(last=False)

    def state_of(self, stream_id: int) -> int:
        """Of any stream, here or not. Those of even numbers would be ours, and are never begun."""
        stream = self.here.get(stream_id)
        if stream is not None:
            return stream.state
        if stream_id > self.last_id or not stream_id & 1:
            return IDLE
        if stream_id in self._resets:
            return RESET
        return SKIPPED if any(stream_id in gap for gap in self._skipped) else CLOSED
