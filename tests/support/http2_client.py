"""A raw HTTP/2 client on `h2`: sends what a test says, and checks every byte that comes back.

What a server must not send (RFC 9113) makes `h2` raise, so a test fails by it.
"""

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote_to_bytes

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings

from support.capture import METHOD

TIMEOUT = 10.0
"""Seconds to wait for what has to come."""

Fields = Sequence[tuple[bytes, bytes]]


def grpc_headers(
    path: str = METHOD,
    *,
    method: str = "POST",
    content_type: str | None = "application/grpc",
    te: str | None = "trailers",
    extra: Fields = (),
) -> list[tuple[bytes, bytes]]:
    """The head of a gRPC request, as grpcio and Envoy send it. None leaves a field out."""
    fields = [
        (b":method", method.encode()),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"authz"),
    ]
    if te is not None:
        fields.append((b"te", te.encode()))
    if content_type is not None:
        fields.append((b"content-type", content_type.encode()))
    return [*fields, *extra]


def framed(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """A message with its prefix, in which flag and length may be lies."""
    size = len(message) if length is None else length
    return bytes((flag,)) + size.to_bytes(4, "big") + message


@dataclass(slots=True)
class Answer:
    """What came on a stream."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False
    """Whether END_STREAM came."""
    reset: int | None = None
    """The error code of RST_STREAM."""

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    def value(self, name: str) -> str | None:
        """Of a field of headers or trailers. AssertionError where it is there twice."""
        found = [value for key, value in (*self.headers, *self.trailers) if key == name.encode()]
        assert len(found) <= 1, f"{name} came {len(found)} times: {found}"
        return found[0].decode("latin-1") if found else None

    @property
    def http_status(self) -> int | None:
        status = self.value(":status")
        return None if status is None else int(status)

    @property
    def grpc_status(self) -> int | None:
        status = self.value("grpc-status")
        return None if status is None else int(status)

    @property
    def grpc_message(self) -> str | None:
        message = self.value("grpc-message")
        return None if message is None else unquote_to_bytes(message).decode()

    @property
    def message(self) -> bytes:
        """The one message of the body. AssertionError where there is another number of them."""
        assert self.body[:1] == b"\0", f"no plain message: {self.body[:20]!r}"
        assert int.from_bytes(self.body[1:5], "big") == len(self.body) - 5
        return self.body[5:]


class Goaway(NamedTuple):
    """RFC 9113 section 6.8."""

    last_stream_id: int
    error_code: int
    debug: bytes


_FRAME_HEADER = 9
_GOAWAY = 7


class Http2Client:
    """One connection. It blocks; errors of the line are OSError, those of the protocol h2's."""

    def __init__(
        self,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        settings: Mapping[SettingCodes, int] | None = None,
        takes_data: bool = True,
        timeout: float = TIMEOUT,
    ) -> None:
        """`address`: `unix:/path` or `host:port`. `takes_data`: whether windows are extended for
        what came.
        """
        self.answers: dict[int, Answer] = {}
        self.events: list[Event] = []
        """Whatever else came."""
        self.goaways: list[Goaway] = []
        """In their order. `h2` isn't shown them: it takes the first for the end, and what comes
        after it for an error."""
        self._rest = b""
        self.closed = False
        """Whether the server has closed its side."""
        self._timeout = timeout
        self._takes_data = takes_data
        # What is sent is the test's to say; what comes is checked.
        self.h2 = H2Connection(
            H2Configuration(
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        if settings:
            self.h2.local_settings = Settings(client=True, initial_values=dict(settings))
        self.line = connect(address, timeout=timeout)
        if tls is not None:
            self.line = tls.wrap_socket(self.line, server_hostname="localhost")
        self.h2.initiate_connection()
        self.flush()

    def greet(self) -> None:
        """Exchange SETTINGS and their acknowledgements, before a connection is left alone."""
        self.until(
            lambda: any(isinstance(event, SettingsAcknowledged) for event in self.events),
            "SETTINGS acknowledged",
        )

    # ---- sending

    def flush(self) -> None:
        """Send what `h2` has to say."""
        self.line.sendall(self.h2.data_to_send())

    def begin(self, headers: Fields, *, end_stream: bool = False) -> int:
        """HEADERS on a new stream; its number."""
        stream_id = self.h2.get_next_available_stream_id()
        self.answers[stream_id] = Answer()
        self.h2.send_headers(stream_id, headers, end_stream=end_stream)
        self.flush()
        return stream_id

    def send(self, stream_id: int, body: bytes, *, end_stream: bool = True) -> None:
        """DATA, in as many frames as windows and frame sizes ask for, as far as the server takes
        it: it may answer, or reset, before the end.
        """
        sent = 0
        answer = self.answers[stream_id]
        while sent < len(body) and not answer.over and not self.closed:
            room = self.h2.local_flow_control_window(stream_id)
            if room <= 0:
                self.read()
                continue
            part = body[sent : sent + min(room, self.h2.max_outbound_frame_size)]
            sent += len(part)
            self.h2.send_data(stream_id, part, end_stream=end_stream and sent == len(body))
            self.flush()
        if not body and end_stream:
            self.h2.end_stream(stream_id)
            self.flush()

    def ask(self, headers: Fields, body: bytes | None = None) -> int:
        """A whole request; the number of its stream. `body` None: HEADERS end it."""
        stream_id = self.begin(headers, end_stream=body is None)
        if body is not None:
            self.send(stream_id, body)
        return stream_id

    # ---- receiving

    def read(self) -> bool:
        """Take in what the server has sent; wait for something. False: it has closed."""
        data = self.line.recv(256 * 1024)
        if not data:
            self.closed = True
            return False
        data = self._rest + data
        while len(data) >= _FRAME_HEADER:
            end = _FRAME_HEADER + int.from_bytes(data[:3], "big")
            if len(data) < end:
                break
            frame, data = data[:end], data[end:]
            if frame[3] == _GOAWAY:
                self._take_goaway(frame)
                continue
            for event in self.h2.receive_data(frame):
                self._take(event)
        self._rest = data
        with suppress(BrokenPipeError, ConnectionResetError):  # what it said last counts
            self.flush()
        return True

    def _take_goaway(self, frame: bytes) -> None:
        assert frame[5:9] == bytes(4), "GOAWAY on a stream"
        last, code = (int.from_bytes(frame[at : at + 4], "big") for at in (9, 13))
        assert not self.goaways or last <= self.goaways[-1].last_stream_id, "it must not rise"
        self.goaways.append(Goaway(last, code, frame[17:]))

    def _take(self, event: Event) -> None:
        match event:
            case ResponseReceived(stream_id=int(stream_id), headers=list(headers)):
                self.answers[stream_id].headers = [(bytes(k), bytes(v)) for k, v in headers]
            case TrailersReceived(stream_id=int(stream_id), headers=list(headers)):
                self.answers[stream_id].trailers = [(bytes(k), bytes(v)) for k, v in headers]
            case DataReceived(stream_id=int(stream_id), data=bytes(data)):
                self.answers[stream_id].body += data
                size = event.flow_controlled_length or 0
                if self._takes_data and size:
                    self.h2.acknowledge_received_data(size, stream_id)
            case StreamEnded(stream_id=int(stream_id)):
                self.answers[stream_id].ended = True
            case StreamReset(stream_id=int(stream_id), error_code=int(code)):
                self.answers[stream_id].reset = int(code)
            case _:
                self.events.append(event)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Read until the condition holds. ConnectionError: the server closed before."""
        deadline = time.monotonic() + self._timeout
        while not condition():
            if not self.read():
                raise ConnectionError(f"{what}: the server closed the connection before")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {self._timeout:g} s")

    def answer(self, stream_id: int) -> Answer:
        """The whole answer of a stream."""
        answer = self.answers[stream_id]
        self.until(lambda: answer.over, f"the answer on stream {stream_id}")
        return answer

    def call(self, headers: Fields, body: bytes | None = None) -> Answer:
        """A request and its answer."""
        return self.answer(self.ask(headers, body))

    def seen(self, kind: type[Event]) -> list[Event]:
        """Of what else came, the events of this kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def goaway(self) -> Goaway | None:
        """The last one."""
        return self.goaways[-1] if self.goaways else None

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(address: str, *, timeout: float = TIMEOUT) -> socket.socket:
    """A connected socket: `unix:/path` or `host:port`."""
    if address.startswith("unix:"):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(timeout)
        try:
            line.connect(str(Path(address.removeprefix("unix:"))))
        except BaseException:
            line.close()
            raise
        return line
    host, _, port = address.rpartition(":")
    line = socket.create_connection((host, int(port)), timeout=timeout)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def conversation(headers: Fields, body: bytes | None = None) -> bytes:
    """All that a client sends for one call: preface, SETTINGS, the request."""
    h2 = H2Connection(H2Configuration(validate_outbound_headers=False))
    h2.initiate_connection()
    h2.send_headers(1, headers, end_stream=body is None)
    if body is not None:
        h2.send_data(1, body, end_stream=True)
    return h2.data_to_send()
