"""`authz audit`: what was let through without asking the store."""

from pathlib import Path

import click

from authz.audit.verify import Verification
from authz.cli.errors import CommandError

SHOWN = 20
"""Problems printed; a file of another kind has one in each line."""


@click.group()
def audit() -> None:
    """Look into the record of fail-open decisions."""


@audit.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
def verify(files: tuple[Path, ...]) -> int:
    """Check that FILES (of one audit, the oldest first) are whole.

    Torn lines, fields that are missing or of the wrong type, and records missing between two others
    are each located. Exit code 0: whole, 1: not. Lines cut off at the end can't be told, and lines
    cut off at the beginning look like older files that were deleted.

    \b
    Example:
      authz audit verify /var/log/authz/audit.jsonl.1 /var/log/authz/audit.jsonl
    """
    verification = Verification()
    for path in files:
        try:
            verification.read(path)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
    problems = verification.problems
    for problem in problems[:SHOWN]:
        print(problem)
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN} more")
    if verification.begins_late:
        print(f"{files[0]}: {verification.begins_late}; the ones before are not in these files")
    found = f"{len(problems)} problem(s)" if problems else "whole"
    print(
        f"{verification.records} record(s) of {verification.instances} start(s) "
        f"of a sidecar: {found}"
    )
    return 1 if problems else 0
