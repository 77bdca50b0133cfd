"""One connection of a peer: what is read goes into the protocol, and what that says is written.

The way of a read has four steps: feed, take the events, dispatch, write. All requests of one read
are answered in one write, but for those whose answer has to be waited for; such answers leave
together, too, where they come in the same turn of the loop.
"""

import asyncio
from time import monotonic
from typing import cast

from authz.envoy_api.dispatcher import Dispatcher
from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.errors import ErrorCode
from authz.envoy_api.shared import MAX_BUFFERED, Shared
from authz.envoy_api.tls import HTTP2

WRITE_HIGH = 256 * 1024
WRITE_LOW = 64 * 1024
"""Bytes of answers that the kernel hasn't taken. Above the first nothing more is read from the
peer, until it is below the second. As much as one read brings: asyncio and uvloop read 256 KiB at a
time. What is read already is still answered, at most `http2.limits.MAX_CONCURRENT_STREAMS`."""

STUCK_TIMEOUT = 20.0
"""Seconds in which a peer must take its answers, from WRITE_HIGH down to WRITE_LOW; then it is cut
off. That is 10 KiB a second. HTTP/2's own flow control has `http2.limits.ANSWER_TIMEOUT`."""

LINGER_TIME = 1.0
"""Seconds for a peer to hang up after we said the last. To close while it still sends would make
the kernel answer with a reset, which can overtake what was said (RFC 9112 section 9.6). Go's gRPC
server waits as long."""


class Peer(asyncio.Protocol):
    """A connection, from its first byte to its end."""

    def __init__(self, shared: Shared) -> None:
        """Make it in a running loop."""
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(monotonic())
        self._dispatcher = Dispatcher(self._connection, shared, self._plan_write)
        self._transport: asyncio.Transport
        self._write_planned = False
        self._stuck_since: float | None = None
        """Since when the peer doesn't take its answers."""
        self._ended_at: float | None = None
        """When the last was said. From then on nothing is listened to, and nothing more is said."""
        self.draining = False
        self.held = 0
        """Bytes held for it when it was last looked at: its part of `shared.buffered`."""

    # ---- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer."""
        self._transport = cast("asyncio.Transport", transport)
        shared = self._shared
        shared.arriving -= 1
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != HTTP2:
            shared.counters.refused["tls"] += 1
            self.close()
            return
        shared.peers.add(self)
        shared.counters.accepted += 1
        shared.counters.open += 1
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        if shared.draining:
            self.drain()
        else:
            self._write()

    def data_received(self, data: bytes) -> None:
        """Answer what was read, as far as that can be done now."""
        if self._ended_at is not None:
            return
        dispatch = self._dispatcher.dispatch
        for event in self._connection.receive(data, monotonic()):
            dispatch(event)
        self._write()

    def pause_writing(self) -> None:
        """The peer doesn't take its answers: don't listen to it either."""
        self._stuck_since = monotonic()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It took them."""
        self._stuck_since = None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody wants an answer any more."""
        del exc
        self._ended_at = self._ended_at or monotonic()
        self._dispatcher.give_up_all()
        shared = self._shared
        shared.buffered -= self.held
        self.held = 0
        if self in shared.peers:
            shared.peers.remove(self)
            shared.counters.open -= 1
        shared.gone()

    # ---- called by the server

    def drain(self) -> None:
        """End in order: watchers are told, and what the peer has asked is answered."""
        self.draining = True
        if self._ended_at is None:
            self._dispatcher.end_watches()
            self._connection.drain()
            self._write()

    def end(self, code: ErrorCode) -> None:
        """Say the last now. Checks that wait for their answer get UNAVAILABLE."""
        if self._ended_at is None:
            self._dispatcher.refuse_waiting()
            self._connection.close(code)
            self._write()

    def close(self) -> None:
        """Hang up as soon as all that was said has left."""
        self._ended_at = self._ended_at or monotonic()
        self._transport.close()

    def abort(self) -> None:
        """Hang up."""
        self._ended_at = self._ended_at or monotonic()
        self._transport.abort()

    def look_after(self, now: float) -> None:
        """End what is overdue, and measure; to be called about once a second."""
        if self._stuck_since is not None and now - self._stuck_since > STUCK_TIMEOUT:
            self.abort()
        elif self._ended_at is None:
            for event in self._connection.expire(now):
                self._dispatcher.dispatch(event)
            self._write()
        elif now - self._ended_at > LINGER_TIME:
            self.close()
        if self in self._shared.peers:
            self.measure()

    def measure(self) -> None:
        """Bring `held`, and with it `shared.buffered`, up to date."""
        held = self._connection.buffered + self._transport.get_write_buffer_size()
        self._shared.buffered += held - self.held
        self.held = held

    @property
    def stuck(self) -> bool:
        """Whether it doesn't take its answers."""
        return self._stuck_since is not None

    # ---- output

    def _plan_write(self) -> None:
        """Write when the loop has run what is ready: other answers may be, too."""
        if not self._write_planned:
            self._write_planned = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._write_planned = False
        if self._ended_at is not None:
            return
        connection = self._connection
        output = connection.take_output()
        if output:
            self._transport.write(output)
        if connection.closed:
            self._linger()
        # In the common case nothing is held. What waits to be written is looked at once a second.
        if connection.buffered != self.held or self._stuck_since is not None:
            self.measure()
            if self._shared.buffered > MAX_BUFFERED:
                self._shared.overfull()

    def _linger(self) -> None:
        """Say that this was the last, and leave it to the peer to hang up."""
        self._ended_at = monotonic()
        fault = self._connection.fault
        if fault is not None:
            self._shared.counters.count_fault(fault.code.name)
        self._dispatcher.give_up_all()
        if self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:  # the peer hung up first, and the loop doesn't know yet
                self._transport.abort()
        else:
            self._transport.close()  # TLS has a farewell of its own
