"""Reads what is missing of each bucket: on from what is known, or all of it. The knowledge is told.

A bucket is read by one reading at a time. What goes wrong is tried again in the feed's next rounds,
and nothing that was heard until then is lost.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from authz.observe import events
from authz.revocation.entry import Entry
from authz.revocation.feed.figures import FeedFigures
from authz.revocation.feed.position import Position, Tip
from authz.revocation.feed.reading import Reading, read_all, read_on
from authz.revocation.feed.source import Row, Source, SourceError
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.redis.topology import Address

READ_AGAIN = 0.5
"""Seconds until a bucket that could not be read is read again: it may have a million entries."""
SAY_EVERY = 1.0
"""Seconds between two log lines of the same event: a bucket in trouble is tried again and again."""

log = structlog.get_logger(__name__)


class Reader:
    """Of one feed."""

    def __init__(
        self,
        source: Source,
        positions: Sequence[Position],
        knowledge: Knowledge,
        figures: FeedFigures,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        observe_lag: Callable[[float], None],
        verified: Callable[[int, float], None],
        found: Callable[[int, int], None],
        ended: Callable[[], None],
    ) -> None:
        """`positions` by bucket. `verified`: of this bucket nothing is missing as of then. `found`:
        up to this number entries of a bucket were found that had not been pushed. `ended`: a
        reading did, and the bucket should be verified. The others as for `Feed`.
        """
        self._source = source
        self._positions = positions
        self._knowledge = knowledge
        self._figures = figures
        self._clock = clock
        self._monotonic = monotonic
        self._observe_lag = observe_lag
        self._verified = verified
        self._found = found
        self._ended = ended
        self._reading: set[int] = set()
        self._read_after: dict[int, float] = {}
        self._said: dict[tuple[str, object], float] = {}
        self.error = ""
        """Of the last reading that failed, for people; empty once all buckets could be read."""

    @property
    def reading(self) -> int:
        """Buckets that are being read."""
        return len(self._reading)

    @property
    def failing(self) -> bool:
        """Whether a bucket could not be read and wasn't read since."""
        return bool(self._read_after)

    def reads(self, bucket: int) -> bool:
        """Whether it is being read."""
        return bucket in self._reading

    def may_read(self, bucket: int) -> bool:
        """Whether a reading may begin: the last one didn't fail a moment ago."""
        return self._monotonic() >= self._read_after.get(bucket, -math.inf)

    async def catch_up(self, bucket: int, tip: Tip, asked_at: float) -> None:
        """Read on, at least up to `tip`, which was asked for at `asked_at`."""
        if bucket in self._reading:
            return
        position = self._positions[bucket]
        losses, at = position.losses, position.at
        if at is None or at.seq >= tip.seq:
            # Pushes got there in the meantime. Another tip will say whether by the same way.
            self._ended()
            return
        self._reading.add(bucket)
        try:
            reading = await read_on(self._source, bucket, at, tip, self._hear_read)
            self._succeeded(bucket)
            if reading.lost:
                self.lose([bucket])
            elif reading.end is None:
                self._say(log.warning, events.FEED_GAP, buckets=[bucket], cause=reading.cause)
                position.lose()
            elif position.losses == losses:
                self._found(bucket, reading.end.seq)
                position.read_up_to(reading.end)
                self._verified(bucket, asked_at)
        except SourceError as error:
            self._failed([bucket], str(error))
        finally:
            self._reading.discard(bucket)
        if not self.failing:
            self._ended()

    async def sync(self, address: Address, tips: Mapping[int, Tip], asked_at: float) -> None:
        """Read all revocations of some buckets of one node, whose tips were asked for at
        `asked_at`.
        """
        left = set(tips) - self._reading
        self._reading |= left
        started = self._monotonic()
        entries = 0  # its own, for other nodes are being read meanwhile
        losses = {bucket: self._positions[bucket].losses for bucket in left}
        partial: dict[int, Reading] = {}

        def hear(row: Row) -> None:
            nonlocal entries
            if row.entry is not None:
                entries += 1
                self.hear(row.entry, "synced")

        def end(bucket: int, reading: Reading | None) -> None:
            self._synced(bucket, reading, losses[bucket], asked_at)
            left.discard(bucket)

        self._say(log.info, events.FEED_SYNCING, address, buckets=len(left))
        try:
            for bucket in sorted(left):
                reading = await self._read_all(bucket, tips[bucket], hear)
                if reading is not None and not reading.whole:
                    partial[bucket] = reading
                else:
                    end(bucket, reading)
            if partial:
                entries += await self._scan(address, partial)
                for bucket, reading in partial.items():
                    end(bucket, reading)
            self._say(
                log.info,
                events.FEED_SYNCED,
                address,
                buckets=len(tips),
                entries=entries,
                seconds=round(self._monotonic() - started, 3),
            )
        except SourceError as error:
            self._failed(partial, str(error))
        finally:
            self._reading -= left

    def lose(self, buckets: Collection[int]) -> None:
        """The store no longer has what is known here of these buckets."""
        self._figures.lost += len(buckets)
        self._say(log.error, events.FEED_HISTORY_LOST, buckets=sorted(buckets))
        self._knowledge.lose_history()
        for bucket in buckets:
            self._positions[bucket].lose()

    def hear(self, entry: Entry, how: str) -> None:
        """`how`: as in `FeedFigures.entries`."""
        self._figures.entries[how] += 1
        self._knowledge.hear(entry, self._clock(), just_now=how != "synced")

    def _hear_read(self, row: Row) -> None:
        if row.entry is not None:
            self.hear(row.entry, "read")
            self._observe_lag(max(0.0, self._clock() - written_at(row.id)))

    async def _read_all(self, bucket: int, tip: Tip, hear: Callable[[Row], None]) -> Reading | None:
        """None: it can't be read now, or was cut or written anew meanwhile. One bucket's trouble
        must not hold up the others.
        """
        try:
            reading = await read_all(self._source, bucket, tip, hear)
        except SourceError as error:
            self._failed([bucket], str(error))
            return None
        if reading.end is None:
            self._failed([bucket], f"bucket {bucket}: {reading.cause}")
            return None
        return reading

    async def _scan(self, address: Address, partial: Mapping[int, Reading]) -> int:
        """Read the keys of these buckets. How many there were."""
        entries = 0
        self._figures.scans += 1
        causes = sorted({reading.cause for reading in partial.values()})
        self._say(
            log.warning, events.FEED_GAP, address, buckets=sorted(partial), cause="; ".join(causes)
        )
        async for found in self._source.keys(address, set(partial)):
            entries += len(found)
            for _, entry in found:
                self.hear(entry, "synced")
        return entries

    def _synced(self, bucket: int, reading: Reading | None, losses: int, asked_at: float) -> None:
        """`losses`: as its position had them when the reading began."""
        position = self._positions[bucket]
        if reading is not None and reading.end is not None:
            self._succeeded(bucket)
            if position.losses == losses:
                self._figures.syncs += 1
                position.read_up_to(reading.end)
                self._verified(bucket, asked_at)
            self._ended()  # by now `asked_at` may be long ago: verify at once
        self._reading.discard(bucket)

    def _succeeded(self, bucket: int) -> None:
        self._read_after.pop(bucket, None)
        if not self._read_after:
            self.error = ""

    def _failed(self, buckets: Collection[int], error: str) -> None:
        self.error = error
        self._figures.failures += 1
        self._read_after.update(dict.fromkeys(buckets, self._monotonic() + READ_AGAIN))
        self._source.read_map()

    def _say(
        self, log_it: Callable[..., object], event: str, about: object = None, **fields: Any
    ) -> None:
        """Log it, but not again about the same within `SAY_EVERY`. The figures count all."""
        now = self._monotonic()
        if now - self._said.get((event, about), -math.inf) >= SAY_EVERY:
            self._said[event, about] = now
            log_it(event, **fields)


def written_at(entry_id: str) -> float:
    """Seconds since 1970, by the clock of the node that gave the id."""
    return int(entry_id.partition("-")[0]) / 1000
