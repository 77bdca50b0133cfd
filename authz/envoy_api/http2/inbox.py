"""What a peer may send, and the bodies that it is sending (RFC 9113 section 5.2).

The connection's window is what bounds the memory for bodies: it is extended by what is no longer
held, and by no more.
"""

from typing import Final

from authz.envoy_api.http2 import frames, limits
from authz.envoy_api.http2.errors import FlowControlError, StreamFlowControlError
from authz.envoy_api.http2.streams import Stream

LOW: Final = limits.CONNECTION_WINDOW // 2


class Inbox:
    """The receive windows of a connection and its streams."""

    __slots__ = ("_freed", "held", "window")

    def __init__(self) -> None:
        self.window = limits.CONNECTION_WINDOW
        """What the peer may still send on all streams together; while it is over `LOW` there is
        nothing to extend.
        """
        self._freed = 0
        """Bytes that are not held any more, and that the window was not yet extended by."""
        self.held = 0
        """Bytes of unfinished bodies."""

    def accept(self, size: int) -> None:
        """So many bytes of DATA came, padding included. FlowControlError: more than allowed."""
        self.window -= size
        if self.window < 0:
            raise FlowControlError("DATA over the connection's window")

    def accept_on(self, stream: Stream, size: int) -> None:
        """The same for a stream. StreamFlowControlError: more than allowed."""
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFlowControlError("DATA over the stream's window")

    def free(self, size: int) -> None:
        """So many of the accepted bytes are not kept."""
        self._freed += size

    def keep(self, stream: Stream, payload: bytes) -> None:
        """A part of a body, with more to come."""
        if stream.body is None:
            stream.body = bytearray()
        stream.body += payload
        self.held += len(payload)

    def join(self, stream: Stream, payload: bytes) -> bytes:
        """The whole body, `payload` being its end; no longer held here."""
        if stream.body is None:
            self._freed += len(payload)
            return payload
        self.keep(stream, payload)
        body = bytes(stream.body)
        self.release(stream)
        return body

    def release(self, stream: Stream) -> None:
        """What came of its body is not held any more."""
        if stream.body is not None:
            self.held -= len(stream.body)
            self._freed += len(stream.body)
            stream.body = None

    @property
    def stuck(self) -> bool:
        """Whether unfinished bodies take the whole window, so that none of them can be finished."""
        return self.window + self._freed < limits.MAX_FRAME_SIZE

    def extension(self) -> bytes:
        """WINDOW_UPDATE for the connection once half of its window is free again, or what is free
        is more than a last small rest of it; else empty.
        """
        freed = self._freed
        if freed < LOW and (self.window >= limits.STREAM_WINDOW or freed <= self.window):
            return b""
        self.window += freed
        self._freed = 0
        return frames.window_update(0, freed)

    def extension_of(self, stream: Stream) -> bytes:
        """The same for a stream whose body goes on."""
        more = limits.STREAM_WINDOW - stream.receive_window
        if more < limits.STREAM_WINDOW // 2:
            return b""
        stream.receive_window += more
        return frames.window_update(stream.id, more)
