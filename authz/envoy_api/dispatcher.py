"""What is asked on one connection, and how it is answered: checks and `grpc.health.v1`.

Answers go into the connection's output; whoever feeds the dispatcher writes that. Answers that come
later say so by `plan_write`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import structlog

from authz.envoy_api import grpc_calls, health
from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.grpc_calls import (
    ANSWER_HEADERS,
    ANSWER_TRAILERS,
    Call,
    Method,
    Refusal,
    Status,
    read_call,
    read_message,
    write_message,
)
from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.events import (
    ConnectionEnded,
    Event,
    RequestReceived,
    RequestTooLarge,
    StreamEnded,
)
from authz.envoy_api.http2.headers import HEAD_TOO_LARGE, RequestHead
from authz.envoy_api.shared import MAX_CONCURRENT_CHECKS, Shared
from authz.observe import events

_CHECK: Final = Method.CHECK
_OK: Final = Status.OK.value

log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    """A check whose answer comes later."""

    answer: asyncio.Future[bytes]
    deadline: asyncio.TimerHandle | None


class _Watch(NamedTuple):
    """A call of `Watch`."""

    known: bool
    """Whether it is about something that there is."""
    deadline: asyncio.TimerHandle | None


class Dispatcher:
    """Answers the calls of one connection."""

    def __init__(
        self, connection: Connection, shared: Shared, plan_write: Callable[[], None]
    ) -> None:
        """Make it in a running loop. `plan_write`: there is output, outside of `dispatch`."""
        self._connection = connection
        self._shared = shared
        self._plan_write = plan_write
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, _Waiting] = {}
        self._watches: dict[int, _Watch] = {}

    def dispatch(self, event: Event) -> None:
        """Answer a request, or give up one whose answer isn't wanted any more."""
        if type(event) is RequestReceived:
            self._on_request(*event)
            return
        match event:
            case RequestTooLarge(stream_id, head):
                self._refuse(stream_id, _refusal_of(head))
            case StreamEnded(stream_id):
                if self._give_up(stream_id) or self._forget_watch(stream_id) is not None:
                    self._count(Status.CANCELLED)
            case ConnectionEnded():
                pass  # the peer finds it `closed` when it writes

    def end_watches(self) -> None:
        """Tell the watchers what has become of us, and end their calls."""
        for stream_id in list(self._watches):
            watch = self._forget_watch(stream_id)
            if watch is not None and watch.known:
                self._send_status(stream_id, self._shared.health.status())
            self._end_watch(stream_id)

    def refuse_waiting(self) -> None:
        """UNAVAILABLE for the checks whose answer is still being waited for."""
        for stream_id in list(self._waiting):
            self._give_up(stream_id)
            self._refuse(stream_id, grpc_calls.STOPPING)

    def give_up_all(self) -> None:
        """Nobody wants an answer any more."""
        for stream_id in list(self._waiting):
            self._give_up(stream_id)
        for stream_id in list(self._watches):
            self._forget_watch(stream_id)

    # ---- calls

    def _on_request(self, stream_id: int, head: RequestHead, body: bytes) -> None:
        call = head.call
        if call is None:
            call = head.call = read_call(head)
        if call.refusal is not None:
            self._refuse(stream_id, call.refusal)
            return
        message = read_message(body)
        if not isinstance(message, bytes):
            self._refuse(stream_id, message)
        elif call.method is _CHECK:
            self._check(stream_id, message, call.timeout)
        else:
            self._tell_health(stream_id, message, call)

    def _check(self, stream_id: int, message: bytes, timeout: float | None) -> None:
        shared = self._shared
        if shared.waiting >= MAX_CONCURRENT_CHECKS:
            self._refuse(stream_id, grpc_calls.TOO_MANY)
            return
        try:
            answer = shared.check(message)
        except MalformedRequestError as error:
            self._refuse_malformed(stream_id, error)
        except Exception:
            log.exception(events.CHECK_FAILED)
            self._refuse(stream_id, grpc_calls.CHECK_FAILED)
        else:
            if isinstance(answer, bytes):
                self._answer(stream_id, answer)
            else:
                self._await(stream_id, answer, timeout)

    def _answer(self, stream_id: int, message: bytes) -> None:
        self._connection.respond(stream_id, ANSWER_HEADERS, write_message(message), ANSWER_TRAILERS)
        self._shared.counters.statuses[_OK] += 1

    def _refuse(self, stream_id: int, refusal: Refusal) -> None:
        self._connection.send_headers(stream_id, refusal.block, end_stream=True)
        self._count(refusal.status)

    def _refuse_malformed(self, stream_id: int, error: MalformedRequestError) -> None:
        # What gRPC servers say when a message can't be parsed (gRPC status codes).
        self._refuse(stream_id, grpc_calls.refusal(Status.INTERNAL, str(error)))

    def _count(self, status: Status) -> None:
        self._shared.counters.statuses[status] += 1

    # ---- answers that come later

    def _await(self, stream_id: int, answer: Awaitable[bytes], timeout: float | None) -> None:
        future = asyncio.ensure_future(answer)
        self._waiting[stream_id] = _Waiting(future, self._deadline(stream_id, timeout))
        self._shared.waiting += 1
        future.add_done_callback(partial(self._answered, stream_id))

    def _answered(self, stream_id: int, future: asyncio.Future[bytes]) -> None:
        self._shared.waiting -= 1
        error = None if future.cancelled() else future.exception()
        waiting = self._waiting.pop(stream_id, None)
        if waiting is None:  # it was given up
            return
        _cancel(waiting.deadline)
        if error is None and not future.cancelled():
            self._answer(stream_id, future.result())
        elif isinstance(error, MalformedRequestError):
            self._refuse_malformed(stream_id, error)
        else:
            log.error(events.CHECK_FAILED, exc_info=error)
            self._refuse(stream_id, grpc_calls.CHECK_FAILED)
        self._plan_write()

    def _deadline(self, stream_id: int, timeout: float | None) -> asyncio.TimerHandle | None:
        if timeout is None:
            return None
        return self._loop.call_later(timeout, self._overdue, stream_id)

    def _overdue(self, stream_id: int) -> None:
        if self._give_up(stream_id):
            self._refuse(stream_id, grpc_calls.DEADLINE_EXCEEDED)
        elif self._forget_watch(stream_id) is not None:
            self._connection.send_trailers(stream_id, grpc_calls.OVERDUE_TRAILERS)
            self._count(Status.DEADLINE_EXCEEDED)
        self._plan_write()

    def _give_up(self, stream_id: int) -> bool:
        """Whether it was being waited for."""
        waiting = self._waiting.pop(stream_id, None)
        if waiting is None:
            return False
        _cancel(waiting.deadline)
        # Not before its first step: coroutines that it was given, and couldn't begin to await,
        # would complain.
        self._loop.call_soon(waiting.answer.cancel)
        return True

    # ---- health

    def _tell_health(self, stream_id: int, message: bytes, call: Call) -> None:
        try:
            known = health.knows(message)
        except MalformedRequestError as error:
            self._refuse_malformed(stream_id, error)
            return
        status = self._shared.health.status()
        if call.method is Method.HEALTH_WATCH:
            self._connection.send_headers(stream_id, ANSWER_HEADERS)
            self._send_status(stream_id, status if known else health.SERVICE_UNKNOWN)
            if self._shared.health.serving:
                self._watches[stream_id] = _Watch(known, self._deadline(stream_id, call.timeout))
            else:
                self._end_watch(stream_id)
        elif known:
            self._answer(stream_id, status)
        else:
            self._refuse(stream_id, grpc_calls.NOT_FOUND)

    def _send_status(self, stream_id: int, status: bytes) -> None:
        self._connection.send_data(stream_id, write_message(status))

    def _end_watch(self, stream_id: int) -> None:
        self._connection.send_trailers(stream_id, ANSWER_TRAILERS)
        self._count(Status.OK)

    def _forget_watch(self, stream_id: int) -> _Watch | None:
        watch = self._watches.pop(stream_id, None)
        if watch is not None:
            _cancel(watch.deadline)
        return watch


def _refusal_of(head: RequestHead) -> Refusal:
    """What a request gets that is too large."""
    if head is HEAD_TOO_LARGE:
        return grpc_calls.HEAD_TOO_LARGE
    return read_call(head).refusal or grpc_calls.TOO_LARGE


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
