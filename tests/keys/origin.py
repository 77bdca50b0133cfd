"""An HTTP(S) server on loopback that says what a test tells it to: an issuer's web site."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Answer(NamedTuple):
    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    pause: float | None = None
    """With a number the body is sent over and over, so many seconds apart, until nobody listens."""


class Origin:
    """`pages` maps a path (with its query) to an answer, or to a function that makes or delays one.
    `asked` lists the paths in order. A path that isn't there gets 404.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Answer | Callable[[], Answer]] = {}
        self.asked: list[str] = []
        self.requests: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def put(self, path: str, document: Any) -> str:
        """Publish JSON there. Returns the URL."""
        self.pages[path] = Answer(json.dumps(document).encode())
        return self.url + path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                origin.asked.append(self.path)
                origin.requests.append(dict(self.headers))
                page = origin.pages.get(self.path, Answer(status=404))
                answer = page() if callable(page) else page
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if answer.pause is None:
                    self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                while answer.pause is not None:
                    time.sleep(answer.pause)
                    self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Quiet."""

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # a client that went away is part of some tests
                    self.close_connection = True

        return Handler
