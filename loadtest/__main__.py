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
from authz.demo.stage import find_programs
from authz.settings import ENV_PREFIX
from loadtest.bench import Bench
from loadtest.cases import DENIED, SCENARIOS, Scenario, Server, select
from loadtest.measure import measure
from loadtest.report import Report
from loadtest.tools import check_tools

RESULTS = Path(__file__).with_name("results")
WARM_UP = 0.5
"""Seconds of load on each subject before anything counts; wrk makes it a whole one."""
WIDTH = 120
"""Columns of a table that doesn't go to a terminal."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=3,
    show_default=True,
    help="How long each subject is under load, in each round.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 50),
    default=3,
    show_default=True,
    help="How often: A B C, A B C, ... so that a disturbance hits all of them.",
)
@click.option(
    "--rate",
    type=click.IntRange(10, 100_000),
    default=1000,
    show_default=True,
    help="Requests a second in the scenarios with an open loop (…-paced).",
)
@click.option(
    "--only",
    multiple=True,
    metavar="SCENARIO[/SUBJECT]",
    help=f"Only this; may be repeated. Scenarios: {', '.join(one.name for one in SCENARIOS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default="loadtest/results",
    help="The folder that gets the JSON.",
)
def loadtest(
    seconds: int, rounds: int, rate: int, only: tuple[str, ...], as_json: bool, results: Path
) -> None:
    """Put load on the sidecar, directly and through Envoy, beside a server that only answers OK.

    \b
    Example:
      make loadtest
      make loadtest ARGS="--only envoy/warm --only unix --seconds 5 --rounds 5"
    """
    scenarios = select(only)
    check_tools(scenarios)
    programs = find_programs()
    for name in [name for name in os.environ if name.upper().startswith(ENV_PREFIX)]:
        del os.environ[name]  # meant for another sidecar
    report = Report(scenarios, seconds=seconds, rounds=rounds, rate=rate)
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="authz-load-"))
    with Signals() as signals:
        try:
            with (
                Bench(folder, _servers(scenarios), programs, signals) as bench,
                Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TimeElapsedColumn(),
                    console=console,
                    transient=True,
                ) as progress,
            ):
                _run(bench, report, progress, seconds=seconds, rounds=rounds, rate=rate)
        except StopRequestedError:
            raise KeyboardInterrupt from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    path = _keep(report.as_json(), results)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        out = Console()
        if not out.is_terminal:
            out = Console(width=WIDTH)
        out.print(report.as_tables())
        out.print(f"JSON: {path}", soft_wrap=True, highlight=False)
    if report.wrong:
        raise CommandError(f"{report.wrong} requests were answered wrongly or not at all")


def _servers(scenarios: tuple[Scenario, ...]) -> list[Server]:
    wanted = {subject.server for one in scenarios for subject in one.subjects}
    return [server for server in Server if server in wanted]


def _run(
    bench: Bench, report: Report, progress: Progress, *, seconds: int, rounds: int, rate: int
) -> None:
    task = progress.add_task("starting", total=len(report.entries) * (rounds + 1))
    servers = _servers(tuple(entry.scenario for entry in report.entries))
    verdicts = {entry.subject.verdict for entry in report.entries}
    bench.make_tokens(revoked=DENIED in verdicts)
    if {Server.REDIS, Server.COLD_REDIS} & set(servers):
        bench.start_valkey()
    if DENIED in verdicts:
        bench.revoke()
    bench.start_envoy()
    bench.record_bodies()
    bench.start_servers()
    for entry in report.entries:
        progress.update(task, description=f"warming up {entry.name}")
        measure(bench, entry.scenario, entry.subject, seconds=WARM_UP, rate=rate)
        progress.advance(task)
    for number in range(1, rounds + 1):
        for entry in report.entries:
            progress.update(task, description=f"round {number} of {rounds}: {entry.name}")
            sample = measure(bench, entry.scenario, entry.subject, seconds=seconds, rate=rate)
            entry.rounds.append(sample)
            progress.advance(task)


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
