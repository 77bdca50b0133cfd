"""A raw HTTP/1.1 client: sends the header bytes it is given, in their order, duplicates too."""

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from support.ports import LOOPBACK

HeaderLines = Iterable[tuple[str | bytes, str | bytes]]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: list[tuple[str, str]]
    """In order, names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The header's only value, or None. AssertionError when there are several."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


def request(
    port: int,
    path: str | bytes = "/",
    *,
    method: str = "GET",
    headers: HeaderLines = (),
    token: str | None = None,
    host: str = "app.example",
    body: bytes = b"",
    timeout: float = 10.0,
) -> Response:
    """One request on a connection of its own to 127.0.0.1:`port`.

    `token` is short for an `authorization: Bearer …` header. Text is sent as UTF-8, bytes as they
    are; nothing is checked, so that a test can send what a well-behaved client would not.
    """
    lines = [("host", host), ("connection", "close"), *headers]
    if token is not None:
        lines.append(("authorization", f"Bearer {token}"))
    if body:
        lines.append(("content-length", str(len(body))))
    head = b"%s %s HTTP/1.1\r\n" % (method.encode(), _bytes(path))
    for name, value in lines:
        head += _bytes(name) + b": " + _bytes(value) + b"\r\n"
    return exchange(port, head + b"\r\n" + body, method=method, timeout=timeout)


def exchange(port: int, data: bytes, *, method: str = "GET", timeout: float = 10.0) -> Response:
    """Send these bytes and read one response. ConnectionError where none comes."""
    with socket.create_connection((LOOPBACK, port), timeout=timeout) as connection:
        connection.sendall(data)
        with HTTPResponse(connection, method=method) as response:
            response.begin()
            headers = [(name.lower(), value) for name, value in response.getheaders()]
            return Response(response.status, headers, response.read())


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
