"""The ext_authz and health services on authz' own HTTP/2: its listeners, its limits and its end."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

import structlog

from authz.envoy_api.counters import TransportCounters
from authz.envoy_api.http2.errors import ErrorCode
from authz.envoy_api.peer import Peer
from authz.envoy_api.shared import MAX_BUFFERED, MAX_CONNECTIONS, Checks, Shared
from authz.envoy_api.sockets import ListeningSockets, bind
from authz.envoy_api.tls import server_context
from authz.observe import events
from authz.settings import ListenTlsSettings, SettingsError

SWEEP_INTERVAL = 1.0
"""Seconds between two looks at a connection: the grain of all its timeouts."""

SWEEP_SLICES = 4
"""A look takes 5 µs. At 2,048 connections that would be 10 ms in which no check is answered, so a
quarter of them has its turn at a time."""

HANDSHAKE_TIMEOUT = 5.0
"""Seconds for a TLS handshake; asyncio's default is 60, Go's HTTP server's is its read timeout."""

SHUTDOWN_TIMEOUT = 1.0
"""Seconds for a peer to answer TLS' close_notify."""

FLUSH_TIME = 0.5
"""Seconds for the kernel to take what was said last, once the grace of a stop is over."""

ACCEPT_BURST = 128
"""Connections accepted before others get a turn: at 50 µs each that is 6 ms."""

ACCEPT_PAUSE = 1.0
"""Seconds without accepting where the process is out of descriptors or memory, as in asyncio."""

log = structlog.get_logger(__name__)


class NativeServer:
    """Serves a `CheckService` at the configured addresses."""

    def __init__(
        self,
        service: Checks,
        listen: Sequence[str] = (),
        *,
        tls: ListenTlsSettings | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """`listen`: `unix:/path` and `host:port`. `sockets`: some that listen already; they are
        closed in the end, and their files are left to who bound them. With neither it serves only
        what is given to `adopt`. `tls`: for connections over TCP.

        SettingsError: the certificate, its key or the client CA can't be used.
        """
        self._listen = tuple(listen)
        self._tls_settings = tls
        self._tls = None if tls is None else server_context(tls)
        self._sockets = list(sockets)
        self._bound: ListeningSockets | None = None
        self._shared = Shared(service.check, gone=self._peer_gone, overfull=self._relieve)
        self._adoptions: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        """Listeners that don't accept for a while."""
        self._next_sweep: asyncio.TimerHandle | None = None
        self._slices: list[list[Peer]] = []
        """Those that the sweep has still to look at."""
        self._all_gone = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self.on_connection_end: Callable[[], None] = _nothing
        """Called whenever `connections` has gone down."""

    @property
    def counters(self) -> TransportCounters:
        """For `/metrics`."""
        return self._shared.counters

    @property
    def connections(self) -> int:
        """Open ones, and those that are being set up."""
        return len(self._shared.peers) + self._shared.arriving

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that were found for port 0."""
        return [_address_of(one) for one in self._sockets]

    async def start(self) -> None:
        """Listen and serve. SettingsError: an address can't be had."""
        self._bound = bind(self._listen)
        self._sockets += self._bound.sockets
        for one in self._sockets:
            one.setblocking(False)
            self._begin_accepting(one)
        self._sweep()

    async def stop(self, grace: float) -> None:
        """Say NOT_SERVING and GOAWAY, let calls in flight finish for `grace` seconds, close. What
        is not answered by then gets UNAVAILABLE. Further calls wait for the end of the first.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(grace))
        await asyncio.shield(self._stopping)

    def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere; it belongs to the server from now on.
        Beyond MAX_CONNECTIONS, and after the end, it is closed.
        """
        ended = self._stopping is not None and self._stopping.done()
        if ended or self.connections >= MAX_CONNECTIONS:
            self._shared.counters.refused["limit"] += 1
            connection.close()
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            # Asyncio does so only where the socket says that its protocol is TCP; most say 0.
            with suppress(OSError):  # the peer is gone, which macOS tells here
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._shared.arriving += 1
        task = asyncio.get_running_loop().create_task(self._adopt(connection))
        self._adoptions.add(task)
        task.add_done_callback(self._adopted)

    def shed(self, count: int) -> None:
        """Send so many connections elsewhere, by GOAWAY; their calls are answered first."""
        staying = [peer for peer in self._shared.peers if not peer.draining]
        for peer in staying[:count]:
            peer.drain()

    def reload_tls(self) -> None:
        """Read the certificate files again, for connections from now on. Files that can't be used
        are logged, and the old ones stay in force.
        """
        if self._tls_settings is None:
            return
        try:
            # A new context, not new files in the old one: a CA can't be taken out of a context.
            self._tls = server_context(self._tls_settings)
        except SettingsError as error:
            log.warning(events.LISTEN_TLS_UNUSABLE, problem=str(error))

    # ---- accepting

    def _begin_accepting(self, listener: socket.socket) -> None:
        self._pauses.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.warning(events.ACCEPT_FAILED, problem=error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                self._pauses[listener] = loop.call_later(
                    ACCEPT_PAUSE, self._begin_accepting, listener
                )
                return
            self.adopt(connection)

    async def _adopt(self, connection: socket.socket) -> None:
        tls = None if connection.family == socket.AF_UNIX else self._tls
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._peer,
                connection,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT,
                ssl_shutdown_timeout=None if tls is None else SHUTDOWN_TIMEOUT,
            )
        except OSError:  # ssl.SSLError and timeouts among them
            self._shared.arriving -= 1
            if tls is not None:
                self._shared.counters.refused["tls"] += 1
            self._peer_gone()

    def _adopted(self, task: asyncio.Task[None]) -> None:
        self._adoptions.discard(task)
        self._notice_all_gone()

    def _peer(self) -> Peer:
        return Peer(self._shared)

    def _stop_accepting(self) -> None:
        """What is in the backlog is still taken: it would be reset, and was never told GOAWAY."""
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            loop.remove_reader(one)
            self._accept(one)
            loop.remove_reader(one)
        if self._bound is not None:
            self._bound.close()
        for one in self._sockets:
            one.close()
        self._sockets.clear()
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()

    # ---- connections

    def _sweep(self) -> None:
        if not self._slices:
            peers = list(self._shared.peers)
            self._slices = [peers[n::SWEEP_SLICES] for n in range(SWEEP_SLICES)]
        now = monotonic()
        for peer in self._slices.pop():
            peer.look_after(now)
        if self._shared.buffered > MAX_BUFFERED:
            self._relieve()
        loop = asyncio.get_running_loop()
        self._next_sweep = loop.call_later(SWEEP_INTERVAL / SWEEP_SLICES, self._sweep)

    def _relieve(self) -> None:
        """End the greediest connections, until the others' bytes are within MAX_BUFFERED."""
        shared = self._shared
        for peer in shared.peers:
            peer.measure()
        if shared.buffered <= MAX_BUFFERED:
            return
        for peer in sorted(shared.peers, key=lambda peer: peer.held, reverse=True):
            if shared.buffered <= MAX_BUFFERED:
                return
            shared.counters.count_fault(ErrorCode.ENHANCE_YOUR_CALM.name)
            shared.buffered -= peer.held
            peer.held = 0
            if peer.stuck:
                peer.abort()  # it wouldn't take the farewell either
            else:
                peer.end(ErrorCode.ENHANCE_YOUR_CALM)

    def _peer_gone(self) -> None:
        self._notice_all_gone()
        self.on_connection_end()

    def _notice_all_gone(self) -> None:
        if not self._shared.peers and not self._adoptions:
            self._all_gone.set()

    # ---- the end

    async def _stop(self, grace: float) -> None:
        shared = self._shared
        shared.health.serving = False
        shared.draining = True
        self._stop_accepting()
        for peer in list(shared.peers):
            peer.drain()
        await self._wait_until_all_gone(grace)
        for task in self._adoptions:
            task.cancel()
        for peer in list(shared.peers):
            peer.end(ErrorCode.NO_ERROR)
            peer.close()
        await self._wait_until_all_gone(FLUSH_TIME)
        for peer in list(shared.peers):
            peer.abort()
        await self._wait_until_all_gone(FLUSH_TIME)
        if self._next_sweep is not None:
            self._next_sweep.cancel()

    async def _wait_until_all_gone(self, seconds: float) -> None:
        self._all_gone.clear()
        self._notice_all_gone()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_gone.wait()


def _nothing() -> None:
    pass


def _address_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"{host}:{name[1]}"
