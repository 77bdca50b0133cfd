"""The report as tables, for people."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.feed.tables import tables as feed_tables
from loadtest.issuing.tables import table as issuing_table
from loadtest.layout import add_columns, new_table, number
from loadtest.memory import MIB, Reading
from loadtest.outcome import POINTS
from loadtest.report import (
    Report,
    added,
    envoy_cost,
    latency,
    lateness,
    machine,
    ratio,
    server_cost,
    throughput,
)
from loadtest.scenarios import (
    DIRECT_CONNECTIONS,
    DIRECT_STREAMS,
    ENVOY,
    WRK_CONNECTIONS,
    Axis,
    Load,
    Scenario,
)
from loadtest.targets import Target

DISTURBED = 0.05
"""Above this share of the machine, other processes are worth a warning."""


def tables(report: Report, targets: Sequence[Target]) -> RenderableType:
    parts: list[RenderableType] = []
    for scenario in report.selection.scenarios:
        table = _latency if scenario.load is Load.PACED else _throughput
        parts += [table(report, scenario), Text()]
    if steps := report.steps(ENVOY):
        figures = ", ".join(f"{what} {cost:+.1f} µs" for what, cost in steps.items())
        parts += [Text(f"CPU of the sidecar a check, through Envoy: {figures}"), Text()]
    if report.pieces:
        parts += [_pieces(report), Text()]
    for one in feed_tables(report.feed):
        parts += [one, Text()]
    if report.issuing is not None:
        parts += [issuing_table(report.issuing), Text()]
    parts += [_memory(report), Text(), _targets(targets), Text(), *_remarks(report)]
    return Group(*parts)


def _throughput(report: Report, scenario: Scenario) -> Table:
    cpu, rate = scenario.reference.name, (scenario.fastest or scenario.reference).name
    table = new_table(f"{scenario.name}: {scenario.title}\n{_how(scenario)}")
    points = scenario.axis is not None
    for heading in (*([scenario.axis] if scenario.axis else []), ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    headings = ["requests/s", f"x {rate}", "p50 ms", "p99 ms", "server µs", f"x {cpu}"]
    add_columns(table, *headings, "per CPU-s", "Envoy µs", "wrong")
    for entry in report.of(scenario):
        cost = entry.typical(server_cost)
        table.add_row(
            *([number(entry.case.point, ",")] if points else []),
            entry.case.subject.name,
            number(entry.typical(throughput), ",.0f"),
            number(ratio(entry, report.fastest(entry), throughput), ".2f"),
            *(number(entry.typical(latency(point)), ".2f") for point in ("p50", "p99")),
            number(cost, ".1f"),
            number(ratio(entry, report.reference(entry), server_cost), ".3f"),
            number(1e6 / cost if cost else None, ",.0f"),
            number(entry.typical(envoy_cost), ".1f"),
            str(entry.wrong),
            end_section=points and entry.case.subject is scenario.subjects[-1],
        )
    return table


def _latency(report: Report, scenario: Scenario) -> Table:
    maximum = f"{report.maximum:,.0f}" if report.maximum else "?"
    how = f"open loop, Poisson arrivals, from the time due; the maximum is {maximum} requests/s"
    table = new_table(f"{scenario.name}: {scenario.title}\npacer.py, {how}")
    table.add_column(Axis.LOAD, justify="right")
    table.add_column("", no_wrap=True)
    quoted = [point for point in POINTS if point != "p90"]
    add_columns(table, "requests/s", *(f"{point} ms" for point in quoted))
    add_columns(table, *(f"{point} added" for point in quoted), "p99 sent late")
    add_columns(table, "server µs", "Envoy µs", "wrong")
    for entry in report.of(scenario):
        reference = report.reference(entry)
        table.add_row(
            str(entry.case.point),
            entry.case.subject.name,
            number(entry.typical(throughput), ",.0f"),
            *(number(entry.typical(latency(point)), ".2f") for point in quoted),
            *(number(added(entry, reference, latency(point)), "+.2f") for point in quoted),
            number(entry.typical(lateness("p99")), ".2f"),
            number(entry.typical(server_cost), ".1f"),
            number(entry.typical(envoy_cost), ".1f"),
            str(entry.wrong),
            end_section=entry.case.subject is scenario.subjects[-1],
        )
    return table


def _how(scenario: Scenario) -> str:
    match scenario.load, scenario.axis:
        case Load.SENDER, _:
            return "sender.py, closed loop: 1 connection x 50 streams, HS256"
        case Load.ENVOY, Axis.CONNECTIONS:
            return "wrk, closed loop: as much as goes"
        case Load.ENVOY, _:
            return f"wrk, closed loop: {WRK_CONNECTIONS} connections, as much as goes"
        case _, Axis.CONNECTIONS:
            in_flight = DIRECT_CONNECTIONS * DIRECT_STREAMS
            return f"h2load, closed loop: {in_flight} requests in flight, at least one a connection"
        case _:
            connections = f"{DIRECT_CONNECTIONS} connections x {DIRECT_STREAMS} streams"
            return f"h2load, closed loop: {connections}, as much as goes"


def _pieces(report: Report) -> Table:
    table = new_table("pieces: single steps, in one process, without a server")
    table.add_column("")
    add_columns(table, "figure")
    for what, figure in report.pieces.items():
        shown = f"{figure:,.2f}" if isinstance(figure, float) else str(figure)
        table.add_row(what, shown)
    return table


def _memory(report: Report) -> Table:
    table = new_table("memory, in MiB")
    table.add_column("")
    add_columns(table, "RSS", "PSS", "USS")

    def add(what: str, one: Reading) -> None:
        table.add_row(what, *(f"{size / MIB:.1f}" for size in (one.rss, one.pss, one.uss)))

    memory = report.memory
    for server, reading in memory.rest.items():
        add(f"{server}, at rest", reading)
    if memory.full:
        add(f"{memory.cached:,} tokens cached", memory.full)
    for reading in memory.readings[-1:]:
        add(f"after {reading.checks:,} checks more", reading)
    return table


def _targets(targets: Sequence[Target]) -> Table:
    table = new_table("targets")
    table.add_column("")
    add_columns(table, "limit", "figure", "met")
    verdicts = {True: "yes", False: "[bold red]no[/]", None: "not measured"}
    for one in targets:
        sign = "≤" if one.sense == "at most" else "≥"
        figure = "-" if one.figure is None else f"{one.figure:.3g} {one.unit}"
        table.add_row(one.what, f"{sign} {one.limit:g} {one.unit}", figure, verdicts[one.met])
    return table


def _remarks(report: Report) -> list[Text]:
    facts = machine()
    rounds, seconds = report.options["rounds"], report.options["seconds"]
    remarks = [
        Text(
            f"{facts['cores']} cores of {facts['processor']}, Python {facts['python']}; "
            f"median of {rounds} interleaved rounds of {seconds:g} s"
        )
    ]
    if report.others > DISTURBED:
        warning = (
            f"Other processes used up to {report.others:.0%} of the machine meanwhile: trust the "
            "ratios more than the figures, and repeat it when the machine is quiet."
        )
        remarks.append(Text(warning, style="yellow"))
    if report.wrong:
        names = [entry.name for entry in report.entries if entry.wrong]
        names += ["memory"] if report.memory.wrong else []
        names += ["the feed"] if report.feed.wrong else []
        names += ["issuing"] if report.issuing and report.issuing.wrong else []
        text = (
            f"{report.wrong} wrong or missing answers in {', '.join(names)}: not to be relied on."
        )
        remarks.append(Text(text, "red"))
    return remarks
