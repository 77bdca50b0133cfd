"""`feed-under-writes`: checks of known tokens while revocations arrive, and while none do."""

from dataclasses import dataclass, field
from statistics import median

from loadtest.bench import Bench
from loadtest.feed.cost import Cost, Mark, warm
from loadtest.feed.rig import Cluster, Rig, Sidecar
from loadtest.feed.writing import FLOOD, writing

RATE = 1000.0
"""Revocations a second, each written by itself: many in one call would be one push."""
LONGER = 60.0
"""Seconds that there are revocations for, beyond those of the checks; it is stopped then."""
START_TIMEOUT = 30.0
"""Seconds until the first one arrives."""
WARM_UP = 1.0
"""Seconds of checks before anything counts."""
PER_ROUND = 1_000_000
"""Numbers of tokens that no other round uses: what is repeated isn't written again."""


@dataclass(slots=True)
class Writes:
    rate: float = RATE
    quiet: list[Cost] = field(default_factory=list)
    """By round."""
    busy: list[Cost] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    """Revocations that the sidecar heard of, a second, by round."""
    failed: int = 0
    """Revocations that were not acknowledged."""
    others: float = 0.0

    @property
    def each_us(self) -> float | None:
        """CPU time of the sidecar for a revocation that arrives, in microseconds: what it spent
        more while they did, the checks of that time at what they cost without. Of the median round.
        """
        found = [
            (busy.server_us - quiet.server_us) * busy.requests_per_second / arrived
            for busy, quiet, arrived in zip(self.busy, self.quiet, self.arrived, strict=True)
            if arrived
        ]
        return median(found) if found else None

    @property
    def wrong(self) -> int:
        return self.failed + sum(cost.wrong for cost in self.quiet + self.busy)


def measure(bench: Bench, *, seconds: float, rounds: int) -> Writes:
    """Raises as Bench does."""
    found, rig = Writes(), Rig(bench)
    with rig.cluster("written") as cluster:
        wanted = {"under-writes": {"store": cluster.store}}
        with rig.sidecars(wanted, bench.pinning.server) as (sidecar,):
            rig.wait_until_live([sidecar])
            warm(bench, sidecar, WARM_UP)
            mark = Mark.now(bench)
            for number in range(1, rounds + 1):
                if number % 2:
                    found.quiet.append(warm(bench, sidecar, seconds))
                _busy(bench, found, cluster, sidecar, seconds, number)
                if not number % 2:
                    found.quiet.append(warm(bench, sidecar, seconds))
            found.others = mark.others(bench)
    return found


def _busy(
    bench: Bench, found: Writes, cluster: Cluster, sidecar: Sidecar, seconds: float, number: int
) -> None:
    what = {"rate": RATE, "seconds": seconds + LONGER, "first": number * PER_ROUND}
    # Where the load is, too: beside the sidecar it would take what the checks are to have.
    with writing(bench, cluster, FLOOD, what, bench.pinning.load_on_server) as revoker:
        before = _pushed(sidecar)
        bench.processes.wait_until(
            lambda: _pushed(sidecar) > before, "a revocation arrived", START_TIMEOUT
        )
        mark, before = Mark.now(bench), _pushed(sidecar)
        found.busy.append(warm(bench, sidecar, seconds))
        arrived, passed = _pushed(sidecar) - before, Mark.now(bench).at - mark.at
        found.arrived.append(arrived / passed)
    found.failed += revoker.said()["failed"]


def _pushed(sidecar: Sidecar) -> int:
    entries: dict[str, int] = sidecar.feed["entries"]
    return entries["pushed"] + entries["read"]
