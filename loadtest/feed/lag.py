"""`feed-lag`: from the acknowledgement of a revocation to its refusal by each of many sidecars."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from authz.observe import names
from loadtest.bench import SECRET, Bench
from loadtest.cores import cpu_seconds
from loadtest.feed import scripts
from loadtest.feed.cost import Mark, milliseconds, since
from loadtest.feed.rig import Cluster, Rig, Sidecar
from loadtest.feed.scripts import read
from loadtest.feed.writing import REVOKER, writing
from loadtest.h2load import CHECK_PATH
from loadtest.outcome import histogram

RATE = 200.0
"""Revocations a second."""
LEAD = 4.0
"""Seconds from the start of the programs to the first revocation."""
EXTRA_TIME = 60.0
"""Seconds that they may take beyond their time."""
TOO_LATE_MS = 2000.0
"""`feed.max_staleness`."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Times are in milliseconds, by the points of `percentiles` and `max`."""

    sidecars: int
    rate: float
    seconds: float
    revoked: int
    """Revocations that were acknowledged."""
    lag_ms: dict[str, float]
    """From the acknowledgement to a sidecar's refusal."""
    histogram_us: dict[int, int]
    too_late: int
    """Refusals after more than `TOO_LATE_MS`, and tokens that were never refused."""
    at_first: float
    """The share of refusals that answered the first question."""
    late_ms: dict[str, float]
    """How long after its time that question was sent: `prober.py`'s own error."""
    answer_ms: dict[str, float]
    """From that question to its answer."""
    write_ms: dict[str, float]
    """From the start of a revocation to its acknowledgement."""
    heard: dict[str, int]
    """Revocations that the sidecars heard of, by how."""
    own_lag: dict[float, int]
    """`authz_revocation_lag_seconds` of all sidecars: how many were at most so many seconds, and
    more than the next smaller bound."""
    server_us: float
    """CPU time of a sidecar for each revocation, its three or four checks included."""
    wrong: int
    others: float

    def own_within(self, share: float) -> float | None:
        """Seconds within which the sidecars say that this share of revocations came: the bound of a
        bucket.
        """
        total, seen = sum(self.own_lag.values()), 0
        for bound, count in sorted(self.own_lag.items()):
            seen += count
            if total and seen >= share * total:
                return bound
        return None


def measure(bench: Bench, *, sidecars: int, seconds: float) -> Lag:
    """Raises as Bench does. No process is pinned: ten of them share the cores as they would."""
    rig = Rig(bench)
    with rig.cluster("lag") as cluster:
        wanted = {f"lag-{number}": {"store": cluster.store} for number in range(1, sidecars + 1)}
        with rig.sidecars(wanted) as started:
            rig.wait_until_live(started)
            return _measure(bench, cluster, started, seconds)


def _measure(bench: Bench, cluster: Cluster, sidecars: list[Sidecar], seconds: float) -> Lag:
    listen = str(bench.folder / "acknowledged")
    both = {"rate": RATE, "seconds": seconds, "start": time.monotonic() + LEAD}
    heard, own, spent = _heard(sidecars), _own_lag(sidecars), _spent(sidecars)
    mark = Mark.now(bench)
    with writing(bench, cluster, REVOKER, both | {"tell": listen}) as revoker:
        asking = both | {
            "sockets": [str(one.socket) for one in sidecars],
            "path": CHECK_PATH,
            "body": str(bench.body_file(SECRET)),
            "token": bench.token(SECRET),
            "template": bench.mint.template(),
            "listen": listen,
        }
        command = scripts.command(bench.folder, "prober", asking)
        output = bench.processes.run(command, timeout=LEAD + seconds + EXTRA_TIME)
    others, spent = mark.others(bench), _spent(sidecars) - spent
    asked, written = read(output), revoker.said()
    lags = asked["lags_us"]
    return Lag(
        sidecars=len(sidecars),
        rate=RATE,
        seconds=seconds,
        revoked=asked["acknowledged"],
        lag_ms=milliseconds(lags),
        histogram_us=histogram(max(lag, 0) for lag in lags),
        too_late=asked["never"] + sum(lag > TOO_LATE_MS * 1000 for lag in lags),
        at_first=asked["at_first"] / max(len(lags), 1),
        late_ms=milliseconds(asked["late_us"]),
        answer_ms=milliseconds(asked["answers_us"]),
        write_ms=milliseconds(written["took_us"]),
        heard=since(_heard(sidecars), heard),
        own_lag=since(_own_lag(sidecars), own),
        server_us=spent / max(len(lags), 1) * 1e6,
        wrong=asked["wrong"] + asked["never"] + written["failed"],
        others=others,
    )


def _heard(sidecars: Sequence[Sidecar]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in sidecars:
        counts.update(one.feed["entries"])
    return counts


def _own_lag(sidecars: Sequence[Sidecar]) -> Counter[float]:
    counts: Counter[float] = Counter()
    for one in sidecars:
        counts.update(one.histogram(names.REVOCATION_LAG.name))
    return counts


def _spent(sidecars: Sequence[Sidecar]) -> float:
    return sum(cpu_seconds(one.child.pid) for one in sidecars)
