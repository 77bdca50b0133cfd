"""How far one bucket has been copied, and whether what the source holds follows on it.

No socket and no clock. A cursor names the last entry of the source's stream that is in the target,
with all before it. It is kept in the target, in the bucket's own slot, so that whatever loses
copied revocations (a failover, FLUSHALL, a restart without data) takes the cursor back as far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto, unique
from typing import Any, Protocol, Self, TypeVar

from authz.revocation.feed.position import Tip

BEGINNING = "-"
"""XRANGE's word for a stream's beginning."""

FIELDS = ("epoch", "seq", "id")
"""Of the hash `jwt:{B}:relay:<name>` in the target."""


def cursor_key(bucket: int, name: str) -> str:
    return f"jwt:{{{bucket}}}:relay:{name}"


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last entry that was copied."""

    epoch: str
    """Of the source's stream; empty: the bucket was empty."""
    seq: int
    """Its number; 0: none was copied yet."""
    id: str

    @classmethod
    def before(cls, tip: Tip) -> Self:
        """The beginning of the stream that ends there."""
        return cls(tip.epoch, 0, "")

    @classmethod
    def at(cls, tip: Tip) -> Self:
        return cls(tip.epoch, tip.seq, tip.id)

    @classmethod
    def of_reply(cls, values: Sequence[bytes | None]) -> Self | None:
        """Of HMGET with `FIELDS`. None: there is none, or nothing that can be read; then all is
        copied again, which harms nobody.
        """
        epoch, seq, last = values
        if epoch is None or seq is None or last is None or not seq.isdigit():
            return None
        return cls(epoch.decode(errors="replace"), int(seq), last.decode(errors="replace"))

    def fields(self) -> tuple[Any, ...]:
        """For HSET."""
        return ("epoch", self.epoch, "seq", self.seq, "id", self.id)

    @property
    def start(self) -> str:
        """Where XRANGE begins: the entry itself, to see that it is still there."""
        return self.id if self.seq else BEGINNING

    def reaches(self, tip: Tip) -> bool:
        """Whether everything up to this end of the stream was copied."""
        return self.epoch == tip.epoch and self.seq >= tip.seq


@unique
class Step(Enum):
    """What a bucket needs."""

    NOTHING = auto()
    """The target has all of it."""
    READ_ON = auto()
    """Copy what follows on the cursor."""
    START_OVER = auto()
    """Copy all of the source."""


class Numbered(Protocol):
    """An entry of a stream: `authz.revocation.feed.source.Row`."""

    @property
    def id(self) -> str: ...

    @property
    def seq(self) -> int:
        """0: written before entries were numbered."""
        ...


Row = TypeVar("Row", bound=Numbered)


@dataclass(frozen=True, slots=True)
class Broken:
    """What was read doesn't follow on the cursor."""

    cause: str
    """For people."""


def judge(cursor: Cursor | None, tip: Tip) -> tuple[Step, str]:
    """What the end of the source's stream calls for, and why where that is to start over."""
    if cursor is None:
        return Step.START_OVER, "there is no cursor in the target"
    if tip.epoch != cursor.epoch:
        if not cursor.epoch:  # it was empty, so nothing came before this epoch
            return Step.READ_ON, ""
        return Step.START_OVER, "the source's history was replaced"
    if tip.seq < cursor.seq or (tip.seq == cursor.seq and tip.id != cursor.id):
        return Step.START_OVER, "the source lost entries that were copied"
    return (Step.READ_ON if tip.seq > cursor.seq else Step.NOTHING), ""


def following(cursor: Cursor, tip: Tip, rows: Sequence[Row]) -> Sequence[Row] | Broken:
    """Of the page that begins at the cursor, what is to be copied. `tip` is of before the page.

    Entries are numbered without a gap. At the beginning stands the first of the epoch, or the one
    that the stream's own trimming by age has left; older ones speak of tokens that have expired.
    """
    if cursor.seq == 0:
        expected = {1, tip.first}
    elif rows and rows[0].id == cursor.id:
        if rows[0].seq != cursor.seq:
            return Broken("other entries stand in the stream than were copied")
        rows, expected = rows[1:], {cursor.seq + 1}
    elif tip.first > cursor.seq:
        expected = {tip.first}
    else:
        return Broken("the stream was cut, or is another one")
    for row in rows:
        if row.seq == 0 or row.seq not in expected:
            return Broken("the stream has a gap")
        expected = {row.seq + 1}
    return rows


def milliseconds(entry_id: str) -> int:
    """When an entry was written, by the clock of its node: since 1970; 0 where that can't be told.

    Redis makes ids of it (`1700000000000-0`).
    """
    text = entry_id.partition("-")[0]
    return int(text) if text.isdecimal() else 0
