"""How `pacer.py` is called, and what it says."""

import json
import sys
from pathlib import Path

from authz.cli.errors import CommandError
from loadtest.outcome import Outcome, histogram, percentiles

SCRIPT = str(Path(__file__).with_name("pacer.py"))


def command(port: int, tokens: Path, *, rate: float, seconds: float) -> list[str]:
    """Requests to Envoy's `port`, with the tokens of a file in turn, `rate` a second."""
    options = ["--rate", f"{rate:.1f}", "--seconds", str(seconds)]
    return [sys.executable, "-P", SCRIPT, str(port), str(tokens), *options]


def read(output: str) -> Outcome:
    """CommandError: it isn't what `pacer.py` prints."""
    try:
        said = json.loads(output)
        times: list[int] = said["latencies_us"]
        return Outcome(
            requests=len(times),
            seconds=said["seconds"],
            bad_statuses=said["bad_statuses"],
            errors=said["due"] - len(times),
            latency_ms=percentiles([time / 1000 for time in times]),
            late_ms=percentiles([time / 1000 for time in said["late_us"]]),
            histogram_us=histogram(times),
        )
    except (ValueError, KeyError, TypeError):
        raise CommandError("pacer.py's report can't be read") from None
