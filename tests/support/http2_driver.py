"""A `Connection` in the hands of chance: anything may come, anything may be answered at any time,
and after each step it is looked at whether all is in order.
"""

from collections.abc import Iterator

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.errors import ErrorCode
from authz.envoy_api.http2.events import (
    ConnectionEnded,
    Event,
    RequestReceived,
    RequestTooLarge,
    StreamEnded,
)
from support.http2 import ANSWER_HEADERS, ANSWER_TRAILERS, frame, frames_of, line

ACTIONS = ("answer", "answer at length", "say a part", "reset", "drain", "pause", "wait", "close")
"""What may happen beside bytes that come."""


class Driver:
    """Every method ends with AssertionError where something isn't as it must be."""

    def __init__(self) -> None:
        self.connection = Connection(0.0)
        self.now = 0.0
        self.owed: dict[int, bool] = {}
        """Streams whose answer isn't complete, and whether it has begun."""

    def receive(self, data: bytes) -> list[Event]:
        """Bytes come, a little later."""
        self.now += 0.01
        return self._look(self.connection.receive(data, self.now))

    def act(self, action: str) -> list[Event]:
        """One of ACTIONS."""
        connection = self.connection
        events: list[Event] = []
        match action:
            case "answer":
                self._answer(b"ok")
            case "answer at length":
                self._answer(bytes(30_000))
            case "say a part":
                for stream, begun in self.owed.items():
                    there = begun or connection.send_headers(stream, ANSWER_HEADERS)
                    self.owed[stream] = there and connection.send_data(stream, b"a part")
            case "reset":
                for stream in list(self.owed)[:1]:
                    connection.reset(stream, ErrorCode.INTERNAL_ERROR)
                    del self.owed[stream]
            case "drain":
                connection.drain()
            case "pause" | "wait":
                self.now += 2 if action == "pause" else limits.REQUEST_TIMEOUT + 1
                events = connection.expire(self.now)
            case "close":
                connection.close(ErrorCode.INTERNAL_ERROR)
        return self._look(events)

    def _answer(self, body: bytes) -> None:
        for stream, begun in self.owed.items():
            if begun:
                self.connection.send_data(stream, body)
                self.connection.send_trailers(stream, ANSWER_TRAILERS)
            else:
                self.connection.respond(stream, ANSWER_HEADERS, body, ANSWER_TRAILERS)
        self.owed.clear()

    def _look(self, events: list[Event]) -> list[Event]:
        for event in events:
            self._look_at(event)
        for one in frames_of(self.connection.take_output()):
            line(one)  # it can be read
        self._look_at_accounts()
        return events

    def _look_at(self, event: Event) -> None:
        match event:
            case RequestReceived(stream, head, body):
                assert head.fault is None
                assert len(body) <= limits.MAX_BODY
                assert stream not in self.owed
                self.owed[stream] = False
            case RequestTooLarge(stream):
                self.owed[stream] = False
            case StreamEnded(stream):
                self.owed.pop(stream, None)
            case ConnectionEnded():
                assert self.connection.closed

    def _look_at_accounts(self) -> None:
        connection = self.connection
        here = connection._here
        inbox, outbox = connection._requests.inbox, connection._outbox
        assert inbox.held == sum(len(stream.body or b"") for stream in here.values())
        assert outbox.queued == sum(len(stream.queue or b"") for stream in here.values())
        assert set(outbox._waiting) <= set(here)
        assert len(here) <= limits.MAX_CONCURRENT_STREAMS
        assert len(connection._streams._resets) <= limits.REMEMBERED_RESETS
        assert len(connection._requests.blocks._heads) <= limits.MEMO_BLOCKS
        if connection.closed:
            assert (connection.open_streams, connection.buffered) == (0, 0)
        else:
            assert inbox.window + inbox._freed + inbox.held == limits.CONNECTION_WINDOW
            assert inbox.held <= limits.CONNECTION_WINDOW
            assert 0 <= connection.buffered - inbox.held - outbox.queued <= 3 * 16_384


def drive(script: bytes) -> Driver:
    """Do what the octets of a script say; every script says something."""
    driver = Driver()
    octets = memoryview(script)
    for step in _steps(octets):
        if isinstance(step, str):
            driver.act(step)
        else:
            driver.receive(step)
    driver.act("close")
    return driver


FRAME_OCTET = 0xC0
ACTION_OCTET = 0xF0


def _steps(octets: memoryview) -> Iterator[bytes | str]:
    """An octet below 0xc0: so many of the next octets arrive. Below 0xf0: a frame of that type
    arrives whole; its flags, stream and length are the next three octets. Above: an action.
    """
    at = 0
    while at < len(octets):
        octet = octets[at]
        at += 1
        if octet >= ACTION_OCTET:
            yield ACTIONS[octet % len(ACTIONS)]
        elif octet >= FRAME_OCTET:
            flags, stream, length = (*octets[at : at + 3], 0, 0, 0)[:3]
            payload = bytes(octets[at + 3 : at + 3 + length])
            yield frame((octet - FRAME_OCTET) % 16, flags, stream, payload)
            at += 3 + length
        else:
            yield bytes(octets[at : at + octet])
            at += octet
