"""Counters for the way of a check: plain integers, read when someone scrapes.

A `prometheus_client` counter costs 0.5 microseconds and a histogram 1, for locks that a single
event loop doesn't need; that is a tenth of a whole check. These are written by the event loop
alone and read by the thread that answers `/metrics`, which may see one check counted and its
duration not yet. Nothing is lost by that.
"""

from bisect import bisect_left
from itertools import accumulate

from authz.check.verdict import Decision, Reason, Verdict

CHECK_BUCKETS = (
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6,
    1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0,
)  # fmt: skip
"""Seconds. From an answer out of memory, past a signature (0.1 ms), Redis (1 ms), `store.timeout`
(25 ms) and `audit.timeout` (100 ms), to beyond the 200 ms that Envoy waits."""

STORE_BUCKETS = (
    100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0,
)  # fmt: skip
"""Seconds. A round trip on loopback is 0.2 ms, within a zone 1 ms."""

REVOCATION_LAG_BUCKETS = (
    1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 0.5, 1.0, 2.0, 5.0, 30.0,
)  # fmt: skip
"""Seconds. A push takes one or two milliseconds on a network of its own; 100 ms and the 2 s of
`feed.max_staleness` are what is promised."""

LAG_BUCKETS = (1e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0, 5.0)
"""Seconds. Below a millisecond it is the timer's own grain."""


class Histogram:
    """How many observations fell at or below each bound."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: upper ends of the buckets, rising."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)  # the last: above them all
        self.total = 0.0
        """The sum of all observations."""

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Bound and how many observations were at most that, the last bound being infinite."""
        return list(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))


class CheckCounters:
    """What became of checks, and how long they took."""

    __slots__ = ("_verdicts", "duration")

    def __init__(self) -> None:
        self._verdicts: dict[tuple[Decision, Reason], int] = {}
        self.duration = Histogram(CHECK_BUCKETS)

    def count(self, verdict: Verdict, seconds: float) -> None:
        """A check was answered, `seconds` after its request was read."""
        key = (verdict.decision, verdict.reason)
        self._verdicts[key] = self._verdicts.get(key, 0) + 1
        self.duration.observe(seconds)

    def verdicts(self) -> dict[tuple[Decision, Reason], int]:
        """Checks by decision and reason, so far. From any thread."""
        return self._verdicts.copy()


class StoreCounters:
    """How the store answers."""

    __slots__ = ("latency", "lookups")

    def __init__(self) -> None:
        self.latency = Histogram(STORE_BUCKETS)
        self.lookups = 0
        """That were answered: several share a round trip."""

    def observe(self, seconds: float, lookups: int) -> None:
        """A pipeline of so many look-ups came back. The `observe` of `RedisStore`."""
        self.latency.observe(seconds)
        self.lookups += lookups
