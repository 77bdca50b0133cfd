"""Follows all revocations of a store, so that hardly any check has to ask it.

Three things go on at once. A subscription brings each revocation within a millisecond. Twice in
`max_staleness` the tips of all streams are compared with what is known, which finds whatever the
subscription lost; as of the moment that a matching tip was asked for, nothing is missing, and for
`max_staleness` from then on the bucket is live. And what is missing is read from the streams, or,
where a stream isn't whole either, from the keys.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from authz.observe import events
from authz.revocation.feed.figures import FeedFigures
from authz.revocation.feed.news import KeysNews
from authz.revocation.feed.position import Position, Push, Step, Tip
from authz.revocation.feed.reader import Reader, written_at
from authz.revocation.feed.source import Source, SourceError
from authz.revocation.feed.subscription import Subscription
from authz.revocation.known.knowledge import NEVER, Knowledge
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.topology import Address
from authz.settings import FeedSettings, StoreSettings

VERIFICATIONS = 2
"""In `max_staleness`: so one may fail and be repeated before a bucket counts as stale."""
RETRY = 0.2
"""Seconds until the next round where something was missing or didn't answer: the breaker's five
failures then come together within a second, before the feed is stale and checks begin to ask."""
JITTER = 0.2
"""Of the pause between rounds."""
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
        keys_withdrawn: Callable[[], None] | None = None,
    ) -> None:
        """`clock` gives seconds since 1970, `monotonic` those of the view. `observe_lag` is told
        how old a revocation was when it came, in seconds, by the node's clock and ours.
        `keys_withdrawn` is called when a tip says that signing keys were withdrawn; at the
        beginning also where that was long ago.
        """
        self.figures = FeedFigures()
        self.buckets = store.buckets
        self._max_staleness = settings.max_staleness
        self._store_timeout = store.timeout
        self._knowledge = knowledge
        self._clock = clock
        self._monotonic = monotonic
        self._observe_lag = observe_lag
        self._keys_withdrawn = keys_withdrawn
        self._news = KeysNews()
        self._wake = asyncio.Event()
        self._source = Source(nodes)
        self._positions = [Position() for _ in range(store.buckets)]
        self._reader = Reader(
            self._source,
            self._positions,
            knowledge,
            self.figures,
            clock=clock,
            monotonic=monotonic,
            observe_lag=observe_lag,
            verified=self._verified,
            found=self._note_found,
            ended=self._wake.set,
        )
        self._unheard: dict[int, tuple[int, float]] = {}
        self._pushed_to: dict[int, int] = {}
        self._started_at = monotonic()
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
            self._reader.hear(entry, "pushed")
        self._observe_lag(max(0.0, self._clock() - written_at(push.last.id)))
        self._pushed_to[bucket] = push.last.seq
        if not self._positions[bucket].pushed(push) and not self._reader.reads(bucket):
            self.figures.gaps += 1
            self._wake.set()

    # ---- verification

    async def _verify_forever(self) -> None:
        while True:
            self._wake.clear()  # before: what happens meanwhile calls for another round
            pause = self._max_staleness / VERIFICATIONS
            try:
                if not await self._verify() or self._reader.failing:
                    pause = min(RETRY, pause)
                else:
                    self.error = ""
            except Exception:  # without this task the feed would stay stale
                log.exception(events.FEED_FAILED)
            self._tell()
            # Less up to a fifth, so that a fleet doesn't ask in step.
            pause *= 1 - JITTER * random.random()  # noqa: S311  no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            await asyncio.sleep(PAUSE)

    async def _verify(self) -> bool:
        """One round: compare the tips of all buckets. Whether all could be compared."""
        self._move_if_deaf()
        buckets = [b for b in range(self.buckets) if not self._reader.reads(b)]
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
        self._hear_of_keys(tips)
        refused = [bucket for bucket in buckets if bucket in self._source.refusals]
        if refused:
            self.error = self._source.refusals[refused[0]]
            self.figures.failures += 1
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
        if position.shows_loss(asked_in, tips[bucket]):
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
            if self._reader.reads(bucket):
                continue
            step = self._positions[bucket].judge(asked_in[bucket], tip)
            if step is Step.NOTHING:
                self._verified(bucket, asked_at)
            if step is Step.LOST:
                lost.append(bucket)
            if step in {Step.LOST, Step.RESYNC} and self._reader.may_read(bucket):
                to_sync[bucket] = tip
            if step is Step.CATCH_UP and self._reader.may_read(bucket):
                self._spawn(self._reader.catch_up(bucket, tip, asked_at))
        if lost:
            self._lose(lost)
        if to_sync:
            self._spawn(self._reader.sync(address, to_sync, asked_at))

    def _hear_of_keys(self, tips: Mapping[int, Tip]) -> None:
        heard = [self._news.hear(bucket, tip.keys) for bucket, tip in tips.items()]
        if any(heard):
            log.info(events.KEYS_WITHDRAWN)
            if self._keys_withdrawn is not None:
                self._keys_withdrawn()

    def _lose(self, buckets: Collection[int]) -> None:
        self._reader.lose(buckets)
        for bucket in buckets:
            self._pushed_to.pop(bucket, None)
            self._unheard.pop(bucket, None)
        self._wake.set()

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

    def _note_found(self, bucket: int, seq: int) -> None:
        """Up to here entries were found in a stream that should have been pushed."""
        verified_at = self._knowledge.live_until[bucket] - self._max_staleness
        if self.subscription.node and self.subscription.since < verified_at:
            self._unheard.setdefault(bucket, (seq, self._monotonic()))

    # ---- the rest

    async def _tidy_forever(self) -> None:
        offset = self._clock() - self._monotonic()
        told_at = self._monotonic()
        while True:
            await asyncio.sleep(TIDY_EVERY)
            now, monotonic = self._clock(), self._monotonic()
            self._knowledge.tidy(now, monotonic)
            offset = max(offset, now - monotonic)  # or many small steps would never be seen
            if now - monotonic < offset - CLOCK_SET_BACK:
                # What looked expired by the clock of before was left out, and may count again.
                self._read_all_again()
                offset = now - monotonic
            if self._reader.reading and monotonic - told_at >= PROGRESS_EVERY:
                told_at = monotonic
                entries = self.figures.entries["synced"] + self.figures.entries["read"]
                log.info(events.FEED_READING, buckets_left=self._reader.reading, entries=entries)

    def _read_all_again(self) -> None:
        for bucket, position in enumerate(self._positions):
            position.lose()
            self._knowledge.live_until[bucket] = NEVER
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

    @property
    def _why(self) -> str:
        """What was wrong last, for people; empty while all is well."""
        return self.error or self._reader.error

    def _tell(self) -> None:
        live = self.live_buckets
        is_live = live == self.buckets
        if is_live == self._is_live:
            return
        if is_live:
            log.info(events.FEED_LIVE, buckets=live)
        elif self._is_live is None and (
            self._reader.reading or self._monotonic() - self._started_at < 2 * self._max_staleness
        ):
            return  # it has only begun
        else:
            log.warning(events.FEED_STALE, buckets=self.buckets - live, error=self._why)
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
            "reading_buckets": self._reader.reading,
            "verified_seconds_ago": None if math.isinf(staleness) else round(staleness, 3),
            "entries": dict(self.figures.entries),
            "gaps": self.figures.gaps,
            "unreadable": self._source.skipped,
            "syncs": self.figures.syncs,
            "scans": self.figures.scans,
            "history_lost": self.figures.lost,
            "failures": self.figures.failures,
            "error": self._why or None,
            "subscription": self.subscription.status(),
            "filter": {
                "entries": known.filter.entries,
                "bytes": known.filter.size_bytes,
                "hours": known.filter.hours,
            },
            "cut_offs": {"users": known.cutoffs.users, "bytes": known.cutoffs.size_bytes},
        }
