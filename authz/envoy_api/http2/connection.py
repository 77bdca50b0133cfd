"""A server's side of one HTTP/2 connection, without input or output of its own.

    read ─► receive() ─► events ─► the layer above decides ─► respond() ─► take_output() ─► write

It speaks RFC 9113 as far as a peer can reach it, for requests that are complete before they are
answered. README.md beside this file says why it is written here, and what it leaves out.
"""

from collections.abc import Callable
from typing import Final

from authz.envoy_api.http2 import frames, limits
from authz.envoy_api.http2.errors import (
    ConnectionFault,
    EnhanceYourCalmError,
    ErrorCode,
    FrameSizeError,
    MalformedStreamError,
    ProtocolError,
    RefusedStreamError,
    SettingsTimeoutError,
    StreamFault,
    StreamFrameSizeError,
    StreamOverdueError,
)
from authz.envoy_api.http2.events import ConnectionEnded, Event, StreamEnded
from authz.envoy_api.http2.inbox import LOW
from authz.envoy_api.http2.outbox import Outbox
from authz.envoy_api.http2.patience import Patience
from authz.envoy_api.http2.registry import StreamRegistry
from authz.envoy_api.http2.requests import Requests
from authz.envoy_api.http2.streams import ANSWERING, IDLE, PEER_RESET, WINDOW, Stream, after

_DRAIN_PING: Final = b"draining"
_OUR_SETTINGS: Final = frames.settings(
    (
        (frames.SETTINGS_HEADER_TABLE_SIZE, 0),
        (frames.SETTINGS_MAX_CONCURRENT_STREAMS, limits.MAX_CONCURRENT_STREAMS),
        (frames.SETTINGS_INITIAL_WINDOW_SIZE, limits.STREAM_WINDOW),
        (frames.SETTINGS_MAX_HEADER_LIST_SIZE, limits.MAX_HEADER_LIST),
    )
) + frames.window_update(0, limits.CONNECTION_WINDOW - limits.DEFAULT_WINDOW)

# Looked up for every frame.
_unpack_header = frames.HEADER.unpack_from
_HEADER_SIZE: Final = frames.HEADER_SIZE
_MAX_FRAME_SIZE: Final = limits.MAX_FRAME_SIZE
_MAX_STREAM_ID: Final = limits.MAX_STREAM_ID

_Handlers = dict[int, Callable[[int, int, bytes], None]]
"""By type of frame: takes flags, stream and payload. Http2Error: what the peer did wrong."""


class Connection:
    """Bytes in, events and bytes out. `now` is in seconds of any monotonic clock."""

    def __init__(self, now: float) -> None:
        self.closed = False
        """Nothing more is read, and no answer is owed: once the output is written, hang up."""
        self.fault: ConnectionFault | None = None
        """Why it ended, where the peer was to blame. An event says so too, but not where it was an
        answer that ended it."""
        self._began_at = now
        self._rest = b""
        """The beginning of what hasn't come whole, and since when it has been one:"""
        self._rest_since = now
        self._patience = Patience(now)
        self._streams = StreamRegistry()
        self._here = self._streams.here
        self._outbox = Outbox()
        self._outbox.parts.append(_OUR_SETTINGS)
        self._requests = Requests(self._streams, self._outbox, self._patience)
        self._settings_acknowledged = False
        self._draining_since: float | None = None
        # The states of a connection: which frames may come, and what handles each.
        self._preface: _Handlers = {}
        self._first_settings: _Handlers = {frames.SETTINGS: self._on_settings}
        self._rest_of_block: _Handlers = {frames.CONTINUATION: self._requests.on_continuation}
        self._any: _Handlers = {
            frames.DATA: self._requests.on_data,
            frames.HEADERS: self._requests.on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
        }
        self._handlers = self._preface

    @property
    def open_streams(self) -> int:
        """Requests that began and whose answer has not wholly been put into the output."""
        return len(self._here)

    @property
    def buffered(self) -> int:
        """Bytes that are held: what came of unfinished frames and bodies, and answers that wait."""
        block = 0 if self._requests.block is None else len(self._requests.block.data)
        return len(self._rest) + block + self._requests.inbox.held + self._outbox.queued

    # ---- what comes

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take in what was read. Never raises: a fault of the peer's is answered in the output,
        and is the last event where it ends the connection.
        """
        events: list[Event] = []
        if self.closed:
            return events
        requests = self._requests
        requests.events = events
        self._patience.now = now
        if self._rest:
            data = self._rest + data
        read = 0
        try:
            read = self._read_frames(data, self._read_preface(data))
        except ConnectionFault as fault:
            self._fail(fault)
        if not self.closed:
            if read or not self._rest:
                self._rest_since = now
            self._rest = data[read:]
            if requests.inbox.window <= LOW:
                self._widen_inbox()
        return events

    def _read_preface(self, data: bytes) -> int:
        """The offset behind the preface (section 3.4), once; 0 while it hasn't come whole."""
        if self._handlers is not self._preface:
            return 0
        if not data.startswith(frames.PREFACE):
            if frames.PREFACE.startswith(data):
                return 0
            raise ProtocolError("not the connection preface of HTTP/2")
        self._handlers = self._first_settings
        return len(frames.PREFACE)

    def _read_frames(self, data: bytes, offset: int) -> int:
        """Read all frames that are whole. The offset of what is left."""
        if self._handlers is self._preface:
            return offset
        requests = self._requests
        size = len(data)
        last_header = size - _HEADER_SIZE
        while offset <= last_header:
            length_and_kind, flags, stream_id = _unpack_header(data, offset)
            length = length_and_kind >> 8
            if length > _MAX_FRAME_SIZE:
                raise FrameSizeError("a frame over SETTINGS_MAX_FRAME_SIZE")
            begin = offset + _HEADER_SIZE
            end = begin + length
            if end > size:
                break
            payload = data[begin:end]
            offset = end
            stream_id &= _MAX_STREAM_ID
            handlers = self._handlers if requests.block is None else self._rest_of_block
            handle = handlers.get(length_and_kind & 0xFF)
            if handle is None:
                handle = self._unlisted(handlers, length_and_kind & 0xFF)
            try:
                handle(flags, stream_id, payload)
            except StreamFault as fault:
                self._fail_stream(stream_id, fault)
            if self.closed:
                break
        return offset

    def _unlisted(self, handlers: _Handlers, kind: int) -> Callable[[int, int, bytes], None]:
        """Unknown types are ignored where any frame may come, and only there (section 5.5)."""
        if handlers is not self._any or kind in {frames.PUSH_PROMISE, frames.CONTINUATION}:
            raise ProtocolError("a frame where another one has to come")
        return self._on_unknown

    def _widen_inbox(self) -> None:
        for stream_id in self._requests.make_room():
            self._fail_stream(stream_id, RefusedStreamError("unfinished bodies over the limit"))
            if self.closed:
                return
        extension = self._requests.inbox.extension()
        if extension:
            self._outbox.parts.append(extension)

    # ---- frames that aren't requests

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags
        frames.require_stream(stream_id)
        code = frames.error_code(payload)
        after(self._streams.state_of(stream_id), PEER_RESET)
        stream = self._here.get(stream_id)
        if stream is None:
            self._patience.bear_idle_frame()
            return
        self._patience.bear_reset()
        if stream.delivered:
            self._requests.events.append(StreamEnded(stream_id, code))
        self._drop(stream)

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags
        self._patience.bear_idle_frame()
        increment = frames.increment(payload)
        if stream_id == 0:
            if increment == 0:
                raise ProtocolError("WINDOW_UPDATE by 0")
            self._finish_all(self._outbox.widen(increment))
            return
        after(self._streams.state_of(stream_id), WINDOW)
        stream = self._here.get(stream_id)
        if stream is None:
            return
        if increment == 0:
            raise MalformedStreamError("WINDOW_UPDATE by 0")
        if self._outbox.widen_stream(stream, increment):
            self._finish(stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.require_connection(stream_id)
        if flags & frames.ACK:
            self._on_settings_ack(payload)
            return
        self._patience.bear_idle_frame(1 + len(self._here) // limits.IDLE_STREAMS)
        values = frames.setting_values(payload)
        # A peer may expect what it allows only behind the acknowledgement (section 6.5.3).
        self._outbox.parts.append(frames.SETTINGS_ACK)
        self._handlers = self._any
        table_size = values.get(frames.SETTINGS_HEADER_TABLE_SIZE)
        if table_size is not None:
            self._outbox.limit_table(table_size)
        initial = values.get(frames.SETTINGS_INITIAL_WINDOW_SIZE)
        if initial is not None:
            self._finish_all(self._outbox.resize(initial, self._here.values()))
        # The others limit what is never done here: pushes and large frames.

    def _on_settings_ack(self, payload: bytes) -> None:
        if payload:
            raise FrameSizeError("an acknowledgement of SETTINGS with a payload")
        if self._handlers is not self._any:
            raise ProtocolError("an acknowledgement of SETTINGS before any SETTINGS")
        if self._settings_acknowledged:
            self._patience.bear_idle_frame()
        self._settings_acknowledged = True
        self._requests.blocks.forbid_table()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.require_connection(stream_id)
        data = frames.ping_data(payload)
        self._patience.bear_idle_frame()
        if not flags & frames.ACK:
            self._outbox.parts.append(frames.frame(frames.PING, frames.ACK, 0, data))
        elif data == _DRAIN_PING and self._draining_since is not None:
            self._say_last_goaway()

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """The peer is leaving: what it has asked for is answered, and nothing else."""
        del flags
        frames.require_connection(stream_id)
        frames.goaway_last_stream(payload)
        self._patience.bear_idle_frame()
        self._requests.last_wanted = min(self._requests.last_wanted, max(self._streams.last_id, 0))
        self._close_if_done()

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Deprecated: looked at for its form, and ignored (section 5.3.2)."""
        del flags
        frames.require_stream(stream_id)
        self._patience.bear_idle_frame()
        if not frames.is_priority(payload):
            if self._streams.state_of(stream_id) == IDLE:  # RST_STREAM must not be sent on it
                raise FrameSizeError("PRIORITY is not 5 bytes long")
            raise StreamFrameSizeError("PRIORITY is not 5 bytes long")

    def _on_unknown(self, flags: int, stream_id: int, payload: bytes) -> None:
        del flags, stream_id, payload
        self._patience.bear_idle_frame()

    # ---- answers

    def respond(self, stream_id: int, headers: bytes, body: bytes, trailers: bytes) -> bool:
        """A whole answer: header block, body, and the block that ends it. What the peer's windows
        have no room for follows when they do. False: the stream is gone, and the answer with it.
        """
        stream = self._here.get(stream_id)
        if stream is None:
            return False
        try:
            if self._outbox.respond(stream, headers, body, trailers, self._patience.now):
                self._finish(stream)
        except ConnectionFault as fault:
            self._fail(fault)
            return False
        return True

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> bool:
        """A header block of an answer in parts. False: the stream is gone."""
        stream = self._here.get(stream_id)
        if stream is None:
            return False
        self._outbox.headers(stream, block, end_stream=end_stream)
        if end_stream:
            self._finish(stream)
        return True

    def send_data(self, stream_id: int, data: bytes) -> bool:
        """A part of an answer's body. False: the stream is gone."""
        return self._send(stream_id, data, None)

    def send_trailers(self, stream_id: int, block: bytes) -> bool:
        """The end of an answer in parts. False: the stream is gone."""
        return self._send(stream_id, b"", block)

    def _send(self, stream_id: int, data: bytes, trailers: bytes | None) -> bool:
        stream = self._here.get(stream_id)
        if stream is None:
            return False
        try:
            if self._outbox.data(stream, data, trailers, self._patience.now):
                self._finish(stream)
        except ConnectionFault as fault:
            self._fail(fault)
            return False
        return True

    def take_output(self) -> bytes:
        """What is to be written next; empty where nothing is."""
        return self._outbox.take()

    def _finish_all(self, streams: list[Stream]) -> None:
        for stream in streams:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """Its answer is in the output. Where the rest of the request is still to come, it is not
        wanted any more (section 8.1).
        """
        del self._here[stream.id]
        if stream.state != ANSWERING:
            self._requests.inbox.release(stream)
            self._reset(stream.id, ErrorCode.NO_ERROR)
        if self._requests.last_wanted != limits.MAX_STREAM_ID:
            self._close_if_done()

    # ---- ends

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Give a stream up. Nothing happens where it is gone already."""
        stream = self._here.get(stream_id)
        if stream is not None:
            self._reset(stream_id, code)
            self._drop(stream)

    def drain(self) -> None:
        """End in order: requests that are here or under way are answered, then `closed`.

        GOAWAY with the highest identifier says that no more are wanted, and after a round trip
        another one says which were the last (section 6.8).
        """
        if self.closed or self._draining_since is not None:
            return
        self._draining_since = self._patience.now
        self._outbox.parts += (
            frames.goaway(limits.MAX_STREAM_ID, ErrorCode.NO_ERROR),
            frames.frame(frames.PING, 0, 0, _DRAIN_PING),
        )

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, debug: str = "") -> None:
        """End now: what is not answered stays so. `debug`: constant text for GOAWAY."""
        if not self.closed:
            last = max(self._streams.last_id, 0)
            self._outbox.parts.append(frames.goaway(last, code, debug.encode()))
            self._end()

    def expire(self, now: float) -> list[Event]:
        """End what is overdue; to be called about once a second."""
        events: list[Event] = []
        if self.closed:
            return events
        self._requests.events = events
        self._patience.now = now
        try:
            self._expire_connection(now)
        except ConnectionFault as fault:
            self._fail(fault)
        begun = now - limits.REQUEST_TIMEOUT
        queued = now - limits.ANSWER_TIMEOUT
        overdue = [
            stream.id
            for stream in self._here.values()
            if (stream.state != ANSWERING and stream.begun_at < begun)
            or (stream.queue is not None and stream.queued_at < queued)
        ]
        for stream_id in overdue:
            if not self.closed:
                self._fail_stream(stream_id, StreamOverdueError("a slow peer"))
        if not self.closed and self._requests.inbox.window <= LOW:
            self._widen_inbox()
        return events

    def _expire_connection(self, now: float) -> None:
        if not self._settings_acknowledged and now - self._began_at > limits.PREFACE_TIMEOUT:
            raise SettingsTimeoutError("no preface, or no acknowledgement of SETTINGS, in time")
        block = self._requests.block
        if block is not None and now - block.begun_at > limits.REQUEST_TIMEOUT:
            raise ProtocolError("a header block without its end")
        if self._rest and now - self._rest_since > limits.REQUEST_TIMEOUT:
            raise ProtocolError("a frame without its end")
        since = self._draining_since
        if since is not None and now - since > limits.DRAIN_ROUND_TRIP:
            self._say_last_goaway()

    def _say_last_goaway(self) -> None:
        if self._requests.last_wanted == limits.MAX_STREAM_ID:
            self._requests.last_wanted = max(self._streams.last_id, 0)
            self._outbox.parts.append(frames.goaway(self._requests.last_wanted, ErrorCode.NO_ERROR))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._here and not self.closed:
            self._end()
            self._requests.events.append(ConnectionEnded(None))

    def _fail(self, fault: ConnectionFault) -> None:
        self.fault = fault
        self.close(fault.code, str(fault))
        self._requests.events.append(ConnectionEnded(fault))

    def _end(self) -> None:
        self.closed = True
        self._here.clear()
        self._rest = b""
        self._requests.block = None
        self._requests.inbox.held = 0
        self._outbox.forget_all()

    def _fail_stream(self, stream_id: int, fault: StreamFault) -> None:
        """A fault that makes us reset the stream counts like a reset by the peer."""
        try:
            self._patience.bear_reset()
        except EnhanceYourCalmError as calm:
            self._fail(calm)
            return
        self._reset(stream_id, fault.code)
        stream = self._here.get(stream_id)
        if stream is not None:
            if stream.delivered:
                self._requests.events.append(StreamEnded(stream_id, fault.code))
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        del self._here[stream.id]
        self._requests.inbox.release(stream)
        self._outbox.forget(stream)
        if self._requests.last_wanted != limits.MAX_STREAM_ID:
            self._close_if_done()

    def _reset(self, stream_id: int, code: int) -> None:
        self._outbox.parts.append(frames.rst_stream(stream_id, code))
        self._streams.remember_reset(stream_id)
