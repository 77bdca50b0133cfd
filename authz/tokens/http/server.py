"""Uvicorn as the token service runs it: on sockets of ours, stopped by us, quiet.

What uvicorn lacks is added here: a limit on connections, limits on the time that a client may take
to send a request's head and to read its answer, and OAuth's form for the answer to what is no HTTP.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from authz.addresses import split_host_port
from authz.observe import events
from authz.settings import SettingsError
from authz.settings.token_http import TokensTlsSettings
from authz.tokens.http.descriptors import connections_within

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers: a DPoP proof, an access token and cookies of 8 KiB each."""

HEAD_TIMEOUT = 10.0
"""Seconds for the TLS handshake, from a connection to its first whole head, and from the first byte
of a later head to its last. Uvicorn itself ends connections that idle between two requests
(KEEP_ALIVE)."""

WRITE_TIMEOUT = 10.0
"""Seconds for which a client may leave unread what it was answered, once the buffers are full."""

KEEP_ALIVE = 75
"""Seconds. More than Envoy's and most clients' own patience, so that they close first and never
send into a connection that is being closed. nginx has the same."""

LINGER = 1.0
LOOK_EVERY = 0.02
"""Seconds: at the stop, so long are connections closed one by one with an answer; and how often it
is looked whether any is left. Half of the time to drain at most."""

MAX_CONNECTIONS = 4096
"""At a time, where there are descriptors for so many. Each takes about 10 KiB."""

BACKLOG = 1024

log = structlog.get_logger(__name__)


class _Protocol(H11Protocol):
    """One connection. Make none of this class: `_limited` says how many there may be."""

    most = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Too many at a time are closed unread: they get no memory."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The head of a later request has no more time than the first one's."""
        super().data_received(data)
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head_timer()

    def pause_writing(self) -> None:
        """The client doesn't read what it asked for: it has so much time, for all that is here."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT, self._abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _abort(self) -> None:
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP. It ends the connection."""
        with contextlib.suppress(h11.LocalProtocolError):  # an answer has begun already
            body = {"error": "invalid_request", "error_description": msg.rstrip(".")}
            data = json.dumps(body).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(data)).encode()),
                (b"cache-control", b"no-store"),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=data),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _limited(most_connections: int) -> type[_Protocol]:
    class Limited(_Protocol):
        most = most_connections

    return Limited


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        """Connections are taken."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on `sockets`, and say so. Uvicorn's own way has no limit on the time that a TLS
        handshake may take but asyncio's, a minute, and doesn't count who is in it.
        """
        await self.lifespan.startup()  # none; what it leaves is asked for
        protocol = _limited(connections_within(MAX_CONNECTIONS))
        handshake = None if self.config.ssl is None else HEAD_TIMEOUT
        self.servers = [
            await asyncio.get_running_loop().create_server(
                lambda: protocol(self.config, self.server_state, self.lifespan.state),
                sock=one,
                ssl=self.config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=handshake,
            )
            for one in sockets or ()
        ]
        self.started = True
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the process's business."""
        yield


class HttpServer:
    """Serves an ASGI application on one address."""

    def __init__(
        self, app: ASGIApp, listen: str, *, tls: TokensTlsSettings | None, drain: float
    ) -> None:
        """`listen`: `host:port` or `unix:/path`. `drain`: seconds that answers under way may take
        at the stop. SettingsError: the certificate can't be used.
        """
        self.listen = listen
        self._tls = tls
        self._drain = drain
        options: dict[str, Any] = {}
        if tls is not None:
            options = {"ssl_certfile": str(tls.cert_file), "ssl_keyfile": str(tls.key_file)}
        self._config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # it warns of each request that is no HTTP: anybody's to write
            access_log=False,
            server_header=False,
            proxy_headers=False,  # `client_address` reads them, from the trusted end
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(drain)),
            **options,
        )
        try:
            self._config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or error
            raise SettingsError(f"tokens.tls: {reason}") from None
        self._server = _Uvicorn(self._config)
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Returns when connections are taken. SettingsError: the address can't be had."""
        try:
            self._socket = _bind(self.listen)
        except OSError as error:
            reason = error.strerror or error
            raise SettingsError(f"tokens.listen: {self.listen}: {reason}") from None
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name="tokens: http"
        )
        up = asyncio.ensure_future(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if self._serving.done():
            await self._serving  # raises what went wrong

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when it serves no more, asked to or not."""
        if self._serving is None:
            raise RuntimeError("not started")
        return self._serving

    def reload_tls(self) -> None:
        """Read the certificate again; connections that there are keep theirs."""
        if self._tls is None or self._config.ssl is None:
            return
        try:
            self._config.ssl.load_cert_chain(self._tls.cert_file, self._tls.key_file)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or str(error)
            log.error(events.LISTEN_TLS_UNUSABLE, error=reason)  # noqa: TRY400  no traceback

    async def stop(self) -> None:
        """Take no more connections; answers under way end within the time to drain."""
        if self._serving is None:
            return
        await self._send_clients_away()
        self._server.should_exit = True
        await asyncio.wait([self._serving], timeout=self._drain + 2)
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        if self.listen.startswith("unix:"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.listen.removeprefix("unix:"))  # noqa: PTH108  at once, at the stop

    async def _send_clients_away(self) -> None:
        """Take no more connections, answer on those that there are for a moment more, and close
        each with its answer: a request that is on its way into a connection when that is closed is
        lost, and a refresh is not repeated.
        """
        for listener in self._server.servers:
            listener.close()
        close = (b"connection", b"close")
        self._config.encoded_headers.append(close)
        self._server.server_state.default_headers.append(close)
        until = time.monotonic() + min(LINGER, self._drain / 2)
        # Looked for: uvicorn has no event for the end of the last one.
        while self._server.server_state.connections and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY)


def _bind(listen: str) -> socket.socket:
    """OSError: the address can't be had."""
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        _remove_dead_socket(path)
        listener = socket.socket(socket.AF_UNIX)
        address: Any = str(path)
    else:
        host, port = split_host_port(listen)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        if listener.family == socket.AF_UNIX:
            Path(address).chmod(0o660)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _remove_dead_socket(path: Path) -> None:
    """Bind over the socket of a process that was killed, but not over that of a living one."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
