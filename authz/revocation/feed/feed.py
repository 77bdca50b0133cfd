"""Follows all revocations of a store, so that hardly any check has to ask it.

Three things go on at once. A subscription brings each revocation within a millisecond. Twice in
`max_staleness` the tips of all streams are compared with what is known, which finds whatever the
subscription lost; as of the moment that a matching tip was asked for, nothing is missing, and for
`max_staleness` from then on the bucket is live. And what is missing is read from the streams, or,
where a stream isn't whole either, from the keys.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from authz.observe import events
from authz.revocation.entry import Entry
from authz.revocation.feed.figures import FeedFigures
from authz.revocation.feed.position import NOTHING, Position, Push, Step, Tip
from authz.revocation.feed.reading import Reading, read_all, read_on
from authz.revocation.feed.source import Row, Source, SourceError
from authz.revocation.feed.subscription import Subscription
from authz.revocation.knowledge import NEVER, Knowledge
from authz.revocation.nodes import Nodes
from authz.revocation.topology import Address
from authz.settings import FeedSettings, StoreSettings

VERIFICATIONS = 2
"""In `max_staleness`: so one may fail and be repeated before a bucket counts as stale."""
RETRY = 0.2
"""Seconds until the next round where something was missing or didn't answer: the breaker's five
failures then come together within a second, before the feed is stale and checks begin to ask."""
PAUSE = 0.02
"""Seconds at least between two rounds, however many pushes leave gaps."""
DEAF_AFTER = 2.0
"""Seconds that a push may come after its entry was read: long, for a process that is overloaded."""
TIP_TIMEOUT = 0.25
"""Seconds that a node is given to name its tips, at most: an eighth of `max_staleness`."""
CANCEL_AGAIN = 0.2
"""Seconds until a task that goes on although it was cancelled is cancelled once more."""
CLOCK_SET_BACK = 60.0
"""Seconds that the clock may be set back without all being read again: as much as a revocation
outlives its token."""
PROGRESS_EVERY = 5.0
"""Seconds between two lines about a long reading."""
TIDY_EVERY = 1.0
"""Seconds between two looks at what has expired."""

log = structlog.get_logger(__name__)


class Feed:
    """Of one sidecar. Make it in a running loop."""

    def __init__(
        self,
        settings: FeedSettings,
        store: StoreSettings,
        nodes: Nodes,
        knowledge: Knowledge,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        observe_lag: Callable[[float], None],
    ) -> None:
        """`clock` gives seconds since 1970, `monotonic` those of the view. `observe_lag` is told
        how old a revocation was when it came, in seconds, by the node's clock and ours.
        """
        self.figures = FeedFigures()
        self.buckets = store.buckets
        self._max_staleness = settings.max_staleness
        self._store_timeout = store.timeout
        self._knowledge = knowledge
        self._clock = clock
        self._monotonic = monotonic
        self._observe_lag = observe_lag
        self._source = Source(nodes)
        self._positions = [Position() for _ in range(store.buckets)]
        self._reading: set[int] = set()
        self._unheard: dict[int, tuple[int, float]] = {}
        self._pushed_to: dict[int, int] = {}
        self._trouble = False
        self._started_at = monotonic()
        self._wake = asyncio.Event()
        self._is_live: bool | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.error = ""
        """Why the last round wasn't complete, for people."""
        self.subscription = Subscription(
            nodes,
            store.buckets,
            connect_timeout=store.connect_timeout,
            monotonic=monotonic,
            pushed=self._on_push,
            changed=self._wake.set,
        )
        nodes.on_recovery = self._wake.set

    def start(self) -> None:
        """Begin in the background; an unreachable store is not an error here."""
        self._knowledge.tidy(self._clock(), self._monotonic())  # it learns the time by this
        for work in (self.subscription.run, self._verify_forever, self._tidy_forever):
            self._spawn(work())

    async def aclose(self) -> None:
        """Stop following. What is known stays known."""
        self.subscription.stop()
        while tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN)

    # ---- pushes

    def _on_push(self, bucket: int, push: Push) -> None:
        for entry in push.entries:
            self._hear(entry, "pushed")
        self._observe_lag(max(0.0, self._clock() - _written_at(push.last.id)))
        self._pushed_to[bucket] = push.last.seq
        if not self._positions[bucket].pushed(push) and bucket not in self._reading:
            self.figures.gaps += 1
            self._wake.set()

    # ---- verification

    async def _verify_forever(self) -> None:
        while True:
            self._wake.clear()  # before: what happens meanwhile calls for another round
            pause = self._max_staleness / VERIFICATIONS
            try:
                if not await self._verify() or self._trouble:
                    pause = min(RETRY, pause)
                self._trouble = False
            except Exception:  # without this task the feed would stay stale
                log.exception(events.FEED_FAILED)
            self._tell()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(PAUSE)

    async def _verify(self) -> bool:
        """One round: compare the tips of all buckets. Whether all could be compared."""
        self._move_if_deaf()
        buckets = [b for b in range(self.buckets) if b not in self._reading]
        by_primary = self._source.by_primary(buckets)
        results = await asyncio.gather(
            *(self._verify_node(address, asked) for address, asked in by_primary.items())
        )
        if sum(map(len, by_primary.values())) < len(buckets):
            self.error = "the map of the store is not known yet"
            return False
        return all(results)

    async def _verify_node(self, address: Address, buckets: list[int]) -> bool:
        if not self._source.answers(address):
            self.error = "a node does not answer: its breaker is open"
            return False
        asked_at = self._monotonic()
        asked_in = {bucket: self._positions[bucket].at for bucket in buckets}
        try:
            within = min(TIP_TIMEOUT, self._max_staleness / 8)
            tips = await self._source.tips(address, buckets, within)
        except SourceError as error:
            self.error = str(error)
            self.figures.failures += 1
            self._source.read_map()
            return False
        self._judge(address, tips, asked_in, asked_at)
        return len(tips) == len(buckets)

    async def remembers(self, bucket: int, since: float) -> bool:
        """Whether the store has, as of now, all that was known here of this bucket. False also
        where it doesn't say within `store.timeout` from `since` (`monotonic`).
        """
        position = self._positions[bucket]
        asked_in = position.at
        address = next(iter(self._source.by_primary([bucket])), None)
        if address is None or not self._source.answers(address):
            return False
        left = since + self._store_timeout - self._monotonic()
        if left <= 0:
            return False
        try:
            tips = await self._source.tips(address, [bucket], left)
        except SourceError:
            return False
        if bucket not in tips:
            return False
        if position.judge(asked_in, tips[bucket]) is Step.LOST:
            self._lose([bucket])
        return True

    def _judge(
        self,
        address: Address,
        tips: Mapping[int, Tip],
        asked_in: Mapping[int, Tip | None],
        asked_at: float,
    ) -> None:
        to_sync: dict[int, Tip] = {}
        lost: list[int] = []
        for bucket, tip in tips.items():
            if bucket in self._reading:
                continue
            match self._positions[bucket].judge(asked_in[bucket], tip):
                case Step.NOTHING:
                    self._verified(bucket, asked_at)
                case Step.CATCH_UP:
                    self._begin_reading([bucket])
                    self._spawn(self._catch_up(bucket, tip, asked_at))
                case Step.RESYNC:
                    to_sync[bucket] = tip
                case Step.LOST:
                    to_sync[bucket] = tip
                    lost.append(bucket)
        if lost:
            self._lose(lost)
        if to_sync:
            self._begin_reading(to_sync)
            self._spawn(self._sync(address, to_sync, asked_at))

    def _verified(self, bucket: int, asked_at: float) -> None:
        """As of `asked_at` nothing is missing."""
        live_until = self._knowledge.live_until
        live_until[bucket] = max(live_until[bucket], asked_at + self._max_staleness)

    def _move_if_deaf(self) -> None:
        """Entries that were found in a stream and two seconds later still weren't pushed show that
        pushes don't come, however well the connection looks.
        """
        for bucket, (seq, since) in list(self._unheard.items()):
            if self._pushed_to.get(bucket, 0) >= seq:
                del self._unheard[bucket]
            elif self._monotonic() - since > DEAF_AFTER:
                self._unheard.clear()
                self.subscription.move()
                return

    # ---- reading

    def _begin_reading(self, buckets: Collection[int]) -> None:
        self._reading.update(buckets)

    def _end_reading(self, buckets: Collection[int]) -> None:
        self._reading.difference_update(buckets)

    async def _catch_up(self, bucket: int, tip: Tip, asked_at: float) -> None:
        position = self._positions[bucket]
        at = position.at or tip
        if at.seq >= tip.seq:
            # Pushes got there in the meantime. Another tip will say whether by the same way.
            self._end_reading([bucket])
            self._wake.set()
            return
        # What is found now was written since then, and so should have been pushed.
        verified_at = self._knowledge.live_until[bucket] - self._max_staleness
        try:
            reading = await read_on(self._source, bucket, at, tip, self._heard_read)
            if reading.lost:
                self._lose([bucket])
            elif reading.end is None:
                log.warning(events.FEED_GAP, buckets=[bucket], cause=reading.cause)
                position.lose()
                self._wake.set()
            else:
                position.read_up_to(reading.end)
                if self.subscription.node and self.subscription.since < verified_at:
                    self._unheard.setdefault(bucket, (reading.end.seq, self._monotonic()))
                self._verified(bucket, asked_at)
        except SourceError as error:
            self._failed(error)
        finally:
            self._end_reading([bucket])

    async def _sync(self, address: Address, tips: Mapping[int, Tip], asked_at: float) -> None:
        """Read all revocations of some buckets of one node."""
        started = self._monotonic()
        entries = 0  # its own, for other nodes are being read meanwhile
        log.info(events.FEED_SYNCING, buckets=len(tips))
        partial: dict[int, Reading] = {}
        synced = self.figures.syncs

        def hear(row: Row) -> None:
            nonlocal entries
            if row.entry is not None:
                entries += 1
                self._hear(row.entry, "synced")

        try:
            for bucket, tip in tips.items():
                reading = await read_all(self._source, bucket, tip, hear)
                if reading.end is None:
                    self._trouble = True  # it was cut or written anew while we read
                elif reading.whole:
                    self._synced(bucket, reading.end, asked_at)
                else:
                    partial[bucket] = reading
            if partial:
                entries += await self._scan(address, partial)
                for bucket, reading in partial.items():
                    self._synced(bucket, reading.end or NOTHING, asked_at)
            if self.figures.syncs > synced:
                self._wake.set()  # by now `asked_at` may be long ago: verify at once
            log.info(
                events.FEED_SYNCED,
                buckets=len(tips),
                entries=entries,
                seconds=round(self._monotonic() - started, 3),
            )
        except SourceError as error:
            self._failed(error)
        finally:
            self._end_reading(tips)

    async def _scan(self, address: Address, partial: Mapping[int, Reading]) -> int:
        """Read the keys of these buckets. How many there were."""
        entries = 0
        self.figures.scans += 1
        causes = sorted({reading.cause for reading in partial.values()})
        log.info(events.FEED_GAP, buckets=sorted(partial), cause="; ".join(causes))
        async for found in self._source.keys(address, set(partial)):
            entries += len(found)
            for _, entry in found:
                self._hear(entry, "synced")
        return entries

    def _synced(self, bucket: int, end: Tip, asked_at: float) -> None:
        self.figures.syncs += 1
        self._positions[bucket].read_up_to(end)
        self._verified(bucket, asked_at)

    def _heard_read(self, row: Row) -> None:
        if row.entry is not None:
            self._hear(row.entry, "read")
            self._observe_lag(max(0.0, self._clock() - _written_at(row.id)))

    def _hear(self, entry: Entry, how: str) -> None:
        self.figures.entries[how] += 1
        self._knowledge.hear(entry, self._clock(), just_now=how != "synced")

    def _lose(self, buckets: Collection[int]) -> None:
        self.figures.lost += len(buckets)
        log.error(events.FEED_HISTORY_LOST, buckets=sorted(buckets))
        self._knowledge.lose_history()
        for bucket in buckets:
            self._positions[bucket].lose()
            self._pushed_to.pop(bucket, None)
            self._unheard.pop(bucket, None)

    def _failed(self, error: SourceError) -> None:
        self.error = str(error)
        self.figures.failures += 1
        self._trouble = True
        self._source.read_map()

    # ---- the rest

    async def _tidy_forever(self) -> None:
        offset = self._clock() - self._monotonic()
        told_at = self._monotonic()
        while True:
            await asyncio.sleep(TIDY_EVERY)
            now, monotonic = self._clock(), self._monotonic()
            self._knowledge.tidy(now, monotonic)
            if now - monotonic < offset - CLOCK_SET_BACK:
                # What looked expired by the clock of before was left out, and may count again.
                self._read_all_again()
            offset = now - monotonic
            if self._reading and monotonic - told_at >= PROGRESS_EVERY:
                told_at = monotonic
                entries = self.figures.entries["synced"] + self.figures.entries["read"]
                log.info(events.FEED_READING, buckets_left=len(self._reading), entries=entries)

    def _read_all_again(self) -> None:
        for position in self._positions:
            position.lose()
        self._wake.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(events.FEED_FAILED, exc_info=error)

    @property
    def live_buckets(self) -> int:
        """Of how many buckets all revocations are known."""
        now = self._monotonic()
        return sum(now < until for until in self._knowledge.live_until)

    @property
    def subscribed(self) -> bool:
        """Whether revocations are pushed."""
        return bool(self.subscription.node)

    @property
    def staleness(self) -> float:
        """Seconds since the bucket of which that is longest ago was verified; infinite where one
        never was.
        """
        oldest = min(self._knowledge.live_until)
        if oldest == NEVER:
            return math.inf
        return max(0.0, self._monotonic() - (oldest - self._max_staleness))

    def _tell(self) -> None:
        live = self.live_buckets
        is_live = live == self.buckets
        if is_live and not self._is_live:
            log.info(events.FEED_LIVE, buckets=live)
            self.error = ""
        elif not is_live and self._is_live is None:
            if self._reading or self._monotonic() - self._started_at < 2 * self._max_staleness:
                return  # it has only begun
            log.warning(events.FEED_STALE, buckets=self.buckets - live, error=self.error)
        elif not is_live and self._is_live:
            log.warning(events.FEED_STALE, buckets=self.buckets - live, error=self.error)
        self._is_live = is_live

    def status(self) -> dict[str, Any]:
        """For `/status`: JSON-ready."""
        known = self._knowledge
        staleness = self.staleness
        return {
            "live": self.live_buckets == self.buckets,
            "live_buckets": self.live_buckets,
            "buckets": self.buckets,
            "synced_buckets": sum(position.at is not None for position in self._positions),
            "reading_buckets": len(self._reading),
            "verified_seconds_ago": None if math.isinf(staleness) else round(staleness, 3),
            "entries": dict(self.figures.entries),
            "gaps": self.figures.gaps,
            "syncs": self.figures.syncs,
            "scans": self.figures.scans,
            "history_lost": self.figures.lost,
            "failures": self.figures.failures,
            "error": self.error or None,
            "subscription": self.subscription.status(),
            "filter": {
                "entries": known.filter.entries,
                "bytes": known.filter.size_bytes,
                "hours": known.filter.hours,
            },
            "cut_offs": {"users": known.cutoffs.users, "bytes": known.cutoffs.size_bytes},
        }


def _written_at(entry_id: str) -> float:
    """Seconds since 1970, by the clock of the node that gave the id."""
    return int(entry_id.partition("-")[0]) / 1000
