"""Checks straight to a server, each with the token that is next: what h2load can't do, as it sends
one body in a run.

    python sender.py SPECIFICATION.json

A closed loop on one HTTP/2 connection. It is slower than h2load, so it is for what a check costs
the server, not for how many there can be. The specification has: `address` (`unix:/path` or
`host:port`), `path`, `body` (the file of a recorded gRPC message), `token` (the one in it),
`seconds` or `checks` (when to stop), and the tokens: a file in `tokens`, or `template` (claims with
a %08d, and a secret file), `first`, `count` and, where every so many-th token shall be one never
seen before, `fresh_every` and `fresh_first`. All tokens have the length of the recorded one. One
JSON object goes to stdout.

A script of its own, so nothing of the load test is in its memory.
"""

import base64
import hmac
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from hpack import Encoder, NeverIndexedHeaderTuple

STREAMS = 50
"""In flight at most."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
HEAD_BYTES = 9
DEFAULT_WINDOW = 65_535
"""Bytes (RFC 9113 section 6.9.2)."""
MAX_WINDOW = 2**31 - 1
TOP_UP = 2**30
"""Bytes of answers after which the peer may send as many again; nothing else limits it."""
READ_BYTES = 262_144
TIMEOUT = 30.0
"""Seconds without an answer."""
NO_TOKENS = "the tokens and the recorded one differ in length"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return (
        struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload
    )


def request_headers(path: str) -> tuple[bytes, bytes]:
    """The block of the first request, and that of all others. Nothing goes to the peer's table,
    whose size is said to be 0 (RFC 7541 section 4.2), as most servers want it.
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    encoder = Encoder()
    encoder.header_table_size = 0
    never_indexed = [NeverIndexedHeaderTuple(*field) for field in fields.items()]
    return encoder.encode(never_indexed), encoder.encode(never_indexed)


class Connection:
    """One HTTP/2 connection that counts answers; it doesn't look at them."""

    def __init__(self, address: str, path: str) -> None:
        if address.startswith("unix:"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            self._socket = socket.create_connection((host, int(port)))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(TIMEOUT)
        self._headers, self._next_headers = request_headers(path)
        self._next_stream = 1
        self._window = DEFAULT_WINDOW
        self._unacknowledged = 0
        self._buffer = b""
        self._control = b""
        grant = struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, grant))
        self.in_flight = 0
        self.answered = 0
        self.refused = 0
        """Reset instead of answered."""

    def fits(self, body: bytes) -> bool:
        """Whether it may be sent now: streams, and the peer's window for the connection. That of a
        stream has 64 KiB, which is more than a body here.
        """
        return self.in_flight < STREAMS and len(body) <= self._window

    def send(self, bodies: list[bytes]) -> None:
        """All of them at once; each has been asked about with `fits`."""
        parts = [self._control]
        for body in bodies:
            stream = self._next_stream
            self._next_stream += 2
            parts += (
                frame(HEADERS, END_HEADERS, stream, self._headers),
                frame(DATA, END_STREAM, stream, body),
            )
            self._headers = self._next_headers
        self._control = b""
        self._socket.sendall(b"".join(parts))

    def reserve(self, body: bytes) -> None:
        self.in_flight += 1
        self._window -= len(body)

    def receive(self) -> None:
        """Wait for something and count what it brings. ConnectionError: the peer has closed."""
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        data = self._buffer + data
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", data, at)
            length = high << 8 | low
            if end - at < HEAD_BYTES + length:
                break
            at += HEAD_BYTES
            if kind in {DATA, HEADERS}:
                self._unacknowledged += length if kind == DATA else 0
                if flags & END_STREAM:
                    self.answered += 1
                    self.in_flight -= 1
            else:
                self._understand(kind, flags, stream, data[at : at + length])
            at += length
        self._buffer = data[at:]
        if self._unacknowledged > TOP_UP:
            self._control += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged))
            self._unacknowledged = 0

    def _understand(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">I", payload)[0]
        elif kind == SETTINGS and not flags & ACK:
            self._control += frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self._control += frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM:
            self.refused += 1
            self.in_flight -= 1
        elif kind == GOAWAY:
            code, said = struct.unpack_from(">I", payload, 4)[0], payload[8:].decode()
            raise ConnectionError(f"the server sent GOAWAY with code {code}: {said}")


class Mint:
    """HS256 tokens of one length, by number."""

    def __init__(self, claims: str, secret: bytes) -> None:
        self._claims = claims
        self._secret = secret
        self._head = _base64(b'{"alg":"HS256","typ":"JWT"}') + b"."

    def token(self, number: int) -> bytes:
        signed = self._head + _base64((self._claims % (number, number)).encode())
        return signed + b"." + _base64(hmac.digest(self._secret, signed, "sha256"))


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def tokens_of(what: dict[str, Any]) -> Iterator[bytes]:
    """Without end."""
    if "tokens" in what:
        yield from cycle(Path(what["tokens"]).read_bytes().split())
        return
    secret = Path(what["template"]["secret"]).read_bytes()
    mint = Mint(what["template"]["claims"], secret)
    first, count = what["first"], what["count"]
    fresh_every, fresh = what.get("fresh_every", 0), what.get("fresh_first", 0)
    turn = 0
    while True:
        turn += 1
        if fresh_every and turn % fresh_every == 0:
            yield mint.token(fresh)
            fresh += 1
        else:
            yield mint.token(first % count)
            first += 1


def bodies_of(what: dict[str, Any]) -> Iterator[bytes]:
    """The recorded message again and again, each with the next token."""
    recorded, token = Path(what["body"]).read_bytes(), what["token"].encode()
    before, found, after = recorded.partition(token)
    for one in tokens_of(what):
        if not found or len(one) != len(token):  # lengths stand in the message, too
            raise SystemExit(NO_TOKENS)
        yield before + one + after


def run(what: dict[str, Any]) -> dict[str, Any]:
    connection = Connection(what["address"], what["path"])
    bodies = bodies_of(what)
    checks = what.get("checks", sys.maxsize)
    start = time.perf_counter()
    end = start + what.get("seconds", float("inf"))
    sent, body = 0, next(bodies)
    while time.perf_counter() < end and sent < checks:
        batch = []
        while sent < checks and connection.fits(body):
            connection.reserve(body)
            batch.append(body)
            body = next(bodies)
            sent += 1
        connection.send(batch)
        connection.receive()
    while connection.in_flight:
        connection.receive()
    seconds = time.perf_counter() - start
    return {
        "requests": connection.answered,
        "seconds": seconds,
        "bad_statuses": 0,
        "errors": connection.refused,
    }


def main() -> None:
    json.dump(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), sys.stdout)


if __name__ == "__main__":
    main()
