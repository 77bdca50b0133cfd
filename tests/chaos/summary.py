"""The outcomes as a table, for people."""

import math
from collections.abc import Sequence

from chaos.oracle import Promises
from chaos.stage import Outcome
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

HEADINGS = ("s", "revoked", "failed", "checks", "live", "settled", "wrong", "fail-opens", "tokens")

LEGEND = """\
s: seconds of the whole scenario. revoked: acknowledged revocations in it; failed: attempts that \
were not.
live: how long after the recovery the last feed was live again.
settled: how long after the recovery the last revoked token passed somewhere. wrong: refusals of \
tokens that nobody revoked.
fail-opens: answers = on record. tokens: failed open for = reconciled."""


def table(outcomes: Sequence[Outcome], promises: Promises, seed: int) -> RenderableType:
    return Group(
        _table(outcomes, promises, seed), Text(LEGEND, style="dim"), Text(), *_reasons(outcomes)
    )


def _table(outcomes: Sequence[Outcome], promises: Promises, seed: int) -> Table:
    follows = "which follow the feed" if promises.feed else "which only look up"
    grid = Table(title=f"chaos, seed {seed}, against sidecars {follows}", title_justify="left")
    grid.add_column("fault", no_wrap=True)
    for heading in HEADINGS:
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        grid.add_row(outcome.fault, *_figures(outcome), verdict(outcome))
    return grid


def _figures(outcome: Outcome) -> list[str]:
    if outcome.skipped or not outcome.checks:
        return [""] * len(HEADINGS)
    return [
        f"{outcome.seconds:.0f}",
        f"{outcome.acknowledged:,}",
        f"{outcome.failed:,}",
        f"{outcome.checks:,}",
        _after(outcome.live),
        "at once" if outcome.settled is None else _after(outcome.settled),
        str(outcome.wrong),
        f"{outcome.fail_opens:,} = {outcome.recorded:,}",
        f"{outcome.through:,} = {outcome.reconciled:,}",
    ]


def _after(seconds: float) -> str:
    return f"{max(0, seconds) * 1000:.0f} ms" if math.isfinite(seconds) else "never"


def verdict(outcome: Outcome) -> Text:
    if outcome.skipped:
        return Text("not run", style="yellow")
    if outcome.passed:
        return Text("all held", style="green")
    if outcome.findings:
        return Text("BROKEN", style="bold red")
    return Text("proves nothing", style="red")


def _reasons(outcomes: Sequence[Outcome]) -> list[Text]:
    return [
        Text(f"{outcome.fault}: {what}", style="red")
        for outcome in outcomes
        for what in reasons(outcome)
    ]


def reasons(outcome: Outcome) -> list[str]:
    """What is wrong, a line each."""
    return [*map(str, outcome.findings), *filter(None, [outcome.error, outcome.skipped])]
