"""One run, from the first process to the last figure."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from authz.cli.errors import CommandError
from loadtest import memory
from loadtest.amounts import Amounts
from loadtest.bench import Bench
from loadtest.feed import cold, lag, million, writes
from loadtest.generators import make_known
from loadtest.issuing import measure as issuing
from loadtest.measure import Sample, measure
from loadtest.report import Entry, Report
from loadtest.scenarios import (
    ENVOY,
    FEED_COLD,
    FEED_LAG,
    FEED_MILLION,
    FEED_WRITES,
    FEEDS,
    ISSUING,
    MEMORY,
    PIECES,
    Case,
    Load,
)
from loadtest.subjects import WARM, Server

WARM_UP = 0.5
"""Seconds of load on each subject before anything counts; wrk makes it a whole one."""
PIECES_TIMEOUT = 120.0
"""Seconds."""
PIECES_CODE = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); from loadtest.pieces import measure_pieces;"
    " json.dump(measure_pieces(), sys.stdout)"
)

Tell = Callable[[str], None]
"""Says what happens next, for whoever watches."""


def steps(report: Report, rounds: int) -> int:
    """How often `tell` will be called."""
    others = report.selection.others
    extra = len({PIECES, MEMORY, *FEEDS, ISSUING} & others) + (MEMORY in others)
    return 2 + extra + _is_paced(report) + len(report.entries) * (rounds + 1)


def run(bench: Bench, report: Report, tell: Tell, amounts: Amounts) -> None:
    """Fill the report. Raises as Bench does."""
    others = report.selection.others
    tell("starting")
    bench.set_up()
    tell("memory at rest")
    report.memory.rest = memory.at_rest(bench, report.selection.servers())
    if PIECES in others:
        tell("single steps")
        report.pieces = _pieces(bench)
    if _is_paced(report):
        tell("the maximum through Envoy")
        report.maximum = _maximum(bench, amounts.seconds)
    _warm_up(bench, report, tell)
    for number in range(1, amounts.rounds + 1):
        for entry in report.entries:
            tell(f"round {number} of {amounts.rounds}: {entry.name}")
            entry.rounds.append(_sample(bench, report, entry, amounts.seconds))
    if MEMORY in others:
        tell(f"memory with {amounts.cached:,} tokens")
        memory.fill(bench, report.memory, amounts.cached)
        tell(f"memory over {amounts.checks:,} checks")
        memory.watch(bench, report.memory, amounts.checks)
    _follow(bench, report, tell, amounts)
    if ISSUING in others:
        tell(ISSUING)
        report.issuing = issuing.measure(bench, rounds=amounts.rounds)


def _follow(bench: Bench, report: Report, tell: Tell, amounts: Amounts) -> None:
    """The scenarios of the feed, each with processes of its own."""
    others, found = report.selection.others, report.feed
    seconds, rounds = amounts.seconds, amounts.rounds
    if FEED_LAG in others:
        tell(f"{FEED_LAG}: {amounts.sidecars} sidecars, {amounts.lag_seconds:g} s")
        found.lag = lag.measure(bench, sidecars=amounts.sidecars, seconds=amounts.lag_seconds)
    if FEED_MILLION in others:
        tell(f"{FEED_MILLION}: {amounts.revocations:,} revocations")
        found.million = million.measure(
            bench, revocations=amounts.revocations, seconds=seconds, rounds=rounds
        )
    if FEED_COLD in others:
        tell(FEED_COLD)
        found.cold = cold.measure(bench, seconds=seconds, rounds=rounds)
    if FEED_WRITES in others:
        tell(FEED_WRITES)
        found.writes = writes.measure(bench, seconds=seconds, rounds=rounds)


def _is_paced(report: Report) -> bool:
    return any(one.load is Load.PACED for one in report.selection.scenarios)


def _maximum(bench: Bench, seconds: float) -> float:
    """Requests a second of `warm` through Envoy. Once before, so that the tokens are known."""
    case = Case(ENVOY, WARM)
    measure(bench, case, seconds=WARM_UP, maximum=0)
    return measure(bench, case, seconds=seconds, maximum=0).requests_per_second


def _warm_up(bench: Bench, report: Report, tell: Tell) -> None:
    # With much room, what a server was shown stays: the largest case is enough for all.
    largest: dict[Server | None, Case] = {}
    for entry in report.entries:
        case = entry.case
        if case.scenario.load is Load.SENDER and case.subject.server is Server.LARGE:
            known = largest.setdefault(case.subject.server, case)
            largest[case.subject.server] = max(known, case, key=lambda one: one.point or 0)
    for entry in report.entries:
        tell(f"warming up {entry.name}")
        if entry.case in largest.values():
            make_known(bench, entry.case)
        entry.warm_up = _sample(bench, report, entry, WARM_UP)


def _sample(bench: Bench, report: Report, entry: Entry, seconds: float) -> Sample:
    case = entry.case
    if case.scenario.load is Load.SENDER and case.subject.server is not Server.LARGE:
        make_known(bench, case)
    maximum = report.maximum or 0
    return measure(bench, case, seconds=seconds, maximum=maximum, first=entry.answered)


def _pieces(bench: Bench) -> dict[str, Any]:
    """CommandError: `pieces.py` failed, or isn't there."""
    repository = str(Path(__file__).parents[1])
    command = [sys.executable, "-P", "-c", PIECES_CODE, repository]
    output = bench.load(command, PIECES_TIMEOUT, direct=False)
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        raise CommandError("pieces.py's report can't be read") from None
    return found
