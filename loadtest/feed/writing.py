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

REVOKER = "revoker"
FILL_RATE = 2000
"""Revocations a second at the very least, or the filling counts as hung."""
FILL_TIMEOUT = 60.0
"""Seconds beyond that."""


@dataclass(slots=True)
class Revoking:
    """A running `revoker.py`."""

    child: Child
    output: str = ""

    def said(self) -> dict[str, Any]:
        """Once it has ended. CommandError: it can't be read."""
        return scripts.read(self.output)


@contextmanager
def revoking(
    bench: Bench, cluster: Cluster, what: Mapping[str, Any], cores: Cores | None = None
) -> Iterator[Revoking]:
    """`revoker.py`, with what its specification says beside settings and claims; on these cores."""
    claims = bench.mint.template()["claims"]
    what = {"settings": settings(bench, cluster), "template": claims, **what}
    command = scripts.command(bench.folder, REVOKER, what)
    (bench.folder / f"{REVOKER}.out").unlink(missing_ok=True)  # it would be appended to
    with on(cores or bench.pinning.all):
        child = bench.processes.start(REVOKER, command)
    bench.children[REVOKER] = child
    running = Revoking(child)
    try:
        yield running
    finally:
        del bench.children[REVOKER]
        bench.processes.stop(child)
    if child.exit_code != 0:
        raise CommandError(f"{REVOKER} failed: {child.last_words()}")
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
