"""What the relay knows of one bucket."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from authz.relay.cursor import Cursor
from authz.revocation.feed.position import Tip


@dataclass(slots=True)
class Bucket:
    """Its cursor, the end of its stream as far as heard, and whether somebody is at it."""

    number: int
    cursor: Cursor | None = None
    """As it stands in the target."""
    tip: Tip | None = None
    """The end of the source's stream as far as is known."""
    waiting_since: int = 0
    """When the oldest entry was written that isn't copied yet, as far as is known: milliseconds
    since 1970. 0: none is."""
    level: bool = False
    """The target has all of it, as far as is known."""
    busy: bool = False
    """It is being copied, by its stream or by its keys."""
    version: int = 0
    """Grows with whatever becomes known, so that a reply that was asked for before can be told."""
    failures: int = 0
    """In a row."""
    failed_at: str = ""
    """The side of which that was; empty after a success."""
    retry_at: float = -math.inf
    """Not before. Monotonic seconds."""

    def hear(self, tip: Tip, written_at: int, *, replace: bool = False) -> None:
        """The stream ends there. `replace`: whatever was heard before; else only if that is
        further on.
        """
        known = self.tip
        if not replace and known and known.epoch == tip.epoch and known.seq >= tip.seq:
            return
        self.tip = tip
        self.version += 1
        if self.backlog:
            self.level = False
            self.waiting_since = self.waiting_since or written_at

    def begin(self) -> None:
        """Somebody is at it."""
        self.busy, self.level = True, False

    def is_level(self) -> None:
        self.level, self.waiting_since = True, 0

    def newer_than(self, cursor: Cursor) -> Tip | None:
        """An end of the stream that was heard of and lies behind the cursor."""
        tip = self.tip
        if tip is None or tip.epoch != cursor.epoch or tip.seq <= cursor.seq:
            return None
        return tip

    def well(self) -> None:
        """It could be copied."""
        self.failures, self.failed_at = 0, ""

    def reaches(self, tips: Mapping[int, Tip]) -> bool:
        """Whether its entries up to this end of its stream were copied."""
        return self.cursor is not None and self.cursor.reaches(tips[self.number])

    def end(self) -> None:
        """Nobody is at it any more."""
        self.busy = False
        self.version += 1
        if self.tip is not None and self.cursor is not None and self.cursor.reaches(self.tip):
            self.is_level()

    @property
    def backlog(self) -> int:
        """Entries that are to be copied; all of the stream where it is another one."""
        if self.tip is None:
            return 0
        if self.cursor is None or self.cursor.epoch != self.tip.epoch:
            return self.tip.seq
        return max(0, self.tip.seq - self.cursor.seq)
