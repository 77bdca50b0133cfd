"""h2load (nghttp2): as many checks as go, straight to a server, each with the same body."""

import re
import shutil
from pathlib import Path

from authz.cli.errors import CommandError
from authz.envoy_api.service import AUTHORIZATION_SERVICE
from loadtest.outcome import Outcome, percentiles

PROGRAM = "h2load"
CHECK_PATH = f"/{AUTHORIZATION_SERVICE}/Check"
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def command(
    address: str, body: Path, log: Path, *, connections: int, streams: int, seconds: float
) -> list[str]:
    """Checks to `unix:/path` or `host:port`, `connections` times `streams` of them in flight.
    `log` gets a line for each.
    """
    where = "localhost" if address.startswith("unix:") else address
    base = ["--base-uri", address] if address.startswith("unix:") else []
    return [
        shutil.which(PROGRAM) or PROGRAM,
        *("--threads", "1", "--log-file", str(log)),
        *("--clients", str(connections), "--max-concurrent-streams", str(streams)),
        *("--duration", f"{seconds * 1000:.0f}ms", f"http://{where}{CHECK_PATH}"),
        *base,
        *("-H", "content-type: application/grpc", "-H", "te: trailers", "--data", str(body)),
    ]


def read(output: str, log: Path) -> Outcome:
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
