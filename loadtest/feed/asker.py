"""Asks one server of checks over its Unix socket, many questions at once on one HTTP/2 connection,
and says of each answer when it came and whether it refused.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Self, cast

from authz.envoy_api.check_pb2 import CheckResponse
from loadtest.sender import (
    ACK,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD_BYTES,
    HEADERS,
    MAX_WINDOW,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    request_headers,
)

Answered = Callable[[bool | None, float], None]
"""Told whether the request was refused (None: it was not answered), and when the answer came, in
monotonic seconds."""
GRPC_HEAD = 5
"""Bytes before a gRPC message."""
MAX_STREAMS = 90
"""At once; servers take 100."""
CONNECT_TIMEOUT = 10.0
"""Seconds."""


class Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, path: str) -> None:
        self._transport: asyncio.Transport
        self._headers, self._next_headers = request_headers(path)
        self._next_stream = 1
        self._window = DEFAULT_WINDOW
        self._waiting: deque[tuple[bytes, Answered]] = deque()
        self._asked: dict[int, Answered] = {}
        self._messages: dict[int, bytes] = {}
        self._buffer = b""
        self.lost = False

    @classmethod
    async def connect(cls, socket: str, path: str) -> Self:
        """OSError: nobody listens there."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, asker = await loop.create_unix_connection(lambda: cls(path), socket)
        return asker

    def ask(self, body: bytes, answered: Answered) -> None:
        """`body`: a gRPC message with its head. `answered` is called once, never from here."""
        self._waiting.append((body, answered))
        self._send()

    def close(self) -> None:
        self._transport.close()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        grant = struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW)
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, grant))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        now = time.monotonic()
        left = [*self._asked.values(), *(answered for _, answered in self._waiting)]
        self._asked.clear()
        self._waiting.clear()
        for answered in left:
            answered(None, now)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._buffer + data
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", data, at)
            length = high << 8 | low
            if end - at < HEAD_BYTES + length:
                break
            at += HEAD_BYTES
            self._take(kind, flags, stream, data[at : at + length], now)
            at += length
        self._buffer = data[at:]
        self._send()

    # ---- parts of it

    def _send(self) -> None:
        parts = []
        while (
            self._waiting
            and len(self._asked) < MAX_STREAMS
            and len(self._waiting[0][0]) <= self._window
        ):
            body, answered = self._waiting.popleft()
            stream = self._next_stream
            self._next_stream += 2
            self._asked[stream] = answered
            self._window -= len(body)
            parts.append(frame(HEADERS, END_HEADERS, stream, self._headers))
            parts.append(frame(DATA, END_STREAM, stream, body))
            self._headers = self._next_headers
        if parts:
            self._transport.write(b"".join(parts))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == DATA:
            self._messages[stream] = self._messages.get(stream, b"") + payload
        if kind in {DATA, HEADERS} and flags & END_STREAM:
            self._settle(stream, now)
        elif kind == RST_STREAM:
            self._messages.pop(stream, None)
            self._settle(stream, now)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += struct.unpack(">I", payload)[0]
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            self._transport.close()

    def _settle(self, stream: int, now: float) -> None:
        message = self._messages.pop(stream, b"")[GRPC_HEAD:]
        refused = None
        if message:
            refused = CheckResponse.FromString(message).WhichOneof("http_response") != "ok_response"
        answered = self._asked.pop(stream, None)
        if answered is not None:
            answered(refused, now)
