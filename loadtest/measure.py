"""One case under load for a while: what came out, and what it cost."""

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.bench import Bench
from loadtest.cores import cpu_seconds, machine_seconds, own_seconds
from loadtest.generators import put_load
from loadtest.outcome import Outcome
from loadtest.scenarios import Case, Load
from loadtest.subjects import ALLOWED


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one case."""

    outcome: Outcome
    rate: float | None
    """What an open loop was to send, a second."""
    server_us: float | None
    """CPU time of the server of checks for each answered request, in microseconds."""
    envoy_us: float | None
    wrong: int
    """Requests without an answer, or with another than expected."""
    others: float
    """The part of the machine that other processes used meanwhile, 0 to 1."""

    @property
    def requests_per_second(self) -> float:
        return self.outcome.requests / self.outcome.seconds

    def as_json(self) -> dict[str, Any]:
        mapping = asdict(self)
        return {**mapping.pop("outcome"), **mapping}


@dataclass(slots=True)
class Meter:
    """Reads what a case costs between two moments."""

    bench: Bench
    case: Case

    def read(self) -> tuple[float, float, float, float, float]:
        """Seconds so far: of the server, of Envoy, of all that is ours, of the machine, passed."""
        server = self.bench.children.get(self.case.subject.server or "")
        envoy = self.bench.children["envoy"] if self.case.scenario.load.through_envoy else None
        return (
            cpu_seconds(server.pid) if server else 0.0,
            cpu_seconds(envoy.pid) if envoy else 0.0,
            own_seconds(child.pid for child in self.bench.children.values()),
            machine_seconds(),
            time.monotonic(),
        )


def measure(bench: Bench, case: Case, *, seconds: float, maximum: float, first: int = 0) -> Sample:
    """Put load on a subject for `seconds`. `maximum`: the requests a second through Envoy that the
    points of an open loop are percentages of. `first`: where to go on in the tokens of a sender.

    CommandError: a part failed. StopRequestedError: asked to end.
    """
    subject, load = case.subject, case.scenario.load
    rate = maximum * (case.point or 100) / 100 if load is Load.PACED else None
    meter = Meter(bench, case)
    verdicts, failed = bench.verdicts(subject.server), bench.envoy_errors()
    before = meter.read()
    outcome = put_load(bench, case, seconds=seconds, rate=rate or 0.0, first=first)
    server, envoy, own, machine, elapsed = (
        late - early for early, late in zip(before, meter.read(), strict=True)
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
        outcome=outcome,
        rate=rate,
        server_us=server / answered * 1e6 if subject.server else None,
        envoy_us=envoy / answered * 1e6 if load.through_envoy else None,
        wrong=wrong if outcome.requests else max(wrong, 1),
        others=max(0.0, machine - own) / elapsed / (os.cpu_count() or 1),
    )
