"""Keeps one store level with another: says which buckets are to be copied when, and how that fares.

A push or, once a second, a comparison of the tips of the source with the cursors in the target says
which buckets are behind. Two relays in opposite directions make no loop: what is in a store already
goes into its stream no second time, so there is nothing to send back.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from authz.observe import events
from authz.relay.bucket import Bucket
from authz.relay.copier import TIP_TIMEOUT, Copier, UnlikeError
from authz.relay.cursor import Cursor, Step, judge, milliseconds
from authz.relay.figures import RelayFigures
from authz.relay.side import Side, SideError, Target
from authz.revocation.feed.news import KeysNews
from authz.revocation.feed.position import Push, Tip
from authz.revocation.feed.source import SourceError
from authz.revocation.feed.subscription import Subscription
from authz.revocation.redis.topology import Address
from authz.revocation.store import StoreError

POLL = 1.0
"""Seconds between two comparisons, where nothing was pushed and nothing failed."""
PAUSE = 0.05
"""Seconds at least between two comparisons, however many things call for one."""
RETRY, RETRY_MAX = 0.5, 5.0
"""Seconds until a bucket that failed is tried again, doubling. A node that is back ends it."""
STALE_AFTER = 2.5
"""Seconds after a comparison from when on the target counts as behind, since nobody can tell: two
comparisons in a row failed."""
AT_ONCE = 4
"""Buckets that are copied at a time between the same two nodes, a page of 256 entries each."""

Told = TypeVar("Told")

log = structlog.get_logger(__name__)


class Relay:
    """One direction. Make it in a running loop."""

    def __init__(
        self,
        source: Side,
        target: Target,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`clock` gives seconds since 1970. Both sides have the same `buckets` in their settings;
        whether the stores have is found out.
        """
        self.figures = RelayFigures()
        self.source = source
        self.target = target
        self.level = False
        """Whether the target had all of the source at the last comparison."""
        self.unlike: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with one line that says how, when the two stores turn out to have different
        numbers of buckets: then nothing more is copied.
        """
        self.copied = asyncio.Event()
        """Set when all that the source held at the first comparison is in the target."""
        self._clock = clock
        self._monotonic = monotonic
        self._copier = Copier(source, target, self.figures, clock=clock, refused=self._refused)
        self._buckets = [Bucket(number) for number in range(source.settings.buckets)]
        self._goal: dict[int, Tip] = {}
        self._compared_at = -math.inf
        self._news = KeysNews()
        self._to_pass_on, self._passing = 0, False
        self._alike: set[int] = set()
        self._wake = asyncio.Event()
        self._to_sweep: dict[int, str] = {}
        self._sweep_wake = asyncio.Event()
        self._slots: dict[tuple[Address | None, Address | None], asyncio.Semaphore] = {}
        self._copies: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._subscription = Subscription(
            source.nodes,
            len(self._buckets),
            connect_timeout=source.settings.connect_timeout,
            monotonic=monotonic,
            pushed=self._on_push,
            changed=self._wake.set,
        )

    def start(self, *, subscribe: bool = True) -> None:
        """Begin in the background; a store that can't be reached is not an error here."""
        loop = asyncio.get_running_loop()
        for side in (self.source, self.target):
            with structlog.contextvars.bound_contextvars(side=side.which):
                side.start(self._recovered)
        self._loops = [loop.create_task(self._compare_forever())]
        self._loops.append(loop.create_task(self._sweep_forever()))
        if subscribe:
            with structlog.contextvars.bound_contextvars(side=self.source.which):
                self._loops.append(loop.create_task(self._subscription.run()))
        for task in self._loops:
            task.add_done_callback(_report)

    async def aclose(self, within: float) -> None:
        """Begin nothing more, and give what is being copied so many seconds to end."""
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._copies:
            await asyncio.wait(self._copies, timeout=within)
        left = list(self._copies)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.gather(self.source.aclose(), self.target.aclose())

    # ---- which buckets are behind

    def _on_push(self, number: int, push: Push) -> None:
        bucket = self._buckets[number]
        bucket.hear(push.last, milliseconds(push.last.id))
        cursor = bucket.cursor
        if cursor is None or cursor.reaches(push.last):
            return
        if judge(cursor, push.last)[0] is Step.READ_ON:
            self._begin(bucket, push.last)
        else:
            self._wake.set()

    def _recovered(self) -> None:
        """A node is back, or the map has changed: try at once."""
        for bucket in self._buckets:
            bucket.retry_at = -math.inf
        self._wake.set()

    async def _compare_forever(self) -> None:
        while True:
            self._wake.clear()  # before: what happens meanwhile calls for another round
            try:
                await self._compare()
            except Exception:  # without this task nothing would be copied any more
                log.exception(events.RELAY_FAILED)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._wake.wait()
            await asyncio.sleep(PAUSE)

    async def _compare(self) -> None:
        """One round over all buckets."""
        asked_at = self._monotonic()
        versions = {bucket.number: bucket.version for bucket in self._buckets}
        tips, cursors = await asyncio.gather(self._read_tips(), self._read_cursors())
        known = tips.keys() & cursors.keys()
        await self._require_alike(known - self._alike)
        for bucket in (self._buckets[number] for number in sorted(known & self._alike)):
            # What was begun, pushed or copied since the question makes the answer an old one.
            if not bucket.busy and bucket.version == versions[bucket.number]:
                self._judge(bucket, cursors[bucket.number], tips[bucket.number])
        if len(known & self._alike) < len(self._buckets):
            self.level = False
            return
        self._compared_at = asked_at
        self._goal = self._goal or tips
        self._tell()

    def _judge(self, bucket: Bucket, cursor: Cursor | None, tip: Tip) -> None:
        if bucket.cursor is not None and cursor != bucket.cursor:
            log.warning(events.RELAY_CURSOR_CHANGED, bucket=bucket.number)
        bucket.cursor = cursor
        bucket.hear(tip, milliseconds(tip.id), replace=True)
        if judge(cursor, tip)[0] is Step.NOTHING:
            bucket.is_level()
            bucket.well()
        else:
            self._begin(bucket, tip)

    async def _read_tips(self) -> dict[int, Tip]:
        """Of the buckets whose node answers."""
        tips = await self._ask(
            self.source, lambda node, numbers: self._copier.reader.tips(node, numbers, TIP_TIMEOUT)
        )
        for bucket, tip in tips.items():
            if self._news.hear(bucket, tip.keys):
                self._to_pass_on = max(self._to_pass_on, tip.keys)
        if self._to_pass_on and not self._passing:
            self._passing = True
            task = asyncio.get_running_loop().create_task(self._pass_on(self._to_pass_on))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)
            task.add_done_callback(_report)
        return tips

    async def _pass_on(self, announced: int) -> None:
        """Word that signing keys were withdrawn. A target that is down gets it when it is back."""
        try:
            await self.target.announcements.pass_on(announced)
        except StoreError as error:
            self._failed(self.target, SideError(self.target.which, str(error)))
        else:
            if self._to_pass_on == announced:
                self._to_pass_on = 0
        finally:
            self._passing = False

    async def _read_cursors(self) -> dict[int, Cursor | None]:
        """Of the buckets whose node answers."""
        return await self._ask(self.target, lambda _, numbers: self.target.cursors(numbers))

    async def _ask(
        self, side: Side, question: Callable[[Address, list[int]], Awaitable[Mapping[int, Told]]]
    ) -> dict[int, Told]:
        """Each node about its buckets: one that is down doesn't hold up those of the others."""
        found: dict[int, Told] = {}
        try:
            by_primary = side.by_primary(range(len(self._buckets)))
        except SideError as error:
            self._failed(side, error)
            return found
        answers = await asyncio.gather(
            *(question(node, numbers) for node, numbers in by_primary.items()),
            return_exceptions=True,
        )
        well = not any(bucket.failed_at == side.which for bucket in self._buckets)
        for answer in answers:
            if isinstance(answer, SourceError | SideError):
                self._failed(side, answer)
                well = False
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found.update(answer)
        if well:
            side.well()
        return found

    async def _require_alike(self, buckets: Collection[int]) -> None:
        """Asked once about each bucket before it is written to, and again when it starts over."""
        if not buckets or self.unlike.done():
            return
        try:
            await self._copier.require_alike(buckets)
            self._alike.update(buckets)
        except SideError as error:
            self._failed(self.source if error.which == "from" else self.target, error)
        except UnlikeError as error:
            self._stop_as_unlike(error)

    def _stop_as_unlike(self, error: UnlikeError) -> None:
        self._alike.clear()
        if not self.unlike.done():
            self.unlike.set_result(str(error))

    # ---- copying

    def _begin(self, bucket: Bucket, tip: Tip) -> None:
        """Copy, unless somebody is at it or it failed a moment ago."""
        if bucket.busy or bucket.number not in self._alike or self._monotonic() < bucket.retry_at:
            return
        bucket.begin()
        task = asyncio.get_running_loop().create_task(self._copy(bucket, tip))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)
        task.add_done_callback(_report)

    async def _copy(self, bucket: Bucket, tip: Tip) -> None:
        try:
            async with self._slot(bucket.number):
                cause = await self._copier.copy(bucket, tip)
        except (SourceError, SideError, StoreError) as error:
            self._retry_later(bucket, error)
        except UnlikeError as error:
            self._stop_as_unlike(error)
        except Exception:  # or nobody would ever look after this bucket again
            log.exception(events.RELAY_FAILED)
            self._postpone(bucket)
        else:
            bucket.well()
            if cause:
                self._to_sweep[bucket.number] = cause
                self._sweep_wake.set()
                return  # and it stays busy
        self._end(bucket)

    def _end(self, bucket: Bucket) -> None:
        bucket.end()
        if not self.copied.is_set():
            self._wake.set()

    def _slot(self, number: int) -> asyncio.Semaphore:
        """Buckets of other nodes don't wait behind those of one that hangs."""
        shards = [side.nodes.topology.shard(number) for side in (self.source, self.target)]
        source, target = (shard.primary if shard else None for shard in shards)
        return self._slots.setdefault((source, target), asyncio.Semaphore(AT_ONCE))

    async def _sweep_forever(self) -> None:
        """Walk over the keys of nodes on which a stream wasn't whole."""
        while True:
            await self._sweep_wake.wait()
            await asyncio.sleep(PAUSE)  # a node's buckets come together
            self._sweep_wake.clear()
            causes, self._to_sweep = self._to_sweep, {}
            cause = "; ".join(sorted(set(causes.values())))
            log.info(events.RELAY_SCANNING, buckets=sorted(causes), cause=cause)
            try:
                by_primary = self.source.by_primary(causes)
                await asyncio.gather(*(self._sweep(*one) for one in by_primary.items()))
            except SideError as error:
                for number in causes:
                    self._retry_later(self._buckets[number], error)
            except Exception:  # or no keys would be read any more
                log.exception(events.RELAY_FAILED)
                for number in causes:
                    self._postpone(self._buckets[number])
            for number in causes:
                self._end(self._buckets[number])
            self._wake.set()  # their streams have gone on meanwhile

    async def _sweep(self, address: Address, numbers: Collection[int]) -> None:
        buckets = [self._buckets[number] for number in numbers]
        try:
            await self._copier.sweep(address, buckets)
        except (SourceError, SideError, StoreError) as error:
            for bucket in buckets:
                self._retry_later(bucket, error)
        else:
            for bucket in buckets:
                bucket.well()

    # ---- failures

    def _failed(self, side: Side, error: Exception) -> None:
        self.figures.failures[side.which] += 1
        side.nodes.wake()
        side.ill(str(error))

    def _refused(self, number: int, error: StoreError) -> None:
        self._buckets[number].failed_at = self.target.which
        self._failed(self.target, error)

    def _retry_later(self, bucket: Bucket, error: Exception) -> None:
        from_source = isinstance(error, SourceError) or getattr(error, "which", "") == "from"
        side = self.source if from_source else self.target
        bucket.failed_at = side.which
        self._postpone(bucket)
        self._failed(side, error)

    def _postpone(self, bucket: Bucket) -> None:
        pause = min(RETRY * 2**bucket.failures, RETRY_MAX)
        bucket.failures += 1
        # Less at random, so that buckets that failed together don't come back together.
        spread = random.uniform(0.5, 1.0)  # noqa: S311  no secret
        bucket.retry_at = self._monotonic() + pause * spread

    # ---- telling

    @property
    def backlog(self) -> int:
        """Entries of the source's streams that are known of and not in the target yet."""
        return sum(bucket.backlog for bucket in self._buckets)

    @property
    def lag(self) -> float | None:
        """Seconds: how old the oldest revocation is that isn't in the target yet, or may not be,
        since nothing could be compared. 0 when level; None until it could be for the first time.
        """
        if self._compared_at == -math.inf:
            return None
        waiting = [bucket.waiting_since for bucket in self._buckets if bucket.waiting_since]
        oldest = max(0.0, self._clock() - min(waiting) / 1000) if waiting else 0.0
        blind = self._monotonic() - self._compared_at
        return max(oldest, blind if blind > STALE_AFTER else 0.0)

    def _tell(self) -> None:
        level = all(bucket.level for bucket in self._buckets)
        if level and not self.level:
            log.info(events.RELAY_LEVEL, entries=dict(self.figures.entries))
        self.level = level
        if all(bucket.level or bucket.reaches(self._goal) for bucket in self._buckets):
            self.copied.set()

    def status(self) -> dict[str, Any]:
        """For `/status`: JSON-ready."""
        lag = self.lag
        return {
            "level": self.level,
            "lag_seconds": None if lag is None else round(lag, 3),
            "backlog": self.backlog,
            "entries": dict(self.figures.entries),
            "resyncs": self.figures.resyncs,
            "scans": self.figures.scans,
            "buckets": len(self._buckets),
            "copying": sum(bucket.busy for bucket in self._buckets),
            "subscription": self._subscription.status(),
            "sides": {
                side.which: {
                    "up": bool(side.up),
                    "error": side.error or None,
                    "failures": self.figures.failures[side.which],
                    "store": side.nodes.status(),
                }
                for side in (self.source, self.target)
            },
        }


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(events.RELAY_FAILED, exc_info=error)
