"""The load generators: how they are called, and what they say."""

import json
import random
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from authz.cli.errors import CommandError
from authz.envoy_api.service import AUTHORIZATION_SERVICE
from loadtest.cases import Scenario

CHECK_PATH = f"/{AUTHORIZATION_SERVICE}/Check"
POINTS = ("p50", "p90", "p99", "p99.9")
DEBIAN_PACKAGES = {"h2load": "nghttp2-client", "wrk": "wrk"}

CLOSED_CONNECTIONS = 2
CLOSED_STREAMS = 50
"""h2load: 100 requests in flight, as one Envoy of two workers may have."""
WRK_CONNECTIONS = 64
PACED_STREAMS = 1000
"""An open loop needs room: with few streams requests would wait unseen, before they are timed."""
ARRIVALS_MAX = 1000
"""A second. At a higher rate several requests arrive at the same time."""
TIMER_SLACK = 0.5
"""Milliseconds by which h2load's timer is late on average: it counts whole ones, rounded up."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load generator saw."""

    requests: int
    """Answered, whatever the answer."""
    seconds: float
    bad_statuses: int
    """HTTP statuses from 400 upwards."""
    errors: int
    """Requests that were not answered."""
    latency_ms: dict[str, float]
    """By `POINTS`; empty where nothing was answered."""


def find(names: Sequence[str]) -> None:
    """CommandError: one of the programs is missing; it names Debian's package."""
    if sys.platform != "linux":
        raise CommandError("the load test reads CPU times from /proc, so it runs on Linux only")
    missing = sorted({name for name in names if shutil.which(name) is None})
    if missing:
        packages = " ".join(DEBIAN_PACKAGES[name] for name in missing)
        raise CommandError(f"{' and '.join(missing)} not found; on Debian: apt install {packages}")


@dataclass(frozen=True, slots=True)
class H2load:
    """How h2load is used. Its body and its headers are the same for all requests of a run: it
    can't turn through several.
    """

    log: Path
    """Gets a line for each request."""
    schedule: Path
    """Written for an open loop: when to send what."""
    seconds: float
    rate: int | None
    """Requests a second; None: a closed loop, as many as are answered."""

    def check(self, address: str, body: Path) -> list[str]:
        """Checks sent straight to `unix:/path` or `host:port`."""
        where = "localhost" if address.startswith("unix:") else address
        base = ["--base-uri", address] if address.startswith("unix:") else []
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        return [
            *self._command(f"http://{where}{CHECK_PATH}"), *base, *headers, "--data", str(body)
        ]  # fmt: skip

    def get(self, url: str, token: str) -> list[str]:
        """Requests through Envoy by HTTP/2."""
        return [*self._command(url), "-H", f"authorization: Bearer {token}"]

    def _command(self, url: str) -> list[str]:
        common = [_path("h2load"), "--threads", "1", "--log-file", str(self.log)]
        if self.rate is None:
            return [
                *common,
                *("--clients", str(CLOSED_CONNECTIONS)),
                *("--max-concurrent-streams", str(CLOSED_STREAMS)),
                *("--duration", f"{self.seconds * 1000:.0f}ms", url),
            ]
        arrivals = poisson(self.rate, self.seconds)
        self.schedule.write_text("".join(f"{when:.3f}\t{url}\n" for when in arrivals))
        return [
            *common,
            *("--clients", "1", "--max-concurrent-streams", str(PACED_STREAMS)),
            *("--timing-script-file", str(self.schedule)),
        ]


def poisson(rate: int, seconds: float) -> list[float]:
    """When to send each request, in milliseconds: at random, at about `rate` a second, and the
    same each time. h2load's own `--rps` would send them in bursts, one every 10 ms.
    """
    together = ceil(rate / ARRIVALS_MAX)
    gap = 1000 * together / rate
    dice = random.Random(rate)
    now, arrivals = 0.0, []
    for _ in range(ceil(rate * seconds / together)):
        arrivals += [now] * together
        now += dice.expovariate(1 / (gap - TIMER_SLACK))
    return arrivals


def wrk(url: str, tokens: Path, *, seconds: float) -> list[str]:
    """Requests through Envoy by HTTP/1.1, with the tokens of a file in turn."""
    script = Path(__file__).with_name("tokens.lua")
    return [
        _path("wrk"),
        *("--threads", "1", "--connections", str(WRK_CONNECTIONS)),
        *("--duration", f"{ceil(seconds)}s", "--timeout", "10s"),
        *("--script", str(script), url, "--", str(tokens)),
    ]


def _path(name: str) -> str:
    return shutil.which(name) or name


def read_wrk(output: str) -> Outcome:
    """CommandError: it isn't what `tokens.lua` prints."""
    try:
        said = json.loads(output.strip().splitlines()[-1])
        return Outcome(**said)
    except (ValueError, IndexError, TypeError):
        raise CommandError("wrk's report can't be read") from None


def read_h2load(output: str, log: Path) -> Outcome:
    """CommandError: it isn't what h2load prints. The log has a line for each request: start,
    status, microseconds (h2load(1), `--log-file`).
    """
    finished = re.search(r"finished in ([0-9.]+)(us|ms|s)\b", output)
    counts = re.search(r"(\d+) done, \d+ succeeded, \d+ failed, (\d+) errored", output)
    if finished is None or counts is None:
        raise CommandError("h2load's report can't be read")
    statuses, times = [], []
    for line in log.read_text(encoding="ascii").splitlines():
        _, status, microseconds = line.split("\t")[:3]
        statuses.append(int(status))
        times.append(int(microseconds) / 1000)
    answered = sum(status > 0 for status in statuses)
    return Outcome(
        requests=answered,
        seconds=float(finished[1]) * _SECONDS[finished[2]],
        bad_statuses=sum(status >= 400 for status in statuses),
        errors=len(statuses) - answered + int(counts[2]),
        latency_ms=percentiles(times),
    )


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Nearest rank: each is a time that was really seen."""
    ordered = sorted(times)
    return {
        point: ordered[max(0, ceil(float(point[1:]) / 100 * len(ordered)) - 1)]
        for point in POINTS
        if ordered
    }


def check_tools(scenarios: Sequence[Scenario]) -> None:
    find([scenario.tool for scenario in scenarios])
