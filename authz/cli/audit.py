"""`authz audit`: what was let through without asking the store."""

from pathlib import Path

import click

from authz.audit import chain
from authz.audit.chain import Head
from authz.audit.verify import Verification
from authz.cli.errors import CommandError
from authz.cli.reconcile import reconcile

SHOWN = 20
"""Problems printed; a file of another kind has one in each line."""


def _heads(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[Head, ...]:
    try:
        return tuple(chain.parse_head(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group()
def audit() -> None:
    """Look into the record of what was let through unasked."""


@audit.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="INSTANCE:SEQ:HASH",
    callback=_heads,
    help="A record that must be there, as /status and the log told it. Can be repeated.",
)
def verify(files: tuple[Path, ...], heads: tuple[Head, ...]) -> int:
    """Check that FILES (of one audit, the oldest first) are whole.

    Lines that are torn, changed, removed or out of order are each located. Exit code 0: whole, 1:
    not. Lines cut off at the very end show only against --head, the end of the chain: a sidecar
    tells it as `audit.head` in /status and, when it stops, in its log (event `audit_closed`).
    Lines cut off at the beginning look like older files that were deleted.

    \b
    Example:
      authz audit verify /var/log/authz/audit.jsonl.1 /var/log/authz/audit.jsonl
    """
    verification = Verification(heads)
    for path in files:
        try:
            verification.read(path)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
    verification.finish()
    problems = verification.problems
    for problem in problems[:SHOWN]:
        print(problem)
    if len(problems) > SHOWN:
        print(f"… and {len(problems) - SHOWN} more")
    if verification.begins_late:
        print(f"{files[0]}: {verification.begins_late}; the ones before are not in these files")
    for note in verification.unlinked[:SHOWN]:
        print(f"{note}: the file was new when it started")
    found = f"{len(problems)} problem(s)" if problems else "whole"
    print(
        f"{verification.records} record(s) of {verification.instances} start(s) "
        f"of a sidecar: {found}"
    )
    return 1 if problems else 0


audit.add_command(reconcile)
