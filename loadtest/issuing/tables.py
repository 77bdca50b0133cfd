"""What was found of the token service, as a table."""

from statistics import median

from rich.table import Table

from loadtest.issuing.measure import Issuing
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
                *(
                    number(median(turn.latency_ms.get(point, 0.0) for turn in turns), ".1f")
                    for point in ("p50", "p99")
                ),
                number(median(turn.server_us for turn in turns), ",.0f"),
                number(found.to_encode(algorithm, operation), ".1f"),
                str(sum(turn.wrong for turn in turns)),
                end_section=operation == list(operations)[-1],
            )
    return one
