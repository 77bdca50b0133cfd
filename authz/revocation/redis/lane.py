"""The way to one Redis node: questions gathered, sent as pipelines, timed and judged.

All questions of one turn of the event loop leave as one pipeline. Whoever waits is answered at
`timeout` at the latest, by a timer of the group and not by the connection, so that a node that
hangs costs nobody more; only the loop's own work comes on top, for a busy sidecar must not take
itself for a slow node. The pipeline itself is left running a little longer: what comes late is
still learnt, for the next check of that token.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from authz.observe import events
from authz.revocation.record import Clear, Revoked, TokenRef, Unavailable
from authz.revocation.redis.outage import Breaker, State
from authz.revocation.redis.question import Lookup, Question, Usage, read_reply, read_use
from authz.revocation.redis.topology import Address, node_name

MAX_PIPELINE = 256
"""Questions in one pipeline: 256 x 3 keys of about 100 bytes are 77 KB, within socket buffers."""
MAX_PIPELINES_IN_FLIGHT = 4
"""Per node. More would only queue inside Redis, which runs one at a time; further ones wait for
one to return and then share a pipeline."""

LATE_TURNS = 16
"""Turns of the event loop that a question has when its time is over. A reply needs nine, from when
it is asked for to whoever waits. Where a busy sidecar takes 4 ms for each, 25 ms are over before it
could read what Redis said within one, and nothing would be known while Redis is well. In a loop
that has nothing else to do they are over at once."""
BEHIND = 0.005
"""Seconds by which a timer may be late in a loop that does its work. What is more is given back to
the question: it was lost to the loop's own work, before Redis was asked or could be heard."""

ReplyT = TypeVar("ReplyT")

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Group:
    """The questions of one turn of the loop; they share a deadline."""

    due: float
    """When its time is over, by the loop's clock."""
    questions: list[Question] = field(default_factory=list)
    late_turns: int = LATE_TURNS
    """That are left."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A node's word that a bucket's slot is, or is being moved, elsewhere."""

    bucket: int
    address: Address
    asking: bool
    """ASK: for this one question; MOVED: from now on."""


class ReadError(Exception):
    """A node gave no answer. The text says why."""


class Lane:
    """Asks one node."""

    def __init__(
        self,
        address: Address,
        client: Redis,
        breaker: Breaker,
        *,
        timeout: float,
        learn: Callable[[TokenRef, Revoked | Clear], None],
        redirected: Callable[[Question, Redirect], None],
        troubled: Callable[["Lane"], None],
        observe: Callable[[float, int], None],
    ) -> None:
        """`learn` is told each answer to a look-up, also a late one; `redirected` takes over a
        question whose slot is elsewhere; `troubled` is called when the node failed; `observe` is
        told the seconds and the number of questions of each pipeline.
        """
        self.address = address
        self.node = node_name(address)
        """For people."""
        self.client = client
        self.breaker = breaker
        self._timeout = timeout
        self._learn = learn
        self._redirected = redirected
        self._troubled = troubled
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._pending: list[Question] = []
        self._group: _Group | None = None
        self._in_flight: set[asyncio.Task[None]] = set()
        self.last_error = ""
        """Of the node's last failure, for people. Redis errors name no secrets."""
        self._refusal = ""
        """The kind of error with which the node last refused to write down a use, until it did."""

    def submit(self, question: Question) -> None:
        """Ask in this turn's pipeline. The question is settled within the timeout and some
        turns of the loop. Whoever calls has asked the breaker.
        """
        if self._group is None:
            group = self._group = _Group(self._loop.time() + self._timeout)
            self._loop.call_at(group.due, self._expire, group)
            self._loop.call_soon(self._end_turn)
        self._group.questions.append(question)
        self._pending.append(question)

    def _end_turn(self) -> None:
        self._group = None
        self._send()

    def _send(self) -> None:
        while self._pending and len(self._in_flight) < MAX_PIPELINES_IN_FLIGHT:
            batch = [one for one in self._pending[:MAX_PIPELINE] if not one.answer.done()]
            del self._pending[:MAX_PIPELINE]
            if batch:
                task = self._loop.create_task(self._ask(batch))
                self._in_flight.add(task)
                task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler(
                {"message": "a question failed in an unforeseen way", "exception": task.exception()}
            )
        self._send()

    def _expire(self, group: _Group) -> None:
        """The time is over. A turn of the loop runs timers before it reads from sockets."""
        group.questions = [one for one in group.questions if not one.answer.done()]
        if not group.questions:
            return
        if group.late_turns > 0:
            group.late_turns -= 1
            group.due = _prolonged(group.due, self._loop.time(), self._timeout)
            self._loop.call_at(group.due, self._expire, group)
            return
        self._fail(f"no answer within {self._timeout * 1000:g} ms")
        for question in group.questions:
            question.settle(Unavailable("timeout"))

    def _fail(self, error: str) -> None:
        self.last_error = error
        was_open = self.breaker.state is State.OPEN
        self.breaker.failure(self._loop.time())
        if self.breaker.state is State.OPEN and not was_open:
            log.warning(events.BREAKER_OPENED, node=self.node, error=error)
        self._troubled(self)

    async def _ask(self, batch: Sequence[Question]) -> None:
        started = self._loop.time()
        pipeline = self.client.pipeline(transaction=False)
        for question in batch:
            pipeline.execute_command(*question.command)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            if any(not question.answer.done() for question in batch):  # else _expire has judged it
                self._fail(describe(error))
            cause = "timeout" if isinstance(error, RedisTimeoutError) else "connection"
            for question in batch:
                question.settle(Unavailable(cause))
            return
        self._observe(self._loop.time() - started, len(batch))
        trouble = ""
        for question, reply in zip(batch, replies, strict=True):
            trouble = self._take(question, reply) or trouble
        if trouble:
            self._fail(trouble)
        else:
            self.breaker.success(self._loop.time())

    def _take(self, question: Question, reply: Any) -> str:
        """Settle a question by its reply. What is wrong with the node (LOADING, NOPERM, …), or an
        empty text.
        """
        match question, reply:
            case Lookup(), list():
                self._conclude(question, reply)
            case Usage(), True | None:
                self._conclude(question, [reply])
            case _, AskError() | MovedError():
                asking = not isinstance(reply, MovedError)  # redis-py: a kind of AskError
                address = (reply.host or self.address[0], reply.port)
                self._redirected(question, Redirect(question.bucket, address, asking))
            case _, TryAgainError():  # the slot is being moved and its keys stand on both sides
                self._redirected(question, Redirect(question.bucket, self.address, asking=True))
            case _, ClusterDownError():
                # Until a dead master of any shard is replaced, all nodes may say so. This one is
                # well and costs nobody a wait, so its breaker must not prolong it.
                self.last_error = describe(reply)
                self._troubled(self)
                question.settle(Unavailable("error"))
            case Usage(), RedisError():
                self._take_refusal(reply)
                question.settle(Unavailable("error"))
            case _:
                question.settle(Unavailable("error"))
                return describe(reply)
        return ""

    def _take_refusal(self, error: RedisError) -> None:
        """The node won't write (NOPERM, OOM, READONLY, …). It may read as well as ever and costs
        nobody a wait, so its breaker isn't told: look-ups must not suffer.
        """
        kind = type(error).__name__
        if kind != self._refusal:
            self._refusal = kind
            log.warning(events.USES_REFUSED, node=self.node, error=describe(error))

    def _conclude(self, question: Question, values: list[Any]) -> None:
        match question:
            case Lookup():
                finding = read_reply(question.ref, values)
                self._learn(question.ref, finding)
                question.settle(finding)
            case Usage():
                self._refusal = ""
                question.settle(read_use(values[0]))

    async def ask_one_by_one(self, question: Question, connect: Callable[[Address], Redis]) -> None:
        """Ask for each key by itself, here and, where it has gone, at the node that ASK names.

        For a slot on the move: commands with several keys get TRYAGAIN while the keys stand on
        both sides (Redis Cluster specification, "Multi-key operations").
        """
        values: list[Any] = []
        try:
            for command in question.singly:
                values.append(await self.read_key(connect, *command))  # noqa: PERF401  in turn
        except (RedisError, OSError, TimeoutError):
            question.settle(Unavailable("error"))
            return
        self._conclude(question, values)

    async def read(self, commands: Sequence[tuple[Any, ...]], within: float) -> list[Any]:
        """The replies to commands that no check waits for, errors among them as values.

        The breaker is told whether the node answered, so that the feed and the checks agree about
        it. ReadError: it didn't, within so many seconds.
        """
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            replies = await self._in_time(pipeline.execute(raise_on_error=False), within)
        except (RedisError, OSError, TimeoutError) as error:
            text = describe(error) if str(error) else f"no answer within {within:g} s"
            self._fail(text)
            raise ReadError(text) from None
        self.breaker.success(self._loop.time())
        return replies

    async def read_key(
        self, connect: Callable[[Address], Redis], *command: str | bytes | int
    ) -> Any:
        """The reply to a command with one key, from here or, where the key has gone, from the node
        that ASK names. RedisError, OSError or TimeoutError: there is none.
        """
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        except AskError as ask:
            address = (ask.host or self.address[0], ask.port)
            pipeline = connect(address).pipeline(transaction=False)
            pipeline.execute_command("ASKING")
            pipeline.execute_command(*command)
            return (await pipeline.execute())[1]

    async def probe(self) -> bool:
        """Whether the node answers. Tells the breaker."""
        try:
            await self._in_time(self.client.ping(), max(self._timeout, PROBE_TIMEOUT))
        except (RedisError, OSError, TimeoutError) as error:
            self.last_error = describe(error)
            self.breaker.probe_failed(self._loop.time())
            return False
        if self.breaker.state is State.OPEN:
            log.info(events.BREAKER_CLOSED, node=self.node)
        self.breaker.probe_succeeded(self._loop.time())
        return True

    async def _in_time(self, call: Awaitable[ReplyT], within: float) -> ReplyT:
        """What a call gives. TimeoutError: nothing within so many seconds, and the turns that
        questions have, too.
        """
        reply = asyncio.ensure_future(call)
        try:
            due = self._loop.time() + within
            for _ in range(1 + LATE_TURNS):
                await asyncio.wait([reply], timeout=max(0.0, due - self._loop.time()))
                if reply.done():
                    return reply.result()
                due = _prolonged(due, self._loop.time(), within)
            raise TimeoutError
        finally:
            reply.cancel()
            reply.add_done_callback(_is_over)

    async def aclose(self) -> None:
        for question in self._pending:  # first: a task that ends sends what is pending
            question.settle(Unavailable("connection"))
        self._pending.clear()
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.aclose()


PROBE_TIMEOUT = 0.1
"""Seconds. A probe makes nobody wait, so it may take longer than a check may."""


def _is_over(task: asyncio.Future[Any]) -> None:
    """Whatever became of it, nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


def _prolonged(due: float, now: float, at_most: float) -> float:
    """When the time is over that was to be over at `due`, with what the loop lost of it."""
    lost = min(now - due, at_most)
    return now + (lost if lost > BEHIND else 0.0)


def describe(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": .")[:200]
