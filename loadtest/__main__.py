"""`make loadtest`, or from the top of the repository: `.venv/bin/python -m loadtest`."""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from authz.cli.errors import CommandError
from authz.demo.signals import Signals, StopRequestedError
from authz.demo.stage import Programs, find_programs
from authz.settings import ENV_PREFIX
from loadtest import h2load, plots, wrk
from loadtest.amounts import Amounts
from loadtest.bench import Bench
from loadtest.generators import DEFAULT_ROOM
from loadtest.report import Report
from loadtest.run import run, steps
from loadtest.scenarios import FEED_MILLION, FEED_WRITES, Load, Selection, names, select
from loadtest.tables import tables
from loadtest.targets import targets

HERE = Path(__file__).parent
RESULTS = HERE / "results"
FIGURES = HERE / "figures"
DEBIAN_PACKAGES = {h2load.PROGRAM: "nghttp2-client", wrk.PROGRAM: "wrk"}
WIDTH = 170
"""Columns of a table that doesn't go to a terminal."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=1,
    show_default=True,
    help="How long each subject is under load, in each round.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 50),
    default=4,
    show_default=True,
    help="How often: A B C, A B C, ... so that a disturbance hits all of them.",
)
@click.option(
    "--cached",
    type=click.IntRange(1, DEFAULT_ROOM),
    default=DEFAULT_ROOM,
    show_default=True,
    help="With how many tokens cached memory is looked at.",
)
@click.option(
    "--checks",
    type=click.IntRange(1, 1_000_000_000),
    default=5_000_000,
    show_default=True,
    help="Over how many checks memory is watched.",
)
@click.option(
    "--sidecars",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="How many follow the revocations of feed-lag.",
)
@click.option(
    "--lag-seconds",
    type=click.IntRange(1, 600),
    default=60,
    show_default=True,
    help="For how long feed-lag has revocations.",
)
@click.option(
    "--revocations",
    type=click.IntRange(1, 10_000_000),
    default=1_000_000,
    show_default=True,
    help="How many feed-million knows.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="SCENARIO[/SUBJECT][@POINT]",
    help=f"Only this; may be repeated. Scenarios: {', '.join(names())}.",
)
@click.option("--all", "everything", is_flag=True, help="Also the scenarios that take longer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--figures", is_flag=True, help="Also draw the plots that README.md shows.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default="loadtest/results",
    help="The folder that gets the JSON and the plots.",
)
def loadtest(
    seconds: int,
    rounds: int,
    cached: int,
    checks: int,
    sidecars: int,
    lag_seconds: int,
    revocations: int,
    only: tuple[str, ...],
    everything: bool,
    as_json: bool,
    figures: bool,
    results: Path,
) -> None:
    """Put load on the sidecar, directly and through Envoy, beside servers that only answer OK.

    \b
    Example:
      make loadtest
      make loadtest ARGS=--all
      make loadtest ARGS="--only envoy/warm --only unix --seconds 5 --rounds 5"
    """
    if everything and only:
        raise click.UsageError("--all and --only: give one of them")
    selection = select(only, everything=everything)
    programs = _find_programs(selection)
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        del os.environ[name]  # meant for another sidecar
    report = Report(selection, seconds=seconds, rounds=rounds)
    amounts = Amounts(seconds, rounds, cached, checks, sidecars, lag_seconds, revocations)
    _run(report, programs, amounts)
    found = targets(report)
    result = report.as_json() | {"targets": [one.as_json() for one in found]}
    path = _keep(result, results)
    drawn = plots.draw(result, path.with_suffix(""))
    if figures:
        drawn += plots.draw(result, FIGURES)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        out = Console()
        if not out.is_terminal:
            out = Console(width=WIDTH)
        out.print(tables(report, found))
        out.print(f"JSON: {path}", soft_wrap=True, highlight=False)
        for plot in drawn:
            out.print(f"plot: {plot}", soft_wrap=True, highlight=False)
    if report.wrong:
        raise CommandError(f"{report.wrong} requests were answered wrongly or not at all")


def _find_programs(selection: Selection) -> Programs:
    """CommandError: one is missing; it names Debian's package."""
    if sys.platform != "linux":
        raise CommandError("the load test reads CPU times from /proc, so it runs on Linux only")
    loads = {one.load for one in selection.scenarios}
    by_h2load = {Load.UNIX, Load.TCP} & loads or {FEED_MILLION, FEED_WRITES} & selection.others
    tools = {h2load.PROGRAM} if by_h2load else set()
    # An open loop needs the maximum, which wrk finds.
    tools |= {wrk.PROGRAM} if {Load.ENVOY, Load.PACED} & loads else set()
    missing = sorted(name for name in tools if shutil.which(name) is None)
    if missing:
        packages = " ".join(DEBIAN_PACKAGES[name] for name in missing)
        raise CommandError(f"{' and '.join(missing)} not found; on Debian: apt install {packages}")
    return find_programs()


def _run(report: Report, programs: Programs, amounts: Amounts) -> None:
    folder = Path(tempfile.mkdtemp(prefix="authz-load-"))
    with Signals() as signals:
        try:
            with (
                Bench(folder, report.selection.servers(), programs, signals) as bench,
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TimeElapsedColumn(),
                    console=Console(stderr=True),
                    transient=True,
                ) as progress,
            ):
                task = progress.add_task("", total=steps(report, amounts.rounds), completed=-1)

                def tell(what: str) -> None:
                    progress.update(task, description=what, advance=1)

                run(bench, report, tell, amounts)
        except StopRequestedError:
            raise KeyboardInterrupt from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _keep(result: dict[str, Any], folder: Path) -> Path:
    """CommandError: the folder can't be written to."""
    path = folder / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--results {folder}: {error.strerror}") from None
    return path


def main() -> NoReturn:
    """Exit codes: 0 done, 1 a part failed or answers were wrong, 2 wrong usage, 130 interrupted."""
    try:
        loadtest(standalone_mode=False)
    except click.UsageError as error:
        _fail(error.format_message(), 2)
    except CommandError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; everything it started is stopped", 130)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"loadtest: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
