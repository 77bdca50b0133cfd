"""What was promised (the figures of the README's performance section), and whether it came true."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
    return [*_through_envoy(report), *_direct(report), *_pieces(report), *_memory(report)]


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
