"""Requests as they come in: from the first frame of a stream to the event that hands it over."""

from collections.abc import Iterator
from typing import Final

from authz.envoy_api.http2 import frames, limits
from authz.envoy_api.http2.blocks import BlockReader, UnfinishedBlock
from authz.envoy_api.http2.errors import (
    MalformedStreamError,
    ProtocolError,
    RefusedStreamError,
    StreamFault,
)
from authz.envoy_api.http2.events import Event, RequestReceived, RequestTooLarge
from authz.envoy_api.http2.headers import HEAD_TOO_LARGE, RequestHead
from authz.envoy_api.http2.inbox import Inbox
from authz.envoy_api.http2.outbox import Outbox
from authz.envoy_api.http2.patience import Patience
from authz.envoy_api.http2.registry import StreamRegistry
from authz.envoy_api.http2.streams import (
    BODY,
    BODY_END,
    DROP,
    HEAD,
    HEAD_END,
    IDLE,
    Stream,
    after,
)

_PADDED_OR_PRIORITY: Final = frames.PADDED | frames.PRIORITY_FLAG


class Requests:
    """Reads HEADERS, CONTINUATION and DATA. Http2Error: what the peer did wrong."""

    __slots__ = (
        "_here", "_outbox", "_patience", "_streams",
        "block", "blocks", "events", "inbox", "last_wanted",
    )  # fmt: skip

    def __init__(self, streams: StreamRegistry, outbox: Outbox, patience: Patience) -> None:
        self._streams = streams
        self._here = streams.here
        self._outbox = outbox
        self._patience = patience
        self.blocks = BlockReader()
        self.block: UnfinishedBlock | None = None
        """A header block whose CONTINUATION has to come next."""
        self.inbox = Inbox()
        self.last_wanted = limits.MAX_STREAM_ID
        """The highest stream that is served; all of them until an end has begun."""
        self.events: list[Event] = []
        """Where events go; the connection's of the present `receive`."""

    def on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & _PADDED_OR_PRIORITY:
            payload = frames.without_priority(flags, frames.without_padding(flags, payload))
        if not stream_id & 1:
            raise ProtocolError("HEADERS on a stream that a client can't begin")
        end_stream = flags & frames.END_STREAM
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, self.blocks.read(payload), end_stream)
        else:
            self.block = UnfinishedBlock(stream_id, end_stream, payload, self._patience.now)

    def on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self.block
        if block is None or stream_id != block.stream_id:
            raise ProtocolError("CONTINUATION of no header block, or of another stream's")
        block.add(payload)
        if flags & frames.END_HEADERS:
            self.block = None
            self._on_block(stream_id, self.blocks.read(bytes(block.data)), block.end_stream)

    def _on_block(self, stream_id: int, head: RequestHead, end_stream: int) -> None:
        """A header block. It was decoded whatever becomes of it, or later ones couldn't be."""
        if stream_id > self._streams.last_id:
            self._begin(stream_id, head, end_stream)
            return
        state = after(self._streams.state_of(stream_id), HEAD_END if end_stream else HEAD)
        if state == DROP:
            fields = limits.MAX_HEADER_LIST // 32 if head is HEAD_TOO_LARGE else len(head.headers)
            self._patience.bear_idle_frame(1 + fields // limits.IDLE_FIELDS)
            return
        if head.trailers_fault is not None:
            raise MalformedStreamError(head.trailers_fault)
        stream = self._here[stream_id]
        stream.state = state
        self._deliver(stream, self.inbox.join(stream, b""))

    def _begin(self, stream_id: int, head: RequestHead, end_stream: int) -> None:
        self._streams.advance(stream_id)
        if stream_id > self.last_wanted:
            raise RefusedStreamError("the connection is ending")
        if len(self._here) >= limits.MAX_CONCURRENT_STREAMS:
            raise RefusedStreamError("more streams than SETTINGS_MAX_CONCURRENT_STREAMS")
        if head is HEAD_TOO_LARGE:
            self._begin_too_large(stream_id, end_stream)
            return
        if head.fault is not None:
            raise MalformedStreamError(head.fault)
        if head.weight > limits.SMALL_HEAD:
            self._require_room(head)
        state = after(IDLE, HEAD_END if end_stream else HEAD)
        stream = self._here[stream_id] = Stream(stream_id, head, state, self._patience.now)
        if end_stream:
            self._deliver(stream, b"")

    def _begin_too_large(self, stream_id: int, end_stream: int) -> None:
        state = after(IDLE, HEAD_END if end_stream else HEAD)
        stream = Stream(stream_id, HEAD_TOO_LARGE, state, self._patience.now)
        stream.delivered = True
        self._here[stream_id] = stream
        self.events.append(RequestTooLarge(stream_id, HEAD_TOO_LARGE))

    def _require_room(self, head: RequestHead) -> None:
        heads = {stream.head for stream in self._here.values()} | {head}
        if sum(one.weight for one in heads) > limits.MAX_HEADS:
            raise RefusedStreamError("larger heads than the limit allows")

    def on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)  # padding counts (section 6.9.1)
        inbox = self.inbox
        inbox.accept(size)
        stream = self._here.get(stream_id)
        if stream is None:
            self._on_data_of_none(flags, stream_id, payload)
            return
        if flags & frames.PADDED:
            payload = frames.without_padding(flags, payload)
            inbox.free(size - len(payload))
        ends = flags & frames.END_STREAM
        try:
            stream.state = after(stream.state, BODY_END if ends else BODY)
            inbox.accept_on(stream, size)
        except StreamFault:
            inbox.free(len(payload))
            raise
        stream.received += len(payload)
        if stream.delivered:
            inbox.free(len(payload))
        elif stream.received > limits.MAX_BODY:
            inbox.free(len(payload))
            inbox.release(stream)
            stream.delivered = True
            self.events.append(RequestTooLarge(stream_id, stream.head))
        elif ends:
            self._deliver(stream, inbox.join(stream, payload))
        else:
            inbox.keep(stream, payload)
        if not ends:
            self._expect_more(stream, payload)

    def _on_data_of_none(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.require_stream(stream_id)
        frames.without_padding(flags, payload)
        self.inbox.free(len(payload))
        self._patience.bear_idle_frame()
        after(self._streams.state_of(stream_id), BODY)

    def _expect_more(self, stream: Stream, payload: bytes) -> None:
        if not payload:
            self._patience.bear_idle_frame()
        update = self.inbox.extension_of(stream)
        if update:
            self._outbox.parts.append(update)

    def make_room(self) -> Iterator[int]:
        """The streams to give up so that others' bodies can be finished, the longest first."""
        while self.inbox.stuck:
            yield max(self._here.values(), key=_held).id

    def _deliver(self, stream: Stream, body: bytes) -> None:
        """The request is complete."""
        if stream.delivered:
            return
        length = stream.head.content_length
        if length is not None and length != len(body):
            raise MalformedStreamError("content-length is not the length of the body")
        stream.delivered = True
        self._patience.requests += 1
        self.events.append(RequestReceived(stream.id, stream.head, body))


def _held(stream: Stream) -> int:
    return 0 if stream.body is None else len(stream.body)
