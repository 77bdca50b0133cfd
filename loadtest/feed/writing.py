"""The processes that write revocations while something else is measured."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from authz.cli.errors import CommandError
from authz.demo.processes import Child
from loadtest.bench import Bench
from loadtest.cores import Cores, on
from loadtest.feed import scripts
from loadtest.feed.rig import Cluster
from loadtest.subjects import Server

REVOKER, FLOOD = "revoker", "flood"
FILL_RATE = 2000
"""Revocations a second at the very least, or the filling counts as hung."""
FILL_TIMEOUT = 60.0
"""Seconds beyond that."""


@dataclass(slots=True)
class Revoking:
    """A running `revoker.py` or `flood.py`."""

    child: Child
    output: str = ""

    def said(self) -> dict[str, Any]:
        """Once it has ended. CommandError: it can't be read."""
        return scripts.read(self.output)


@contextmanager
def writing(
    bench: Bench,
    cluster: Cluster,
    program: str,
    what: Mapping[str, Any],
    cores: Cores | None = None,
) -> Iterator[Revoking]:
    """`REVOKER` or `FLOOD`, with what its specification says beside settings and claims; on these
    cores, or where the scheduler likes. CommandError: it failed.
    """
    claims = bench.mint.template()["claims"]
    what = {"settings": settings(bench, cluster), "template": claims, **what}
    command = scripts.command(bench.folder, program, what)
    (bench.folder / f"{program}.out").unlink(missing_ok=True)  # it would be appended to
    with on(cores or bench.pinning.all):
        child = bench.processes.start(program, command)
    bench.children[program] = child
    running = Revoking(child)
    try:
        yield running
    finally:
        del bench.children[program]
        bench.processes.stop(child)
    if child.exit_code != 0:
        raise CommandError(f"{program} failed: {child.last_words()}")
    running.output = child.output.read_text(encoding="utf-8")


def fill(bench: Bench, cluster: Cluster, count: int, hours: float) -> float:
    """Write so many revocations, which expire within so many hours. The seconds that it took.
    CommandError: some could not be written.
    """
    what = {"settings": settings(bench, cluster), "count": count, "hours": hours}
    command = scripts.command(bench.folder, "filler", what)
    output = bench.processes.run(command, timeout=FILL_TIMEOUT + count / FILL_RATE)
    seconds: float = scripts.read(output)["seconds"]
    return seconds


def settings(bench: Bench, cluster: Cluster) -> dict[str, Any]:
    """Of whoever writes to it."""
    return {**bench.servers.values(Server.MEMORY), "store": cluster.store}
