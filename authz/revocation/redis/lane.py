"""The way to one Redis node: look-ups gathered, sent as pipelines, timed and judged.

All look-ups of one turn of the event loop leave as one pipeline. Whoever waits is answered at
`timeout` at the latest, by a timer of the group and not by the connection, so that a node that
hangs costs nobody more. The pipeline itself is left running a little longer: what comes late is
still learnt, for the next check of that token.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError

from authz.observe import events
from authz.revocation.record import (
    ANY_USER,
    Answer,
    Clear,
    Revoked,
    TokenRef,
    Unavailable,
    blacklist_key,
    not_before_key,
)
from authz.revocation.redis.outage import Breaker, State
from authz.revocation.redis.topology import Address, node_name
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

MAX_PIPELINE = 256
"""Look-ups in one pipeline: 256 x 3 keys of about 100 bytes are 77 KB, within a socket's buffer."""
MAX_PIPELINES_IN_FLIGHT = 4
"""Per node. More would only queue inside Redis, which runs one at a time; further look-ups wait for
one to return and then share a pipeline."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Lookup:
    """One token being asked about."""

    ref: TokenRef
    answer: asyncio.Future[Answer]
    redirects: int = 0

    def settle(self, finding: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(finding)


@dataclass(slots=True, eq=False)
class _Group:
    """The look-ups of one turn of the loop; they share a deadline."""

    lookups: list[Lookup] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


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
        redirected: Callable[[Lookup, Redirect], None],
        troubled: Callable[["Lane"], None],
        observe: Callable[[float, int], None],
    ) -> None:
        """`learn` is told each answer, also a late one; `redirected` takes over a look-up whose
        slot is elsewhere; `troubled` is called when the node failed; `observe` is told the
        seconds and the number of look-ups of each pipeline.
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
        self._pending: list[Lookup] = []
        self._group: _Group | None = None
        self._in_flight: set[asyncio.Task[None]] = set()
        self.last_error = ""
        """Of the node's last failure, for people. Redis errors name no secrets."""

    def submit(self, lookup: Lookup) -> None:
        """Ask in this turn's pipeline. The look-up is settled within the timeout. Whoever calls
        has asked the breaker.
        """
        if self._group is None:
            group = self._group = _Group()
            group.timer = self._loop.call_later(self._timeout, self._expire, group)
            self._loop.call_soon(self._end_turn)
        self._group.lookups.append(lookup)
        self._pending.append(lookup)

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
                {"message": "a look-up failed in an unforeseen way", "exception": task.exception()}
            )
        self._send()

    def _expire(self, group: _Group) -> None:
        late = [lookup for lookup in group.lookups if not lookup.answer.done()]
        if late:
            self._fail(f"no answer within {self._timeout * 1000:g} ms")
            for lookup in late:
                lookup.settle(Unavailable("timeout"))

    def _fail(self, error: str) -> None:
        self.last_error = error
        was_open = self.breaker.state is State.OPEN
        self.breaker.failure(self._loop.time())
        if self.breaker.state is State.OPEN and not was_open:
            log.warning(events.BREAKER_OPENED, node=self.node, error=error)
        self._troubled(self)

    async def _ask(self, batch: Sequence[Lookup]) -> None:
        started = self._loop.time()
        pipeline = self.client.pipeline(transaction=False)
        for lookup in batch:
            pipeline.mget(keys_of(lookup.ref))
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, TimeoutError) as error:
            if any(not lookup.answer.done() for lookup in batch):  # else _expire has judged it
                self._fail(describe(error))
            cause = "timeout" if isinstance(error, RedisTimeoutError) else "connection"
            for lookup in batch:
                lookup.settle(Unavailable(cause))
            return
        self._observe(self._loop.time() - started, len(batch))
        trouble = ""
        for lookup, reply in zip(batch, replies, strict=True):
            trouble = self._take(lookup, reply) or trouble
        if trouble:
            self._fail(trouble)
        else:
            self.breaker.success(self._loop.time())

    def _take(self, lookup: Lookup, reply: Any) -> str:
        """Settle a look-up by its reply. What is wrong with the node (LOADING, NOPERM, …), or an
        empty text.
        """
        match reply:
            case list():
                self._conclude(lookup, read_reply(lookup.ref, reply))
            case AskError() | MovedError():
                asking = not isinstance(reply, MovedError)  # redis-py: a kind of AskError
                address = (reply.host or self.address[0], reply.port)
                self._redirected(lookup, Redirect(lookup.ref.bucket, address, asking))
            case TryAgainError():  # the slot is being moved and its keys stand on both sides
                self._redirected(lookup, Redirect(lookup.ref.bucket, self.address, asking=True))
            case ClusterDownError():
                # Until a dead master of any shard is replaced, all nodes may say so. This one is
                # well and costs nobody a wait, so its breaker must not prolong it.
                self.last_error = describe(reply)
                self._troubled(self)
                lookup.settle(Unavailable("error"))
            case _:
                lookup.settle(Unavailable("error"))
                return describe(reply)
        return ""

    def _conclude(self, lookup: Lookup, finding: Revoked | Clear) -> None:
        self._learn(lookup.ref, finding)
        lookup.settle(finding)

    async def ask_one_by_one(self, lookup: Lookup, connect: Callable[[Address], Redis]) -> None:
        """Ask for each key by itself, here and, where it has gone, at the node that ASK names.

        For a slot on the move: commands with several keys get TRYAGAIN while the keys stand on
        both sides (Redis Cluster specification, "Multi-key operations").
        """
        values: list[Any] = []
        try:
            for key in keys_of(lookup.ref):
                values.append(await self.read_key(connect, "GET", key))  # noqa: PERF401  in turn
        except (RedisError, OSError, TimeoutError):
            lookup.settle(Unavailable("error"))
            return
        self._conclude(lookup, read_reply(lookup.ref, values))

    async def read(self, commands: Sequence[tuple[Any, ...]], within: float) -> list[Any]:
        """The replies to commands that no check waits for, errors among them as values.

        The breaker is told whether the node answered, so that the feed and the checks agree about
        it. ReadError: it didn't, within so many seconds.
        """
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(within):
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
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
            async with asyncio.timeout(max(self._timeout, PROBE_TIMEOUT)):
                await self.client.ping()
        except (RedisError, OSError, TimeoutError) as error:
            self.last_error = describe(error)
            self.breaker.probe_failed(self._loop.time())
            return False
        if self.breaker.state is State.OPEN:
            log.info(events.BREAKER_CLOSED, node=self.node)
        self.breaker.probe_succeeded(self._loop.time())
        return True

    async def aclose(self) -> None:
        for lookup in self._pending:  # first: a task that ends sends what is pending
            lookup.settle(Unavailable("connection"))
        self._pending.clear()
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.aclose()


PROBE_TIMEOUT = 0.1
"""Seconds. A probe makes nobody wait, so it may take longer than a check may."""


def describe(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": .")[:200]


def keys_of(ref: TokenRef) -> tuple[str, str, str]:
    """The keys that can revoke a token, in the order in which `read_reply` takes their values."""
    return (
        blacklist_key(ref.bucket, ref.user, ref.token),
        blacklist_key(ref.bucket, ANY_USER, ref.token),
        not_before_key(ref.bucket, ref.user),
    )


def read_reply(ref: TokenRef, values: Sequence[Any]) -> Revoked | Clear:
    """What the values of the three keys say.

    A cut-off that can't be read revokes: someone meant to revoke something.
    """
    own, anyones, cutoff = values
    if own is not None or anyones is not None:
        return Revoked(ref.expires_at + MAX_LEEWAY)
    if cutoff is None:
        return Clear()
    try:
        not_before = int(cutoff.split(b" ", 1)[0]) / 1000
    except ValueError:
        return Revoked(ref.expires_at + MAX_LEEWAY)
    if ref.issued_at >= not_before:
        return Clear()
    return Revoked(not_before + MAX_LIFETIME + MAX_LEEWAY, not_before)
