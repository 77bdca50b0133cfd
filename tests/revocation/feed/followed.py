"""For the model of a followed store: its tokens, what was told, and what was promised."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from authz.revocation.entry import TOKEN, Entry
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    TokenRef,
)

BUCKETS = 2
MAX_STALENESS = 2.0
LEEWAY = 5.0
START = 1_800_000_000
TICK = 1 / 1024
"""Seconds between any two things that happen."""
TURNS = 12
"""Of the loop, for whatever can go on to do so."""
ROUNDS = 8
"""After which a feed is live, if all is well: it may have to read on, find a gap, read all, find
that the store is another one, and read all once more.
"""

USERS = ("ann", "bob")
TOKENS = [
    TokenRef(f"user-{user}", f"token-{user}-{n}", bucket, START - 100 + 50 * n, START + 40_000)
    for bucket, user in enumerate(USERS)
    for n in range(3)
]
LIFETIMES = [30.0, 5000.0, 20_000.0, 40_060.0]
"""Seconds from the start until when a revocation says that its token has expired, and 60 more."""


class Quiet:
    """Logs nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


class Listening(Knowledge):
    """Notes what it is told."""

    def __init__(self, negative_ttl: float) -> None:
        super().__init__(
            revocations=100, negative_ttl=negative_ttl, false_positives=1e-9, buckets=BUCKETS
        )
        self.exact: dict[str, float] = {}
        """TID: until when it is revoked for certain."""
        self.heard: dict[str, float] = {}
        """TID: the same, told in whatever way."""
        self.cuts: dict[str, float] = {}
        self.losses = 0

    def hear(self, entry: Entry, now: float, *, just_now: bool) -> None:
        super().hear(entry, now, just_now=just_now)
        if entry.kind == TOKEN:
            for known in (self.heard, self.exact) if just_now else (self.heard,):
                known[entry.token] = max(entry.expires / 1000, known.get(entry.token, 0.0))
        else:
            self.cuts[entry.user] = max(entry.before / 1000, self.cuts.get(entry.user, 0.0))

    def lose_history(self) -> None:
        super().lose_history()
        self.losses += 1


@dataclass(slots=True, eq=False)
class Acknowledged:
    """A revocation that its caller was told is in the store."""

    bucket: int
    entry: Entry
    at: float
    """True time. Seconds since 1970."""
    lost_at: float | None = None
    """When the store forgot it."""
    was_named: bool = False
    """The feed had been told a tip by then that was as far as this. What it read beyond, in the few
    milliseconds until the next tip, it can't miss.
    """


class Event(Enum):
    """What may come at any moment."""

    REVOCATION = auto()
    PUSHES = auto()
    FAILURE = auto()
    CUT = auto()
    FAILOVER = auto()
    FLUSH = auto()
