"""What checks cost a sidecar, sent straight to it; and how much of the machine others took."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self, TypeVar

from loadtest import h2load, sender, sending
from loadtest.bench import LIVE, SECRET, Bench
from loadtest.cores import cpu_seconds, machine_seconds, own_seconds
from loadtest.feed.rig import Sidecar
from loadtest.generators import EXTRA_TIME
from loadtest.outcome import Outcome, percentiles
from loadtest.scenarios import DIRECT_CONNECTIONS, DIRECT_STREAMS
from loadtest.subjects import ALLOWED

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one turn."""

    requests_per_second: float
    server_us: float
    """CPU time of the sidecar for each answer, with whatever else it did meanwhile."""
    requests: int
    wrong: int


def warm(bench: Bench, sidecar: Sidecar, seconds: float) -> Cost:
    """h2load: checks of one token that is known, as many as go."""
    log = bench.folder / "h2load.log"
    log.unlink(missing_ok=True)  # it would be appended to
    command = h2load.command(
        f"unix:{sidecar.socket}",
        bench.body_file(LIVE),
        log,
        connections=DIRECT_CONNECTIONS,
        streams=DIRECT_STREAMS,
        seconds=seconds,
    )
    return _cost(bench, sidecar, command, seconds, lambda output: h2load.read(output, log))


def of_tokens(
    bench: Bench, sidecar: Sidecar, seconds: float, tokens: Mapping[str, Any], kind: str = SECRET
) -> Cost:
    """`sender.py`: checks of the tokens that its specification names, 50 at once."""
    what = {
        "address": f"unix:{sidecar.socket}",
        "path": h2load.CHECK_PATH,
        "body": str(bench.body_file(kind)),
        "token": bench.token(kind),
        "seconds": seconds,
        **tokens,
    }
    specification = bench.folder / "sender.json"
    specification.write_text(json.dumps(what), encoding="utf-8")
    command = [sys.executable, "-P", sender.__file__, str(specification)]
    return _cost(bench, sidecar, command, seconds, sending.read)


def never_seen(bench: Bench, first: int) -> dict[str, Any]:
    """Tokens from a number on, without end, signed with a secret. For `of_tokens`."""
    return {"template": bench.mint.template(), "first": first, "count": 10**8}


def live_tokens(bench: Bench) -> dict[str, Any]:
    """Those of the file, in turn, signed with RSA. For `of_tokens` with `kind` LIVE."""
    return {"tokens": str(bench.mint.file(LIVE))}


def _cost(
    bench: Bench,
    sidecar: Sidecar,
    command: Sequence[str],
    seconds: float,
    read: Callable[[str], Outcome],
) -> Cost:
    verdicts = sidecar.verdicts()
    before = cpu_seconds(sidecar.child.pid)
    output = bench.load(command, seconds + EXTRA_TIME, direct=True)
    spent = cpu_seconds(sidecar.child.pid) - before
    outcome = read(output)
    unexpected = sum(
        count - verdicts.get(verdict, 0)
        for verdict, count in sidecar.verdicts().items()
        if verdict != ALLOWED
    )
    answered = max(outcome.requests, 1)
    return Cost(
        outcome.requests / outcome.seconds,
        spent / answered * 1e6,
        outcome.requests,
        max(unexpected, outcome.bad_statuses) + outcome.errors + (not outcome.requests),
    )


def ratio(
    ones: Sequence[Cost], others: Sequence[Cost], of: Callable[[Cost], float]
) -> float | None:
    """The median of what each round says of the two: what disturbs a round disturbs both."""
    found = [of(one) / of(other) for one, other in zip(ones, others, strict=True) if of(other)]
    return median(found) if found else None


def rate(cost: Cost) -> float:
    return cost.requests_per_second


def server(cost: Cost) -> float:
    return cost.server_us


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, to say later how much of the machine other processes used since, 0 to 1."""

    at: float
    machine: float
    own: float

    @classmethod
    def now(cls, bench: Bench) -> Self:
        own = own_seconds(child.pid for child in bench.children.values())
        return cls(time.monotonic(), machine_seconds(), own)

    def others(self, bench: Bench) -> float:
        now = Mark.now(bench)
        spent = (now.machine - self.machine) - (now.own - self.own)
        return max(0.0, spent / (now.at - self.at) / (os.cpu_count() or 1))


def milliseconds(times_us: Sequence[int]) -> dict[str, float]:
    """Percentiles, and `max`."""
    if not times_us:
        return {}
    return percentiles([time / 1000 for time in times_us]) | {"max": max(times_us) / 1000}


def since(late: Mapping[Key, int], early: Mapping[Key, int]) -> dict[Key, int]:
    """Counters that only grow: by how much each did, of those that did."""
    found = {key: count - early.get(key, 0) for key, count in late.items()}
    return {key: count for key, count in found.items() if count}
