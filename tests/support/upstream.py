"""An echo upstream: answers every request with what it received, as JSON."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from support.ports import LOOPBACK


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        received = {
            "method": self.command,
            "path": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": self.rfile.read(length).decode("latin-1"),
        }
        self.server.received.append(received)
        body = json.dumps(received).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        """Whatever the method (`do_GET`, …): the same answer."""
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 loses connections of an Envoy in a hurry
    block_on_close = False  # a kept-alive connection of Envoy's must not hold up the end
    received: list[dict[str, Any]]


class Upstream:
    """The server, in threads of this process.

    A response's JSON has `method`, `path`, `headers` (a list of [lower-case name, value], so that
    duplicates show; bytes read as Latin-1) and `body`. `received` has them all.
    """

    def __init__(self) -> None:
        self._server = _Server((LOOPBACK, 0), _Echo)
        self._server.received = []
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="upstream"
        )

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def received(self) -> list[dict[str, Any]]:
        return self._server.received

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
