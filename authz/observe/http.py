"""The admin server: `/metrics`, `/healthz`, `/readyz` and `/status` on `http_listen`.

The standard library's server is enough: a scraper and two probes ask a few times a minute, from
the same pod. It runs in threads of its own, so that composing some thousand lines of metrics never
makes a check wait and `/healthz` can tell that the event loop hangs. A framework would add 10 MB
and a loop to share. What it lacks are limits, and those stand here: on connections at a time, on
the bytes of a request, on the time for the whole exchange. There is one request per connection.
"""

import asyncio
import errno
import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any, NamedTuple

import structlog

from authz.addresses import split_host_port
from authz.observe import events
from authz.observe.heartbeat import HUNG_AFTER, Heartbeat
from authz.observe.readiness import Readiness
from authz.observe.redact import redact
from authz.settings import SettingsError

MAX_CONNECTIONS = 16
"""At a time: a thread each. Two Prometheus servers, two probes and a few people."""

MAX_REQUEST = 16 * 1024
"""Bytes of request line and headers. Ours never look at a body. nginx allows 8 KiB a line."""

EXCHANGE_TIMEOUT = 10.0
"""Seconds for reading the request and, again, for writing the answer: Prometheus' own default
scrape_timeout. It is for the whole, so a client that sends a byte a second gains nothing."""

STATUS_TIMEOUT = 2.0
"""Seconds that `/status` waits for the event loop."""

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

Status = Mapping[str, Any]
"""What `/status` shows."""

log = structlog.get_logger(__name__)


class _Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


class AdminServer:
    """Answers operators and their tools. Its parts are read from its own threads."""

    def __init__(
        self,
        listen: str,
        *,
        metrics: Callable[[str], tuple[bytes, str]],
        status: Callable[[], Status | Awaitable[Status]],
        heartbeat: Heartbeat,
        readiness: Readiness,
        ailment: Callable[[], str] = str,
    ) -> None:
        """`listen`: `host:port` or `unix:/path`. `metrics`: the `Accept` header to a body and its
        content type (`Metrics.render`). `status`: JSON-ready, and called on the event loop, which
        must be running when this is made. `ailment`: why the process should be restarted, besides
        a loop that hangs; empty while there is nothing.
        """
        self._listen = listen
        self._metrics = metrics
        self._status = status
        self._heartbeat = heartbeat
        self._readiness = readiness
        self._ailment = ailment
        self._loop = asyncio.get_running_loop()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it listens, in the form of `http_listen`; with the port that the system chose
        where 0 was asked for.
        """
        if self._server is None or self._listen.startswith("unix:"):
            return self._listen
        host, port = (str(part) for part in self._server.server_address[:2])
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Listen and answer. SettingsError: the address can't be had."""
        try:
            server = self._server = _Server(self._listen, self._answer)
        except OSError as error:
            raise SettingsError(f"http_listen: {self._listen}: {error.strerror}") from None
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.1,), name="admin-http", daemon=True
        )
        self._thread.start()
        log.info(events.ADMIN_LISTENING, address=self.address)

    async def aclose(self) -> None:
        """Stop listening. Answers under way end by themselves."""
        if self._server is None or self._thread is None:
            return
        await asyncio.to_thread(self._server.shutdown)
        self._thread.join()
        self._server.server_close()

    # ---- on the threads of the server

    def _answer(self, target: str, accept: str) -> _Answer:
        match target.partition("?")[0]:
            case "/metrics":
                body, content_type = self._metrics(accept)
                return _Answer(HTTPStatus.OK, body, content_type)
            case "/healthz":
                return self._health()
            case "/readyz":
                return self._ready()
            case "/status":
                return self._tell_status()
        return _text(HTTPStatus.NOT_FOUND, "see /metrics /healthz /readyz /status")

    def _health(self) -> _Answer:
        if self._heartbeat.hung:
            silence = f"the event loop has not turned for {self._heartbeat.age():.0f} s"
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"{silence}, more than {HUNG_AFTER:.0f}")
        ailment = self._ailment()
        if ailment:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, ailment)
        return _text(HTTPStatus.OK, "ok")

    def _ready(self) -> _Answer:
        if self._heartbeat.hung:
            return self._health()
        if not self._readiness.ready:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, self._readiness.reason)
        return _text(HTTPStatus.OK, "ready")

    def _tell_status(self) -> _Answer:
        """The status as the event loop tells it, between two of its turns; or that it doesn't."""
        told = asyncio.run_coroutine_threadsafe(self._status_on_loop(), self._loop)
        try:
            status = told.result(STATUS_TIMEOUT)
        except TimeoutError:
            told.cancel()
            error = f"the event loop did not answer within {STATUS_TIMEOUT:g} s"
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": error})
        return _json(HTTPStatus.OK, redact(status))

    async def _status_on_loop(self) -> Status:
        status = self._status()
        return await status if isinstance(status, Awaitable) else status


class _Server(ThreadingMixIn, TCPServer):
    """A thread a connection, and not too many of them."""

    daemon_threads = True  # a slow client must not hold up the stop
    allow_reuse_address = True  # a restart finds its port in TIME_WAIT
    request_queue_size = 32

    def __init__(self, listen: str, answer: Callable[[str, str], _Answer]) -> None:
        self.answer = answer
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._path = listen.removeprefix("unix:") if listen.startswith("unix:") else ""
        address: Any
        if self._path:
            self.address_family = socket.AF_UNIX
            address = self._path
            _remove_dead_socket(Path(self._path))
        else:
            host, port = address = split_host_port(listen)
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, _, _, _, address = found[0]
        super().__init__(address, _Handler)
        if self._path:
            Path(self._path).chmod(0o660)

    def process_request(self, request: Any, client_address: Any) -> None:
        """One connection too many is closed unread: whoever floods this port gets no memory."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Instead of a bare traceback on stderr. Called while the exception is handled."""
        del request, client_address
        log.error(events.ADMIN_FAILED, exc_info=sys.exception())

    def server_close(self) -> None:
        super().server_close()
        if self._path:
            Path(self._path).unlink(missing_ok=True)


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, end. GET and HEAD only."""

    server: _Server
    default_request_version = "HTTP/1.0"  # or what has no version would get no header back

    def __init__(self, request: Any, client_address: Any, server: BaseServer) -> None:
        # Set by the base class once it has read a request; an answer may come before that.
        self.command = ""
        self.request_version = self.default_request_version
        super().__init__(request, client_address, server)

    def handle(self) -> None:
        # Read here rather than by the base class, which limits each line but neither the whole
        # nor the time it takes.
        try:
            head = self._read_head()
            if head:
                self.rfile = io.BufferedReader(io.BytesIO(head))
                self.handle_one_request()
        except (TimeoutError, ConnectionError):
            self.close_connection = True

    def _read_head(self) -> bytes:
        """Request line and headers; empty where the client went away."""
        deadline = time.monotonic() + EXCHANGE_TIMEOUT
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            self.connection.settimeout(max(0.001, deadline - time.monotonic()))
            more = self.connection.recv(4096)
            if not more:
                return b""
            head += more
            if len(head) > MAX_REQUEST:
                self._say(_text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request too large"))
                return b""
        return head

    def do_GET(self) -> None:
        try:
            answer = self.server.answer(self.path, self.headers.get("accept", ""))
        except Exception:  # one bad scrape must not look like a dead sidecar
            log.exception(events.ADMIN_FAILED)
            answer = _text(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the log")
        self._say(answer)

    do_HEAD = do_GET  # noqa: N815  the base class's name

    def _say(self, answer: _Answer) -> None:
        self.connection.settimeout(EXCHANGE_TIMEOUT)
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(answer.body)))
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_response(self, code: int, message: str | None = None) -> None:
        """Without the base class's `Server` header, which names the version of Python."""
        self.send_response_only(code, message)
        self.send_header("date", self.date_time_string())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of a request it can't read, as plain text of our own words."""
        del message, explain  # they quote the client
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:  # a method without a `do_` of its own
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self._say(_text(status, status.phrase.lower()))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Probes every second are no news."""


def _text(status: HTTPStatus, text: str) -> _Answer:
    return _Answer(status, f"{text}\n".encode())


def _json(status: HTTPStatus, value: Any) -> _Answer:
    return _Answer(status, json.dumps(value, indent=2).encode() + b"\n", JSON)


def _remove_dead_socket(path: Path) -> None:
    """Bind over the socket of a sidecar that was killed, but not over that of a living one."""
    if not path.is_socket():
        return  # nothing is there, or bind will say that something is
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
