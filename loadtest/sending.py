"""How `sender.py` is called, and what it says."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authz.cli.errors import CommandError
from loadtest.bench import LIVE, SECRET, Bench
from loadtest.h2load import CHECK_PATH
from loadtest.outcome import Outcome
from loadtest.subjects import Server

SCRIPT = str(Path(__file__).with_name("sender.py"))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Different tokens in turn."""

    count: int
    first: int = 0
    """Where to begin."""
    fresh_every: int = 0
    """Every so many-th is instead one that was never seen; 0: none."""
    fresh_first: int = 0
    """The number of the first of those."""
    file: str | None = None
    """Of the mint, signed with RSA; None: made meanwhile, with a secret. A file has its own count
    and no fresh ones.
    """


def command(
    bench: Bench,
    server: Server,
    tokens: Tokens,
    *,
    seconds: float | None = None,
    checks: int | None = None,
) -> list[str]:
    """Checks straight to the server, for so long or so many, whichever is reached first."""
    kind = SECRET if tokens.file is None else LIVE
    what: dict[str, Any] = {
        "address": bench.address(server),
        "path": CHECK_PATH,
        "body": str(bench.body_file(kind)),
        "token": bench.token(kind),
    }
    if tokens.file is not None:
        what["tokens"] = str(bench.mint.file(tokens.file))
    else:
        what |= {"template": bench.mint.template(), "first": tokens.first, "count": tokens.count}
        what |= {"fresh_every": tokens.fresh_every, "fresh_first": tokens.fresh_first}
    what |= {} if seconds is None else {"seconds": seconds}
    what |= {} if checks is None else {"checks": checks}
    specification = bench.folder / "sender.json"
    specification.write_text(json.dumps(what), encoding="utf-8")
    return [sys.executable, "-P", SCRIPT, str(specification)]


def read(output: str) -> Outcome:
    """CommandError: it isn't what `sender.py` prints."""
    try:
        return Outcome(**json.loads(output))
    except (ValueError, TypeError):
        raise CommandError("sender.py's report can't be read") from None
