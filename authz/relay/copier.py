"""Copies one bucket: from its cursor on, all of its stream, or, where that isn't whole, its keys.

Each page is written and acknowledged before the cursor is stored, and that before the next page is
read. So a page of a bucket is all that is ever held, and whatever breaks off in between is only
repeated, which adds nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog

from authz.observe import events
from authz.relay.bucket import Bucket
from authz.relay.cursor import Broken, Cursor, Step, following, judge, milliseconds
from authz.relay.figures import RelayFigures
from authz.relay.side import Side, Target
from authz.revocation.entry import Entry
from authz.revocation.feed.position import NOTHING, Tip
from authz.revocation.feed.source import PAGE, Row, Source, SourceError
from authz.revocation.redis.topology import Address
from authz.revocation.redis.writer import MAX_ENTRIES
from authz.revocation.store import StoreError

TIP_TIMEOUT = 1.0
"""Seconds that a node of the source is given to name its tips, an ocean away."""
SWEEP_RETRY = 0.5
"""Seconds until a portion of keys that the target didn't take is written again."""

log = structlog.get_logger(__name__)


class UnlikeError(Exception):
    """The two stores have different numbers of buckets. The text is one line for people."""


class Copier:
    """From one store to another. It may be at several buckets at a time, but once at each."""

    def __init__(
        self,
        source: Side,
        target: Target,
        figures: RelayFigures,
        *,
        clock: Callable[[], float],
        refused: Callable[[int, StoreError], None],
    ) -> None:
        """`clock` gives seconds since 1970. `refused` is told of a bucket that the target didn't
        take, while it is tried again.
        """
        self.reader = Source(source.nodes)
        self._source = source
        self._target = target
        self._figures = figures
        self._clock = clock
        self._refused = refused

    async def copy(self, bucket: Bucket, tip: Tip) -> str:
        """Copy what the cursor calls for, from the stream. Why the keys are needed as well, or an
        empty text. `tip`: where the stream ends.

        SourceError, SideError, StoreError: it ended early; the cursor says where. UnlikeError.
        """
        cursor = bucket.cursor
        step, cause = judge(cursor, tip)
        started_over = False
        while True:
            if cursor is None or step is Step.START_OVER:
                if started_over:
                    return cause
                started_over = True
                await self.require_alike([bucket.number])
                self._figures.resyncs += 1
                log.info(events.RELAY_STARTING_OVER, bucket=bucket.number, cause=cause)
                tip = await self._tip(bucket.number)
                cursor = Cursor.before(tip)
                if tip == NOTHING:  # nothing was ever revoked, or somebody deleted it
                    return "there is no stream"
            broken, cursor = await self._copy_stream(bucket, cursor, tip)
            if broken is not None:
                step, cause = Step.START_OVER, broken.cause
                continue
            newer = bucket.newer_than(cursor)
            if newer is None:
                return ""
            tip, step = newer, Step.READ_ON

    async def _copy_stream(
        self, bucket: Bucket, cursor: Cursor, tip: Tip
    ) -> tuple[Broken | None, Cursor]:
        """Page by page to the end. How far it came, and what was in the way."""
        while True:
            rows = await self.reader.page(bucket.number, cursor.start)
            found = following(cursor, tip, rows)
            if isinstance(found, Broken):
                return found, cursor
            if found:
                bucket.waiting_since = milliseconds(found[0].id)
                await self._write_rows(bucket.number, found)
                cursor = Cursor(tip.epoch, found[-1].seq, found[-1].id)
                await self._reached(bucket, cursor)
            if len(rows) < PAGE:
                short = cursor.seq < tip.seq
                return (Broken("the stream ends before its tip") if short else None), cursor

    async def sweep(self, address: Address, buckets: Sequence[Bucket]) -> None:
        """Copy every revocation of these buckets of a node by its key. What is revoked meanwhile
        stands behind the tip in the stream, and is read there.

        SourceError, SideError, StoreError: the walk has to begin again.
        """
        self._figures.scans += 1
        numbers = [bucket.number for bucket in buckets]
        tips = await self.reader.tips(address, numbers, TIP_TIMEOUT)
        async for portion in self.reader.keys(address, set(numbers)):
            by_bucket: dict[int, list[Entry]] = {}
            for number, entry in portion:
                by_bucket.setdefault(number, []).append(entry)
            await self._write_portion(by_bucket)
        for bucket in buckets:
            if bucket.number in tips:  # else its slot moved: another round will see
                await self._reached(bucket, Cursor.at(tips[bucket.number]))

    async def require_alike(self, buckets: Collection[int]) -> None:
        """UnlikeError: one of the stores spreads users otherwise than the settings say, as far as
        its writers have told. SideError: it can't be asked.
        """
        here = self._source.settings.buckets
        for side in (self._source, self._target):
            counts = await side.counts_of_buckets(buckets)
            other = next((count for count in counts.values() if count != here), None)
            if other is not None:
                raise UnlikeError(
                    f"store.buckets is {here}, but the store to copy {side.which} was written with "
                    f"{other}. All stores, sidecars and relays need the same number, or "
                    "revocations are looked for in the wrong place"
                )

    async def _write_rows(self, number: int, rows: Sequence[Row]) -> None:
        entries = [row.entry for row in rows if row.entry is not None]
        self._figures.entries["unreadable"] += len(rows) - len(entries)
        await self._write(number, entries)

    async def _write(self, number: int, entries: Sequence[Entry]) -> None:
        """Until they are acknowledged. StoreError: not all are."""
        now = self._clock() * 1000
        alive = [entry for entry in entries if entry.expires > now]
        self._figures.entries["expired"] += len(entries) - len(alive)
        for at in range(0, len(alive), MAX_ENTRIES):
            batch = alive[at : at + MAX_ENTRIES]
            repeated = sum((await self._target.write(number, batch)).repeated)
            self._figures.entries["repeated"] += repeated
            self._figures.entries["written"] += len(batch) - repeated

    async def _write_portion(self, missing: Mapping[int, Sequence[Entry]]) -> None:
        """However long the target is away: the walk over the keys needn't begin again for that."""
        while missing:
            outcomes = await asyncio.gather(
                *(self._write(number, entries) for number, entries in missing.items()),
                return_exceptions=True,
            )
            failed: dict[int, Sequence[Entry]] = {}
            for number, outcome in zip(missing, outcomes, strict=True):
                if isinstance(outcome, StoreError):
                    self._refused(number, outcome)
                    failed[number] = missing[number]
                elif isinstance(outcome, BaseException):
                    raise outcome
            missing = failed
            if missing:
                await asyncio.sleep(SWEEP_RETRY)

    async def _reached(self, bucket: Bucket, cursor: Cursor) -> None:
        await self._target.store_cursor(bucket.number, cursor)
        bucket.cursor = cursor

    async def _tip(self, number: int) -> Tip:
        for address in self._source.by_primary([number]):
            tips = await self.reader.tips(address, [number], TIP_TIMEOUT)
            if number in tips:
                return tips[number]
        raise SourceError(f"the slot of bucket {number} is being moved")
