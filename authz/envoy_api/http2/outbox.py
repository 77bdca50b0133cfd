"""What leaves a connection: frames in their order, within the peer's windows.

RFC 9113 section 5.2. Header blocks are not flow-controlled, but trailers wait behind the DATA that
is before them.
"""

from collections.abc import Collection
from typing import Final

from authz.envoy_api.http2 import frames, limits
from authz.envoy_api.http2.errors import (
    EnhanceYourCalmError,
    FlowControlError,
    StreamFlowControlError,
)
from authz.envoy_api.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADERS,
)
from authz.envoy_api.http2.streams import Stream

_HEADERS_END: Final = END_HEADERS | END_STREAM

_DEFAULT_TABLE_SIZE: Final = 4096
_TABLE_SIZE_0: Final = b"\x20"
"""A dynamic table size update (RFC 7541 section 6.3)."""


class Outbox:
    """Frames to be written, and answers that wait for the peer to make room."""

    __slots__ = ("_initial", "_shrink_table", "_table_shrunk", "_waiting", "_window", "parts",
                 "queued")  # fmt: skip

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        """What to write next, in order."""
        self.queued = 0
        """Bytes of DATA that wait."""
        self._window = limits.DEFAULT_WINDOW
        """What the peer lets us send on the connection; and on a new stream:"""
        self._initial = limits.DEFAULT_WINDOW
        self._waiting: dict[int, Stream] = {}
        """Streams with DATA that waits for the connection's window, the longest first. Those that
        wait for their own are not among them."""
        self._shrink_table = False
        """Whether the next header block has to say that no dynamic table is used."""
        self._table_shrunk = False

    def take(self) -> bytes:
        """All that is to be written now."""
        parts = self.parts
        if not parts:
            return b""
        self.parts = []
        return b"".join(parts)

    # ---- answers

    def respond(
        self, stream: Stream, headers: bytes, body: bytes, trailers: bytes, now: float
    ) -> bool:
        """HEADERS, DATA, HEADERS with END_STREAM. Whether all of it is on its way."""
        size = len(body)
        stream_id = stream.id
        if (
            size > self._window
            or size > self._initial + stream.extra_window
            or size > limits.MAX_FRAME_SIZE
            or stream.queue is not None
            or self._shrink_table
        ):
            self.headers(stream, headers)
            return self.data(stream, body, trailers, now)
        self._window -= size
        pack = HEADER.pack
        self.parts += (
            pack(len(headers) << 8 | HEADERS, END_HEADERS, stream_id),
            headers,
            pack(size << 8, 0, stream_id),  # DATA is type 0
            body,
            pack(len(trailers) << 8 | HEADERS, _HEADERS_END, stream_id),
            trailers,
        )
        return True

    def headers(self, stream: Stream, block: bytes, *, end_stream: bool = False) -> None:
        """A header block, at once. It must fit into one frame."""
        flags = _HEADERS_END if end_stream else END_HEADERS
        if self._shrink_table:
            block = _TABLE_SIZE_0 + block
            self._shrink_table = False
        self.parts.append(frames.frame(HEADERS, flags, stream.id, block))

    def data(self, stream: Stream, body: bytes, trailers: bytes | None, now: float) -> bool:
        """DATA, and the trailers behind it if there are any. Whether all of it is on its way,
        END_STREAM included. EnhanceYourCalmError: too much waits already.
        """
        if stream.queue is None:
            stream.queue = bytearray()
            stream.queued_at = now
        stream.queue += body
        self.queued += len(body)
        stream.trailers = trailers
        done = self._send(stream)
        if self.queued > limits.MAX_QUEUED:
            raise EnhanceYourCalmError("more answers wait than the limit allows")
        return done

    def forget(self, stream: Stream) -> None:
        """Its answer is no longer wanted."""
        if stream.queue is not None:
            self.queued -= len(stream.queue)
            stream.queue = None
            self._waiting.pop(stream.id, None)

    def forget_all(self) -> None:
        """No answer is wanted any more."""
        self._waiting.clear()
        self.queued = 0

    # ---- the peer's windows and settings

    def limit_table(self, size: int) -> None:
        """SETTINGS_HEADER_TABLE_SIZE. Our blocks use no dynamic table, but a peer that wants a
        smaller one than the default must be told that it is (RFC 7541 section 4.2). That it is
        empty holds for all later sizes, too.
        """
        if size < _DEFAULT_TABLE_SIZE and not self._table_shrunk:
            self._table_shrunk = self._shrink_table = True

    def widen(self, increment: int) -> list[Stream]:
        """WINDOW_UPDATE of the connection; the streams whose answers are complete by it."""
        if increment > limits.MAX_WINDOW - self._window:
            raise FlowControlError("the connection's window is over 2^31-1")
        self._window += increment
        return self._send_waiting()

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """WINDOW_UPDATE of a stream; whether its answer is complete by it."""
        if increment > limits.MAX_WINDOW - self._initial - stream.extra_window:
            raise StreamFlowControlError("a stream's window is over 2^31-1")
        stream.extra_window += increment
        return stream.queue is not None and self._send(stream)

    def resize(self, initial: int, streams: Collection[Stream]) -> list[Stream]:
        """SETTINGS_INITIAL_WINDOW_SIZE, which moves the windows of all streams, below zero if it
        must (section 6.9.2). The streams whose answers are complete by it.
        """
        widest = max((stream.extra_window for stream in streams), default=0)
        if initial + widest > limits.MAX_WINDOW:
            raise FlowControlError("a new initial window brings a stream's over 2^31-1")
        self._initial = initial
        return [stream for stream in streams if stream.queue is not None and self._send(stream)]

    def _send_waiting(self) -> list[Stream]:
        """Each turn either takes a stream from those that wait, or the rest of the window."""
        complete = []
        while self._waiting and self._window > 0:
            stream = next(iter(self._waiting.values()))
            if self._send(stream):
                complete.append(stream)
        return complete

    def _send(self, stream: Stream) -> bool:
        """As much of its DATA as there is room for. Whether all of it went, END_STREAM included."""
        queue = stream.queue
        if queue is None:
            return False
        room = min(self._window, self._initial + stream.extra_window)
        sent = 0
        while sent < len(queue) and room > 0:
            chunk = bytes(queue[sent : sent + min(limits.MAX_FRAME_SIZE, room)])
            self.parts.append(frames.frame(DATA, 0, stream.id, chunk))
            sent += len(chunk)
            room -= len(chunk)
        del queue[:sent]
        self.queued -= sent
        self._window -= sent
        stream.extra_window -= sent
        if queue and self._initial + stream.extra_window > 0:
            self._waiting[stream.id] = stream
            return False
        self._waiting.pop(stream.id, None)
        if queue:
            return False
        stream.queue = None
        if stream.trailers is None:
            return False
        self.headers(stream, stream.trailers, end_stream=True)
        return True
