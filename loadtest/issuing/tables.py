"""What was found of the token service, as a table."""

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from loadtest.issuing.measure import Issuing, Turn
from loadtest.layout import add_columns, new_table, number


def table(found: Issuing) -> Table:
    bare = ", ".join(
        f"{algorithm} {median(costs):.0f} µs" for algorithm, costs in found.encode_us.items()
    )
    one = new_table(
        "issuing: the token service, cluster of three without replicas, "
        f"closed loop: {found.connections} connections\na bare jwt.encode: {bare}"
    )
    one.add_column("")
    one.add_column("")
    add_columns(one, "per second", "p50 ms", "p99 ms", "server µs", "x jwt.encode", "wrong")
    for algorithm, operations in found.turns.items():
        for operation, turns in operations.items():
            one.add_row(
                algorithm,
                operation,
                number(median(turn.per_second for turn in turns), ",.0f"),
                *(number(_latency(turns, point), ".1f") for point in ("p50", "p99")),
                number(median(turn.server_us for turn in turns), ",.0f"),
                number(found.to_encode(algorithm, operation), ".1f"),
                str(sum(turn.wrong for turn in turns)),
                end_section=operation == list(operations)[-1],
            )
    return one


def _latency(turns: Sequence[Turn], point: str) -> float | None:
    found = [turn.latency_ms[point] for turn in turns if point in turn.latency_ms]
    return median(found) if found else None
