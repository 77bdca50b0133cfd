"""What was seen in one scenario: the facts that the oracle judges.

Times are seconds of the harness's own `time.monotonic`, unless a field says otherwise. Tokens are
named by their TID. A sidecar that is restarted begins a new life: what it knew is gone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

ALLOW = "allow"
FAIL_OPEN = "fail-open"
REVOKED = "token_revoked"
POSSIBLY = "possibly_revoked"
CLOSED = "store_unavailable"
UNANSWERED = "unanswered"
"""Decisions: `x-authz-decision` of what passed, the reason of what didn't, or no answer at all."""

PASSED = frozenset({ALLOW, FAIL_OPEN})
REFUSED = frozenset({REVOKED, POSSIBLY})


class Answer(NamedTuple):
    """One check."""

    asked: float
    answered: float
    sidecar: str
    life: int
    """Of the sidecar, when it was asked."""
    token: str
    decision: str
    request_id: str
    closed: bool
    """Whether its route fails closed."""


@dataclass(slots=True)
class Revocation:
    """One attempt to revoke a token, by whatever kind of revocation."""

    token: str
    region: str
    """Where it was written."""
    attempted: float
    acknowledged: float | None = None
    """None: it was not. It may be in the store all the same."""
    lost: float = math.inf
    """When the store was made to forget it (FLUSHALL)."""
    cut_off: bool = False
    """By a cut-off of its user, who logged in again and may be cut off again."""


class Life(NamedTuple):
    """A sidecar's process, from its start to its end."""

    sidecar: str
    number: int
    ready: float
    """When it said that it was."""
    ended: float
    """When it was killed or stopped on purpose; infinity while it runs."""
    ahead: float = 0.0
    """Seconds that its wall clock is ahead of everybody's."""
    instance: str = ""
    """What its records in the audit name it; empty where it ended before it said so."""


class Window(NamedTuple):
    """A time in which something was done to a sidecar or to what it needs."""

    sidecar: str
    start: float
    end: float
    """The recovery: the cluster is in order and can be reached."""
    blind: bool
    """Whether it could learn nothing at all in it."""


class Process(NamedTuple):
    """How a sidecar's process was found at the end."""

    sidecar: str
    running: bool
    grown: float
    """Resident memory since the start of the scenario, MiB."""
    traceback: bool
    """Whether its log has one."""


@dataclass
class Evidence:
    began: float
    recovered: float
    """The last fault's recovery; `began` where nothing was broken."""
    answers: Sequence[Answer]
    revocations: Mapping[str, Revocation]
    lives: Sequence[Life]
    windows: Sequence[Window]
    regions: Mapping[str, str]
    """Sidecar to its region."""
    related: float = 0.0
    """Since when regions have heard of each other without a break."""
    trimmed: float = -math.inf
    """When the streams were cut last."""
    known: Mapping[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    """Sidecar and life to the tokens that it refused as revoked before the scenario began."""
    audits: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Sidecar to the records that its audit got in this scenario."""
    tampered: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Sidecar to what `authz audit verify` has to say of its whole audit."""
    live: Mapping[str, float] = field(default_factory=dict)
    """Sidecar to when, after the recovery, it first said that its feed is live."""
    subscribed: Mapping[str, float] = field(default_factory=dict)
    """The same of its subscription."""
    wall: float = 0.0
    """Seconds since 1970 at which the harness's clock said 0."""
    missing: Sequence[str] = ()
    """Acknowledged, never lost on purpose, and not in the store at the end."""
    processes: Sequence[Process] = ()

    def acknowledged_at(self, token: str) -> float | None:
        revocation = self.revocations.get(token)
        return None if revocation is None else revocation.acknowledged

    def windows_of(self, sidecar: str) -> list[Window]:
        return sorted(window for window in self.windows if window.sidecar == sidecar)

    def calm(self, life: Life) -> Iterator[tuple[float, float]]:
        """Stretches of a life, as start and end, in which nothing was done to the sidecar."""
        start = max(life.ready, self.began)
        for window in self.windows_of(life.sidecar):
            if start < window.start:
                yield start, min(window.start, life.ended)
            start = max(start, window.end)
            if start >= life.ended:
                return
        yield start, life.ended

    def is_down(self, sidecar: str, asked: float, answered: float) -> bool:
        """Whether it had been ended on purpose at some time of this question."""
        lives = sorted(life for life in self.lives if life.sidecar == sidecar)
        gaps = [(old.ended, new.ready) for old, new in pairwise(lives)]
        return any(ended <= answered and asked <= ready for ended, ready in gaps)
