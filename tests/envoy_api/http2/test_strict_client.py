"""Hypothesis drives a `Connection` and the `h2` library at the other end of an imagined line.

`h2` checks every byte that we send: frames, states, windows, header blocks; it raises where one is
wrong. The model knows what each side asked, answered and gave up, so that what arrives can be
compared with it, whatever the order and however the bytes are cut.
"""

from struct import unpack_from
from typing import Any

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

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
from support.http2 import ANSWER_HEADERS, ANSWER_TRAILERS, GOAWAY, POST, Frame, frame, frames_of

Fields = tuple[tuple[bytes, bytes], ...]

ANSWERED_WITH = [(b":status", b"200"), (b"content-type", b"application/grpc")]
ENDED_WITH = [(b"grpc-status", b"0")]
EXTRAS: list[Fields] = [
    (),
    ((b"te", b"trailers"), (b"grpc-timeout", b"200m")),
    ((b"x-request-id", b"0123456789" * 7), (b"x-request-id", b"")),
    tuple((b"n%d" % n, b"v" * n) for n in range(40)),
]


BODIES = st.one_of(st.binary(max_size=50), st.integers(1, 70_000).map(bytes))
WINDOWS = st.sampled_from([0, 1, 50, 1000, 5000, 200_000])
TABLES = st.sampled_from([0, 1, 4095, 4096, 10_000])


class Exchange:
    """A request and its answer, as the client knows them."""

    def __init__(self, stream: int, extra: Fields) -> None:
        self.stream = stream
        self.extra = extra
        self.body = b""
        self.request_ended = False
        self.given_up: ErrorCode | None = None
        """By whichever side, with this code: nothing more is expected."""
        self.delivered = False
        self.answer: bytes | None = None
        """What the server said in all; None until it has begun to."""
        self.answer_ended = False
        self.got = b""
        self.got_headers = False
        self.got_end = False


EVERYTHING = 2**30
CHUNKS = st.sampled_from([1, 9, 10, 100, 4096, EVERYTHING, EVERYTHING])
"""How many bytes arrive at a time."""


class StrictClient(RuleBasedStateMachine):
    open_requests: Bundle[Exchange] = Bundle("open_requests")
    asked: Bundle[Exchange] = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.server = Connection(0.0)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=False))
        self.now = 0.0
        self.exchanges: dict[int, Exchange] = {}
        self.to_server = b""
        self.to_client = b""
        self.draining = False
        self.goaways: list[Frame] = []

    @initialize(window=WINDOWS, table=TABLES)
    def begin(self, window: int, table: int) -> None:
        self.client.initiate_connection()
        self.settle()
        self.change_settings(window, table)

    @property
    def last_wanted(self) -> int:
        """The last stream that the server answers."""
        return min((unpack_from(">I", one.payload)[0] for one in self.goaways), default=2**31 - 1)

    # ---- the line

    def flush(self) -> None:
        self.to_server += self.client.data_to_send()
        for one in frames_of(self.server.take_output()):
            if one.kind == GOAWAY:  # h2 takes nothing after it, so it is looked at here
                self.goaways.append(one)
            else:
                self.to_client += frame(*one)

    @rule(size=CHUNKS)
    def bytes_reach_the_server(self, size: int) -> None:
        self.flush()
        arrived, self.to_server = self.to_server[:size], self.to_server[size:]
        for event in self.server.receive(arrived, self.now):
            self.on_server_event(event)

    @rule(size=CHUNKS)
    def bytes_reach_the_client(self, size: int) -> None:
        self.flush()
        arrived, self.to_client = self.to_client[:size], self.to_client[size:]
        for event in self.client.receive_data(arrived):
            self.on_client_event(event)

    @rule()
    def all_bytes_arrive(self) -> None:
        self.settle()

    @rule()
    def a_moment_passes(self) -> None:
        self.client.ping(b"whatever")
        self.now += 0.001
        for event in self.server.expire(self.now):
            self.on_server_event(event)

    def on_server_event(self, event: Event) -> None:
        match event:
            case RequestReceived(stream, head, body):
                exchange = self.exchanges[stream]
                assert not exchange.delivered
                exchange.delivered = True
                assert exchange.request_ended
                assert body == exchange.body
                assert (*POST, *head.headers) == (*POST, *exchange.extra)
                assert (head.method, head.path) == (POST[0][1], POST[2][1])
            case StreamEnded(stream, code):
                exchange = self.exchanges[stream]
                assert exchange.delivered
                assert code == exchange.given_up == ErrorCode.CANCEL
            case ConnectionEnded(error):
                assert error is None
                assert self.draining
            case RequestTooLarge():
                raise AssertionError(event)

    def on_client_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(headers=headers, stream_id=stream):
                assert headers == ANSWERED_WITH
                self.exchanges[stream].got_headers = True
            case h2.events.DataReceived(data=data, stream_id=stream):
                self.exchanges[stream].got += data
            case h2.events.TrailersReceived(headers=headers):
                assert headers == ENDED_WITH
            case h2.events.StreamEnded(stream_id=stream):
                exchange = self.exchanges[stream]
                exchange.got_end = True
                assert exchange.got_headers
                assert exchange.got == exchange.answer
            case h2.events.StreamReset(stream_id=stream, error_code=code):
                exchange = self.exchanges[stream]
                match code:
                    case ErrorCode.NO_ERROR:
                        assert exchange.got_end
                    case ErrorCode.REFUSED_STREAM:
                        assert stream > self.last_wanted
                        assert not exchange.delivered
                    case _:
                        assert code == exchange.given_up == ErrorCode.INTERNAL_ERROR

    # ---- what the client does

    @rule(target=open_requests, extra=st.sampled_from(EXTRAS))
    def begin_a_request(self, extra: Fields) -> Any:
        if self.client.open_outbound_streams >= limits.MAX_CONCURRENT_STREAMS:
            return multiple()
        stream = self.client.get_next_available_stream_id()
        exchange = self.exchanges[stream] = Exchange(stream, extra)
        self.client.send_headers(stream, [*POST, *extra])
        return exchange

    @rule(target=asked, extra=st.sampled_from(EXTRAS), body=st.binary(max_size=40),
          arrives=st.booleans())  # fmt: skip
    def ask(self, extra: Fields, body: bytes, arrives: bool) -> Exchange:
        stream = self.client.get_next_available_stream_id()
        exchange = self.exchanges[stream] = Exchange(stream, extra)
        self.client.send_headers(stream, [*POST, *extra])
        self.send(exchange, body, None)
        self.end(exchange, with_trailers=False)
        if arrives:
            self.settle()
        return exchange

    @rule(
        exchange=open_requests,
        size=st.one_of(st.integers(0, 300), st.integers(0, 40_000)),
        padding=st.one_of(st.none(), st.integers(0, 255)),
    )
    def send_some(self, exchange: Exchange, size: int, padding: int | None) -> None:
        if not exchange.request_ended and not self.is_gone(exchange):
            self.send(exchange, bytes((size % 251,)) * size, padding)

    def send(self, exchange: Exchange, body: bytes, padding: int | None) -> None:
        """As far as the windows that the server gave allow."""
        extra = 0 if padding is None else padding + 1
        room = self.client.local_flow_control_window(exchange.stream)
        sent = body[: max(0, min(room, self.client.max_outbound_frame_size) - extra)]
        if room >= extra:
            self.client.send_data(exchange.stream, sent, pad_length=padding)
            exchange.body += sent

    @rule(target=asked, exchange=consumes(open_requests), with_trailers=st.booleans())
    def end_a_request(self, exchange: Exchange, with_trailers: bool) -> Exchange:
        self.end(exchange, with_trailers=with_trailers)
        return exchange

    def end(self, exchange: Exchange, *, with_trailers: bool) -> None:
        if exchange.request_ended or self.is_gone(exchange):
            return
        exchange.request_ended = True
        if with_trailers:
            self.client.send_headers(exchange.stream, [(b"x", b"y")], end_stream=True)
        else:
            self.client.end_stream(exchange.stream)

    def is_gone(self, exchange: Exchange) -> bool:
        """Whether the client has seen the stream end, or be reset."""
        stream = self.client.streams.get(exchange.stream)
        return stream is None or stream.closed

    @rule(exchange=st.one_of(open_requests, asked), luck=st.integers(0, 3))
    def give_up(self, exchange: Exchange, luck: int) -> None:
        if luck == 0 and not self.is_gone(exchange):
            exchange.given_up = exchange.given_up or ErrorCode.CANCEL
            self.client.reset_stream(exchange.stream, ErrorCode.CANCEL)

    @rule(exchange=st.one_of(open_requests, asked), size=st.sampled_from([0, 1, 10, 5000]))
    def widen(self, exchange: Exchange, size: int) -> None:
        if size and not self.is_gone(exchange):
            self.client.increment_flow_control_window(size, exchange.stream)
        else:
            self.client.increment_flow_control_window(50_000)

    @rule(window=WINDOWS, table=TABLES)
    def change_settings(self, window: int, table: int) -> None:
        """Always both: h2 takes an acknowledgement for the oldest change of each."""
        self.client.update_settings(
            {SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.HEADER_TABLE_SIZE: table}
        )

    # ---- what the server does

    @property
    def owed(self) -> list[Exchange]:
        """Requests that the server was told of, and whose answer isn't complete."""
        return [one for one in self.exchanges.values() if one.delivered and not one.answer_ended]

    @precondition(lambda self: self.owed)
    @rule(which=st.integers(0, 9), body=BODIES)
    def answer(self, which: int, body: bytes) -> None:
        exchange = self.owed[which % len(self.owed)]
        if exchange.answer is None:
            exchange.answer = body
            exchange.answer_ended = True
            there = self.server.respond(exchange.stream, ANSWER_HEADERS, body, ANSWER_TRAILERS)
            assert there or exchange.given_up is not None

    @precondition(lambda self: self.owed)
    @rule(which=st.integers(0, 9), parts=st.lists(BODIES, max_size=3), ends=st.booleans())
    def answer_a_part(self, which: int, parts: list[bytes], ends: bool) -> None:
        self.say(self.owed[which % len(self.owed)], parts, ends=ends)

    def say(self, exchange: Exchange, parts: list[bytes], *, ends: bool) -> None:
        if exchange.answer is None:
            exchange.answer = b""
            self.server.send_headers(exchange.stream, ANSWER_HEADERS)
        for part in parts:
            exchange.answer += part
            self.server.send_data(exchange.stream, part)
        if ends:
            exchange.answer_ended = True
            self.server.send_trailers(exchange.stream, ANSWER_TRAILERS)

    @rule(exchange=open_requests, luck=st.integers(0, 3))
    def answer_early(self, exchange: Exchange, luck: int) -> None:
        """Before the request has ended; the rest of it is not wanted."""
        if (
            luck == 0
            and self.server._here.get(exchange.stream) is not None
            and exchange.answer is None
        ):
            exchange.answer = b"early"
            exchange.answer_ended = True
            self.server.respond(exchange.stream, ANSWER_HEADERS, b"early", ANSWER_TRAILERS)

    @rule(exchange=st.one_of(open_requests, asked), luck=st.integers(0, 3))
    def server_gives_up(self, exchange: Exchange, luck: int) -> None:
        if luck == 0 and self.server._here.get(exchange.stream) is not None:
            exchange.given_up = ErrorCode.INTERNAL_ERROR
            self.server.reset(exchange.stream, ErrorCode.INTERNAL_ERROR)

    @precondition(lambda self: not self.draining)
    @rule(luck=st.integers(0, 9))
    def drain(self, luck: int) -> None:
        if luck == 0:
            self.draining = True
            self.server.drain()

    # ---- what always holds

    @invariant()
    def accounts_are_in_order(self) -> None:
        inbox, outbox = self.server._requests.inbox, self.server._outbox
        assert inbox.window + inbox._freed + inbox.held == limits.CONNECTION_WINDOW or (
            self.server.closed
        )
        here = self.server._here.values()
        assert inbox.held == sum(len(stream.body or b"") for stream in here)
        assert outbox.queued == sum(len(stream.queue or b"") for stream in here)
        assert outbox._window >= 0
        waiting = [stream.id for stream in here if stream.queue]
        assert set(outbox._waiting) <= set(waiting)
        for stream in here:
            room = outbox._initial + stream.extra_window
            if stream.queue and room > 0:
                assert stream.id in outbox._waiting
                assert outbox._window == 0
        assert self.server.buffered >= 0
        assert len(self.goaways) <= 2

    def teardown(self) -> None:
        """In the end all windows are opened and all that is owed is said; then nothing is left."""
        self.change_settings(2**20, 4096)
        self.client.increment_flow_control_window(2**24)
        self.settle()
        for exchange in self.exchanges.values():
            self.end(exchange, with_trailers=False)
        self.settle()
        for exchange in self.exchanges.values():
            if exchange.delivered and not exchange.answer_ended:
                self.say(exchange, [b"at last"], ends=True)
        self.settle()
        server = self.server
        assert (server.open_streams, server.buffered, server.closed) == (0, 0, self.draining)
        for exchange in self.exchanges.values():
            if exchange.stream <= self.last_wanted and exchange.given_up is None:
                assert exchange.delivered or exchange.answer == b"early"
                assert exchange.got_end
        if not server.closed:
            assert self.client.local_settings.initial_window_size == 2**20  # it was acknowledged
            assert self.client.outbound_flow_control_window == server._requests.inbox.window
            assert self.client.inbound_flow_control_window == server._outbox._window

    def settle(self) -> None:
        self.flush()
        while self.to_server or self.to_client:
            self.bytes_reach_the_server(EVERYTHING)
            self.bytes_reach_the_client(EVERYTHING)
            self.flush()


StrictClient.TestCase.settings = settings(
    max_examples=100, stateful_step_count=60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
test_a_strict_client_finds_every_byte_in_order = StrictClient.TestCase
