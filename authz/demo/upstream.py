"""The upstream of the demo: answers every request with what it was sent."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self


class Upstream:
    """An HTTP server on loopback, on a port of its own, in a thread of this process.

    Its answer is JSON: `method`, `path`, and `headers` (lower-case name to value; the values of a
    name that came twice are joined by `, `).
    """

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Echo)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True  # a kept-alive connection must not hold up the end
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that Envoy dropped is no news."""


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            seen = headers.get(name.lower())
            headers[name.lower()] = value if seen is None else f"{seen}, {value}"
        # The token itself is nobody's business, not even on a screen that shows a demo.
        headers.pop("authorization", None)
        answer = {"method": self.command, "path": self.path, "headers": headers}
        body = json.dumps(answer, indent=2).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Quiet."""
