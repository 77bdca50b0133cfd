"""How the programs of this folder, and of `issuing/`, are called: each in a process of its own,
with a specification.

They import what a sidecar has, so they can't be scripts by their path alone.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from authz.cli.errors import CommandError

REPOSITORY = Path(__file__).parents[2]


def command(
    folder: Path, name: str, what: Mapping[str, Any], *, package: str = "feed"
) -> list[str]:
    """`loadtest.PACKAGE.NAME` with this specification, which is written to the folder."""
    specification = folder / f"{name}.json"
    specification.write_text(json.dumps(what), encoding="utf-8")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        f" from loadtest.{package}.{name} import main; main()"
    )
    return [sys.executable, "-P", "-c", code, str(REPOSITORY), str(specification)]


def specification() -> dict[str, Any]:
    """For the program: what it was called with."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return found


def read(output: str) -> dict[str, Any]:
    """What a program said. CommandError: that can't be read."""
    try:
        said: dict[str, Any] = json.loads(output)
    except ValueError:
        raise CommandError(f"the report of a program can't be read: {output[:60]!r}") from None
    return said
