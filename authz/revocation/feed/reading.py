"""Reads a bucket's stream, onwards from an entry or whole, and says whether it had gaps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from authz.revocation.feed.position import NOTHING, Tip
from authz.revocation.feed.source import PAGE, Row

BEGINNING = "-"


class Pages(Protocol):
    """What streams are read from: `Source`."""

    async def page(self, bucket: int, start: str) -> list[Row]: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of it. Each entry that was read has been told, whatever stands here."""

    end: Tip | None
    """The last entry, up to which nothing is missing; None: something is."""
    whole: bool = True
    """Of `read_all`: every revocation that may still matter was in the stream."""
    lost: bool = False
    """Of `read_on`: entries that are known here are in the stream no more, or others instead."""
    cause: str = ""
    """What is missing, for people."""


class _Walk:
    """Goes along a stream and sees whether the numbers follow one another."""

    def __init__(self, hear: Callable[[Row], None], known: str = "") -> None:
        """`known`: the id of an entry that needn't be told."""
        self._hear = hear
        self._known = known
        self.first: Row | None = None
        self.last: Row | None = None
        self.gap = False
        self.unnumbered = False
        """There were entries without a number, as an earlier version wrote them: told, but of what
        is missing before or between them they can't say anything."""
        self.ids: dict[int, str] = {}

    def take(self, rows: Sequence[Row], watch: int) -> None:
        """`watch`: the number of an entry whose id is wanted."""
        for row in rows:
            if row.id != self._known:
                self._hear(row)
            if not row.seq:
                self.unnumbered = True
                continue
            if self.last is not None and row.seq != self.last.seq + 1:
                self.gap = True
            if self.first is None:
                self.first = row
            if row.seq == watch:
                self.ids[watch] = row.id
            self.last = row


async def read_on(
    source: Pages, bucket: int, at: Tip, tip: Tip, hear: Callable[[Row], None]
) -> Reading:
    """Read what follows on `at`, at least up to `tip`, and tell it to `hear`.

    SourceError: the stream can't be read now; what was read until then was told.
    """
    start = at.id if at.seq else BEGINNING
    rows = await source.page(bucket, start)
    if at.seq:
        if not rows or rows[0].id != at.id:
            return await _explain(source, bucket, at)
        if rows[0].seq != at.seq:
            return Reading(None, lost=True)
    walk = _Walk(hear, at.id)
    await _walk_on(source, bucket, rows, walk, tip.seq)
    expected = at.seq or 1
    if walk.first is None or walk.last is None or walk.first.seq != expected or walk.gap:
        return Reading(None, cause="the stream has a gap")
    if walk.ids.get(tip.seq) != tip.id:
        return Reading(None, cause="the stream ends before its tip")
    return Reading(Tip(tip.epoch, walk.last.seq, walk.last.id))


async def _explain(source: Pages, bucket: int, at: Tip) -> Reading:
    """Our last entry isn't in the stream: was the stream cut, or is it another one?"""
    rows = await source.page(bucket, BEGINNING)
    if not rows or rows[0].seq > at.seq:
        return Reading(None, cause="the stream was cut behind what is known")
    return Reading(None, lost=True)


async def read_all(source: Pages, bucket: int, tip: Tip, hear: Callable[[Row], None]) -> Reading:
    """Read the whole stream and tell it to `hear`. SourceError as above.

    It is whole if it begins with the first entry of the epoch, or with the one that the stream's
    own trimming by age has left: older ones speak of tokens that have expired.
    """
    walk = _Walk(hear)
    rows = await source.page(bucket, BEGINNING)
    await _walk_on(source, bucket, rows, walk, tip.seq)
    if tip == NOTHING:
        # Nothing was ever revoked here; or somebody deleted the tip, or revocations are older than
        # tips: then the keys tell.
        return Reading(NOTHING, whole=not rows, cause="the stream has no tip")
    if walk.first is None or walk.last is None:
        return Reading(tip, whole=False, cause="the stream is gone")
    if walk.ids.get(tip.seq) != tip.id:
        end = None if tip.seq <= walk.last.seq else tip
        return Reading(end, whole=False, cause="the stream ends before its tip")
    whole = not (walk.gap or walk.unnumbered) and walk.first.seq in {1, tip.first}
    end = Tip(tip.epoch, walk.last.seq, walk.last.id)
    return Reading(end, whole=whole, cause="" if whole else "the stream was cut")


async def _walk_on(source: Pages, bucket: int, rows: list[Row], walk: _Walk, watch: int) -> None:
    """To the end of the stream. Between the last page and this function's return nothing is
    awaited, so that no push comes in between.
    """
    while True:
        walk.take(rows, watch)
        if len(rows) < PAGE:
            return
        rows = await source.page(bucket, f"({rows[-1].id}")
