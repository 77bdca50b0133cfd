"""What was promised (the figures of the README's performance section), and whether it came true."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from loadtest.feed.cold import WITH_FEED
from loadtest.feed.cost import rate, server
from loadtest.feed.cost import ratio as cost_ratio
from loadtest.feed.findings import Findings
from loadtest.feed.writes import RATE
from loadtest.memory import MIB
from loadtest.report import Report, added, latency, ratio, server_cost, throughput
from loadtest.scenarios import ENVOY, LATENCY, TCP, UNIX
from loadtest.subjects import NONE, OK_GRPCIO, OK_NATIVE, WARM, WARM_GRPCIO, Server

CPU_SHARE = 1 / 8
"""Of a server on grpcio that only answers OK; measured before: 150 µs against 6 to 15."""
THROUGHPUT_SHARE = 0.90
"""Of a server on the native transport that only answers OK."""
TIMES_GRPCIO = 12.0
"""Checks per second per core."""
NEVER_SEEN = 1.5
"""Times a bare `jwt.decode`."""
REST_MIB = 75.0
FULL_MIB = 125.0
"""Resident, with a full cache of tokens."""
GROWTH_MIB = 1.0
"""No growth: less than the allocator's own ups and downs."""
ADDED_P99_MS = 1.0
"""At half load, on a quiet machine."""
HALF_LOAD = 50
REFUSED_P99_MS, REFUSED_MAX_MS = 100.0, 2000.0
"""From the acknowledgement of a revocation to its refusal by each sidecar."""
FILTER_MB = 12.0
START_SECONDS = 30.0
"""From the start of a process until it knows every revocation."""
UNCHANGED = 0.9
"""Checks per second per core with a million revocations, to those with none."""
UNDER_WRITES = 0.9
"""Checks per second while revocations arrive, to those while none do."""


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    sense: Literal["at most", "at least"]
    limit: float
    unit: str
    figure: float | None
    """None: not measured in this run."""

    @property
    def met(self) -> bool | None:
        if self.figure is None:
            return None
        if self.sense == "at most":
            return self.figure <= self.limit
        return self.figure >= self.limit

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def targets(report: Report) -> list[Target]:
    return [
        *_through_envoy(report),
        *_direct(report),
        *_pieces(report),
        *_memory(report),
        *_feed(report.feed),
    ]


def _through_envoy(report: Report) -> Iterator[Target]:
    warm = report.find(ENVOY, WARM)
    yield Target(
        "through Envoy, warm: the sidecar's CPU per check, to ok-only-grpcio's",
        "at most",
        CPU_SHARE,
        "x",
        ratio(warm, report.find(ENVOY, OK_GRPCIO), server_cost),
    )
    yield Target(
        "through Envoy, warm: requests/s, to ok-only-native's",
        "at least",
        THROUGHPUT_SHARE,
        "x",
        ratio(warm, report.find(ENVOY, OK_NATIVE), throughput),
    )
    half = report.find(LATENCY, WARM, HALF_LOAD)
    none = report.find(LATENCY, NONE, HALF_LOAD)
    yield Target(
        f"through Envoy, warm: p99 added at {HALF_LOAD} % of the maximum",
        "at most",
        ADDED_P99_MS,
        "ms",
        added(half, none, latency("p99")),
    )


def _direct(report: Report) -> Iterator[Target]:
    for scenario, what in ((UNIX, "Unix socket"), (TCP, "TCP")):
        warm, grpcio = report.find(scenario, WARM), report.find(scenario, WARM_GRPCIO)
        cost = ratio(grpcio, warm, server_cost)
        yield Target(
            f"direct, {what}, warm: checks per second per core, to transport: grpcio's",
            "at least",
            TIMES_GRPCIO,
            "x",
            cost,
        )


def _pieces(report: Report) -> Iterator[Target]:
    figure = report.pieces.get("never_seen_ratio")
    what = "a token never seen, to a bare jwt.decode"
    yield Target(what, "at most", NEVER_SEEN, "x", figure)


def _memory(report: Report) -> Iterator[Target]:
    memory = report.memory
    rest = memory.rest.get(Server.MEMORY)
    yield Target(
        "resident memory at rest", "at most", REST_MIB, "MiB", rest.rss / MIB if rest else None
    )
    full = memory.full.rss / MIB if memory.full else None
    what = f"resident memory with {memory.cached or 20_000:,} tokens cached"
    yield Target(what, "at most", FULL_MIB, "MiB", full)
    growth = None if memory.growth is None else memory.growth / MIB
    checks = memory.readings[-1].checks if memory.readings else 0
    many = f"{checks / 1e6:.1f} million" if checks else "millions of"
    yield Target(f"growth over {many} checks", "at most", GROWTH_MIB, "MiB", growth)


def _feed(found: Findings) -> Iterator[Target]:
    lag, million, cold, writes = found.lag, found.million, found.cold, found.writes
    p99, most = (lag.lag_ms[point] if lag else None for point in ("p99", "max"))
    many = f"at {lag.sidecars if lag else 8} sidecars"
    yield Target(
        f"from acknowledgement to refusal {many}, p99", "at most", REFUSED_P99_MS, "ms", p99
    )
    yield Target("the same, the slowest", "at most", REFUSED_MAX_MS, "ms", most)
    known = f"{million.revocations if million else 1_000_000:,} revocations"
    size = million.filter_bytes / 1e6 if million else None
    yield Target(f"{known}: the filter", "at most", FILTER_MB, "MB", size)
    start = million.start_seconds if million else None
    yield Target(f"{known}: start until all are known", "at most", START_SECONDS, "s", start)
    yield Target(
        f"{known}: warm checks per second per core, to those without any",
        "at least",
        UNCHANGED,
        "x",
        cost_ratio(million.warm_empty, million.warm_full, server) if million else None,
    )
    yield Target(
        "a cold token with the feed live: commands that Redis gets",
        "at most",
        0.0,
        "a check",
        cold.per_check(WITH_FEED) if cold else None,
    )
    yield Target(
        f"{RATE:,.0f} revocations/s: checks/s, to those without any",
        "at least",
        UNDER_WRITES,
        "x",
        cost_ratio(writes.busy, writes.quiet, rate) if writes else None,
    )
