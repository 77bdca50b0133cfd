"""One subject under load for a while: what came out, and what it cost."""

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from loadtest import tools
from loadtest.bench import Bench
from loadtest.cases import ALLOWED, Scenario, Subject
from loadtest.cores import cpu_seconds, machine_seconds, own_seconds

EXTRA_TIME = 30.0
"""Seconds that a load generator may take beyond its time before it counts as hung."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one subject."""

    requests: int
    seconds: float
    requests_per_second: float
    latency_ms: dict[str, float]
    server_us: float | None
    """CPU time of the server of checks for each answered request, in microseconds."""
    envoy_us: float | None
    wrong: int
    """Requests without an answer, or with another than expected."""
    others: float
    """The part of the machine that other processes used meanwhile, 0 to 1."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    bench: Bench, scenario: Scenario, subject: Subject, *, seconds: float, rate: int
) -> Sample:
    """Put load on a subject. CommandError: a part failed. StopRequestedError: asked to end."""
    server = bench.children.get(subject.server) if subject.server else None
    envoy = bench.children["envoy"] if scenario.through == "envoy" else None
    pids = [child.pid for child in bench.children.values()]

    def costs() -> list[float]:
        parts = [0.0 if child is None else cpu_seconds(child.pid) for child in (server, envoy)]
        return [*parts, own_seconds(pids), machine_seconds(), time.monotonic()]

    verdicts, failed = bench.verdicts(subject.server), bench.envoy_errors()
    before = costs()
    outcome = _put_load(bench, scenario, subject, seconds=seconds, rate=rate)
    server_s, envoy_s, own, machine, elapsed = (
        late - early for early, late in zip(before, costs(), strict=True)
    )
    unexpected = sum(
        count - verdicts.get(verdict, 0)
        for verdict, count in bench.verdicts(subject.server).items()
        if verdict != subject.verdict
    )
    # The same failure may be seen from several sides.
    bad_statuses = outcome.bad_statuses if subject.verdict == ALLOWED else 0
    wrong = max(unexpected, bad_statuses, bench.envoy_errors() - failed) + outcome.errors
    answered = max(outcome.requests, 1)
    return Sample(
        requests=outcome.requests,
        seconds=outcome.seconds,
        requests_per_second=outcome.requests / outcome.seconds,
        latency_ms=outcome.latency_ms,
        server_us=server_s / answered * 1e6 if server else None,
        envoy_us=envoy_s / answered * 1e6 if envoy else None,
        wrong=wrong if outcome.requests else max(wrong, 1),
        others=max(0.0, machine - own) / elapsed / (os.cpu_count() or 1),
    )


def _put_load(
    bench: Bench, scenario: Scenario, subject: Subject, *, seconds: float, rate: int
) -> tools.Outcome:
    name = "live" if subject.verdict == ALLOWED else "revoked"
    pace = rate if scenario.paced else None
    timeout = seconds + EXTRA_TIME
    if scenario.tool == "wrk":
        url = bench.envoy_url(subject.server)
        command = tools.wrk(url, bench.token_file(name), seconds=seconds)
        return tools.read_wrk(bench.load(command, timeout, direct=False))
    log = bench.folder / "h2load.log"
    log.unlink(missing_ok=True)  # it would be appended to
    h2load = tools.H2load(log, bench.folder / "schedule.tsv", seconds, pace)
    if scenario.through == "envoy":
        command = h2load.get(bench.envoy_url(subject.server), bench.token(name))
        return tools.read_h2load(bench.load(command, timeout, direct=False), log)
    if subject.server is None:
        raise RuntimeError("nothing to send to")
    address = bench.address(subject.server, scenario.through)
    command = h2load.check(address, bench.body_file(name))
    return tools.read_h2load(bench.load(command, timeout, direct=True), log)
