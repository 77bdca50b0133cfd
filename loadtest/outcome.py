"""What a load generator saw."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

POINTS = ("p50", "p90", "p99", "p99.9")


@dataclass(frozen=True, slots=True)
class Outcome:
    requests: int
    """Answered, whatever the answer."""
    seconds: float
    bad_statuses: int
    """HTTP statuses from 400 upwards."""
    errors: int
    """Requests that were not answered."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    """By `POINTS`; empty where it wasn't measured."""
    late_ms: dict[str, float] = field(default_factory=dict)
    """By `POINTS`, for an open loop: how long after its time a request was sent. It is part of the
    latency, and no fault of who answers: the load generator's own error.
    """
    histogram_us: dict[int, int] = field(default_factory=dict)
    """For an open loop: how many requests took how many microseconds, to two digits."""


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Nearest rank: each is a time that was really seen."""
    ordered = sorted(times)
    # Fractions, as 99.9 % of a thousand is a little more than 999 in floating point.
    ranks = {point: ceil(Fraction(point[1:]) / 100 * len(ordered)) for point in POINTS}
    return {point: ordered[max(rank, 1) - 1] for point, rank in ranks.items() if ordered}


def histogram(times: Iterable[int]) -> dict[int, int]:
    """How often each time was seen, cut to its first two digits: within 10 % of it."""
    counts = Counter(time - time % 10 ** max(0, len(str(time)) - 2) for time in times)
    return {time: counts[time] for time in sorted(counts)}
