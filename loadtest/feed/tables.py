"""What was found of the feed, for people."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from rich.table import Table

from loadtest.feed.cold import MEMORY, Cold
from loadtest.feed.cost import Cost, rate, ratio, server
from loadtest.feed.findings import Findings
from loadtest.feed.lag import Lag
from loadtest.feed.million import Million
from loadtest.feed.writes import Writes
from loadtest.layout import add_columns, new_table, number
from loadtest.memory import MIB

QUOTED = ("p50", "p99", "p99.9", "max")
MB = 1e6


def tables(found: Findings) -> Iterator[Table]:
    """One for each scenario that was measured."""
    if found.lag is not None:
        yield _lag(found.lag)
    if found.million is not None:
        yield _million(found.million)
        yield _known(found.million)
    if found.cold is not None:
        yield _cold(found.cold)
    if found.writes is not None:
        yield _writes(found.writes)


def _lag(lag: Lag) -> Table:
    table = new_table(
        f"feed-lag: {lag.sidecars} sidecars, {lag.rate:g} revocations/s for {lag.seconds:g} s\n"
        f"{lag.revoked:,} revoked, {lag.at_first:.0%} refused when first asked, "
        f"{lag.too_late} too late or never; heard of: {_counts(lag.heard)}"
    )
    table.add_column("ms")
    add_columns(table, *QUOTED)
    for what, times in (
        ("acknowledged until refused", lag.lag_ms),
        ("of which: question sent late", lag.late_ms),
        ("of which: the answer's way", lag.answer_ms),
        ("written until acknowledged", lag.write_ms),
    ):
        table.add_row(what, *(number(times.get(point), ".2f") for point in QUOTED))
    own = [lag.own_within(share) for share in (0.5, 0.99, 0.999, 1.0)]
    shown = (number(None if bound is None else bound * 1000, "g") for bound in own)
    table.add_row("authz_revocation_lag_seconds, at most", *shown)
    return table


def _million(million: Million) -> Table:
    table = new_table(
        f"feed-million: {million.revocations:,} revocations that expire within "
        f"{million.hours:g} hours\nin {million.filter_hours} hours of the filter; written in "
        f"{million.fill_seconds:.1f} s"
    )
    table.add_column("")
    add_columns(table, "figure")
    empty, full = million.empty, million.full
    slow = sum(count for bound, count in million.loop_lag.items() if bound > 0.01)
    rows = {
        "filter": f"{million.filter_bytes / MB:.2f} MB",
        "start until all are known": f"{million.start_seconds:.1f} s",
        "the same with none": f"{million.empty_start_seconds:.1f} s",
        "of which it read": f"{million.sync_seconds:.1f} s",
        "CPU time of it": f"{million.sync_cpu_seconds:.1f} s",
        "RSS with none, with all": " -> ".join(
            f"{one.rss / MIB:.1f}" for one in (empty, full) if one
        )
        + f" MiB (at most {million.peak_rss / MIB:.1f})",
        "a check while it read": _times(million.disturbed_ms),
        "and afterwards": _times(million.calm_ms),
        "event loop over 10 ms late": f"{slow} of {sum(million.loop_lag.values())} times",
        "as many cut-offs": f"{million.cutoffs['bytes'] / MB:.1f} MB, "
        f"RSS +{million.cutoffs['rss'] / MIB:.1f} MiB",
    }
    for what, figure in rows.items():
        table.add_row(what, figure)
    return table


def _known(million: Million) -> Table:
    known = f"{million.revocations:,} known"
    table = new_table(f"feed-million: a check beside {known}, straight to the sidecar")
    _add_costs(
        table,
        {
            "warm, none known": (million.warm_empty, million.warm_empty),
            f"warm, {known}": (million.warm_full, million.warm_empty),
            "cold (HS256), none known": (million.cold_empty, million.cold_empty),
            f"cold (HS256), {known}": (million.cold_full, million.cold_empty),
        },
        "x none",
    )
    return table


def _cold(cold: Cold) -> Table:
    table = new_table(
        "feed-cold: tokens never seen (RS256), straight to the sidecar, cluster of three\n"
        "sender.py, closed loop: 1 connection x 50 streams"
    )
    memory = cold.costs[MEMORY]
    _add_costs(
        table,
        {kind: (costs, memory) for kind, costs in cold.costs.items()},
        f"x {MEMORY}",
        extra=("commands a check", lambda kind: number(cold.per_check(kind), "g")),
    )
    return table


def _writes(writes: Writes) -> Table:
    arrived, each = median(writes.arrived), writes.each_us
    core = number(None if each is None else each * writes.rate / 1e6, ".1%")
    table = new_table(
        f"feed-under-writes: warm checks while {arrived:,.0f} revocations/s arrive\n"
        f"h2load, closed loop; a revocation costs the sidecar {number(each, '.0f')} µs, so "
        f"{writes.rate:,.0f}/s {core} of a core"
    )
    _add_costs(
        table,
        {"none arrive": (writes.quiet, writes.quiet), "they arrive": (writes.busy, writes.quiet)},
        "x none",
    )
    return table


def _add_costs(
    table: Table,
    rows: Mapping[str, tuple[Sequence[Cost], Sequence[Cost]]],
    against: str,
    extra: tuple[str, Callable[[str], str]] | None = None,
) -> None:
    """By name: the costs, and what they are compared with."""
    table.add_column("")
    add_columns(table, "requests/s", against, "server µs", against, "wrong")
    if extra is not None:
        add_columns(table, extra[0])
    for name, (costs, others) in rows.items():
        table.add_row(
            name,
            number(median(map(rate, costs)), ",.0f"),
            number(ratio(costs, others, rate), ".2f"),
            number(median(map(server, costs)), ".1f"),
            number(ratio(costs, others, server), ".3f"),
            str(sum(cost.wrong for cost in costs)),
            *([extra[1](name)] if extra is not None else []),
        )


def _times(times: Mapping[str, float]) -> str:
    return " / ".join(number(times.get(point), ".1f") for point in QUOTED) + " ms"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {how}" for how, count in counts.items()) or "nothing"
