"""wrk: as many requests as go through Envoy, with the tokens of a file in turn."""

import json
import shutil
from math import ceil
from pathlib import Path

from authz.cli.errors import CommandError
from loadtest.outcome import Outcome

PROGRAM = "wrk"
SCRIPT = Path(__file__).with_name("tokens.lua")


def command(
    url: str, tokens: Path, *, connections: int, seconds: float, header_kb: int = 0
) -> list[str]:
    """`header_kb`: KiB of headers that mean nothing, with each request. wrk takes whole seconds."""
    return [
        shutil.which(PROGRAM) or PROGRAM,
        *("--threads", "1", "--connections", str(connections)),
        *("--duration", f"{ceil(seconds)}s", "--timeout", "10s"),
        *("--script", str(SCRIPT), url, "--", str(tokens), str(header_kb)),
    ]


def read(output: str) -> Outcome:
    """CommandError: it isn't what `tokens.lua` prints."""
    try:
        said = json.loads(output.strip().splitlines()[-1])
        return Outcome(**said)
    except (ValueError, IndexError, TypeError):
        raise CommandError("wrk's report can't be read") from None
