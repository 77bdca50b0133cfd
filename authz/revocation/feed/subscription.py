"""One connection on which every revocation is pushed, whichever node it was written at.

PUBLISH reaches the subscribers of all nodes of a cluster, so one connection to any of them is
enough. What is lost with it, or never arrives, the feed finds in the streams.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from authz.observe import events
from authz.revocation.entry import EntryError
from authz.revocation.feed.position import Push
from authz.revocation.record import feed_key
from authz.revocation.redis.lane import describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.topology import Address, node_name

PING_EVERY = 1.0
"""Seconds. A node that hangs, or a line that was cut without a word, shows only by silence."""
SILENCE = 2.5
"""Seconds without a byte after which the connection is given up: two pings in a row unanswered."""
RETRY_MIN, RETRY_MAX = 0.05, 1.0
"""Seconds between attempts: doubling, and each less up to half at random, so that a fleet whose
node died doesn't come back as one."""
STEADY = 10.0
"""Seconds for which a subscription has held before the next one is tried at once, and told of: a
node that drops its subscribers would otherwise be asked, and the log filled, without a pause."""
ENTRIES_A_TURN = 64
"""Heard of before checks get their turn: about a millisecond of work. One message may hold more, of
bulk revocations; it is then the only one."""

log = structlog.get_logger(__name__)


class Subscription:
    """Keeps subscribed to the channels of all buckets, at one node or another."""

    def __init__(
        self,
        nodes: Nodes,
        buckets: int,
        *,
        connect_timeout: float,
        monotonic: Callable[[], float],
        pushed: Callable[[int, Push], None],
        changed: Callable[[], None],
    ) -> None:
        """`pushed` is told each push and its bucket; `changed`, that the subscription began or
        ended. `connect_timeout` in seconds, for connecting and subscribing.
        """
        self._nodes = nodes
        self._buckets = {feed_key(bucket).encode(): bucket for bucket in range(buckets)}
        self._connect_timeout = connect_timeout
        self._pushed = pushed
        self._changed = changed
        self._monotonic = monotonic
        self._heard_at = 0.0
        self._deaf = asyncio.Event()
        self._stopped = False
        self.node = ""
        """`host:port` where it is subscribed; empty while it isn't."""
        self.since = 0.0
        """When that began, in `monotonic` seconds."""
        self.messages = 0
        self.unreadable = 0
        """Messages on our channels that are none of ours."""
        self.started = 0
        """Subscriptions begun so far."""
        self.error = "not connected yet"

    async def run(self) -> None:
        """Until it is cancelled, and told so by `stop`: a library that is just connecting may take
        the cancellation for a failure of its own.
        """
        pause = RETRY_MIN
        last: Address | None = None
        told = ""
        while not self._stopped:
            address = last = self._choose(last)
            try:
                await self._follow(address)
            except* (RedisError, OSError, TimeoutError) as errors:
                self.error = _first_line(errors)
            except* Exception as errors:
                self.error = _first_line(errors)
                log.exception(events.FEED_FAILED)
            was_up, self.node = bool(self.node), ""
            if self._stopped:
                return
            if was_up:
                self._changed()
                if self._monotonic() - self.since > STEADY:
                    pause, told = RETRY_MIN, ""
            kind = self.error.partition(":")[0]
            if kind != told:  # of an outage each kind of error once
                told = kind
                log.warning(events.FEED_UNSUBSCRIBED, node=node_name(address), error=self.error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  no secret
            pause = min(2 * pause, RETRY_MAX)

    def stop(self) -> None:
        """Begin no other connection."""
        self._stopped = True
        self._deaf.set()

    def move(self) -> None:
        """Pushes don't arrive although the connection seems well: go to another node."""
        self._deaf.set()

    def _choose(self, last: Address | None) -> Address:
        """Any node that answers, but not the last one again, if there is a choice."""
        nodes = self._nodes.topology.nodes()
        others = [node for node in nodes if node != last] or nodes
        return random.choice(others)  # noqa: S311  spreads a fleet over the nodes; no secret

    async def _follow(self, address: Address) -> None:
        """Subscribe at this node and read until something goes wrong, which it raises."""
        pubsub = self._nodes.client(address).pubsub()
        try:
            await _within(self._subscribe(pubsub), self._connect_timeout)
            self._begin(address)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(pubsub))
                tasks.create_task(self._watch(pubsub))
        finally:
            with contextlib.suppress(TimeoutError):
                await _within(pubsub.aclose(), self._connect_timeout)  # type: ignore[no-untyped-call]

    async def _subscribe(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(*self._buckets)
        for _ in self._buckets:
            await pubsub.parse_response(block=True)

    def _begin(self, address: Address) -> None:
        self.node = node_name(address)
        self.since = self._heard_at = self._monotonic()
        self.started += 1
        self.error = ""
        if not self._stopped:
            self._deaf.clear()
        log.info(events.FEED_SUBSCRIBED, node=self.node)
        self._changed()

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            heard = 0
            while heard < ENTRIES_A_TURN:
                response = await pubsub.parse_response(block=True)
                self._heard_at = self._monotonic()
                heard += self._take(response[1], response[2]) if response[0] == b"message" else 1
            await asyncio.sleep(0)

    def _take(self, channel: bytes, data: bytes) -> int:
        """How many revocations were in the message; 1 where it can't be read."""
        self.messages += 1
        try:
            push = Push.of_message(json.loads(data))
        except (EntryError, ValueError, RecursionError):
            self.unreadable += 1
            return 1
        self._pushed(self._buckets[channel], push)
        return len(push.entries)

    async def _watch(self, pubsub: PubSub) -> None:
        """TimeoutError: nothing is heard any more."""
        while True:
            await pubsub.ping()
            try:
                async with asyncio.timeout(PING_EVERY):
                    await self._deaf.wait()
            except TimeoutError:
                if self._monotonic() - self._heard_at > SILENCE:
                    raise TimeoutError(f"nothing heard for {SILENCE:g} s") from None
            else:
                raise TimeoutError("revocations were written that were not pushed here")

    def status(self) -> dict[str, Any]:
        return {
            "node": self.node or None,
            "for_seconds": round(self._monotonic() - self.since, 1) if self.node else None,
            "messages": self.messages,
            "unreadable": self.unreadable,
            "started": self.started,
            "error": self.error or None,
        }


def _first_line(errors: BaseExceptionGroup[Any]) -> str:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return describe(error)


async def _within(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """TimeoutError: it took longer. It is cancelled then, and left to itself: a library that
    is just connecting may take the cancellation for a failure of its own and go on, for ever.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    if not done:
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise TimeoutError(f"no answer within {seconds:g} s")
    task.result()
