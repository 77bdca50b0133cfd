"""`feed-million`: what many live revocations cost a sidecar: to read them, and to know them."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from authz.cli.errors import CommandError
from authz.observe import names
from loadtest import memory
from loadtest.bench import LIVE, Bench
from loadtest.cores import cpu_seconds
from loadtest.feed import scripts
from loadtest.feed.cost import Cost, Mark, milliseconds, never_seen, of_tokens, warm
from loadtest.feed.rig import LIVE_TIMEOUT, Rig, Sidecar
from loadtest.feed.writing import fill
from loadtest.generators import EXTRA_TIME
from loadtest.h2load import CHECK_PATH
from loadtest.memory import Reading

HOURS = 24.0
"""Over which the expiries are spread: the more hours, the more filters there are to ask."""
TRICKLE = 100.0
"""Checks a second while the sidecar reads, and as long after."""
CALM_SECONDS = 5.0
"""Of the same when it has read all."""
POLL = 0.1
"""Seconds between two looks at whether it has."""
FRESH = 1_000_000
"""Numbers of tokens that no other round uses."""
CUTOFFS_TIMEOUT = 120.0
"""Seconds."""


@dataclass(slots=True)
class Million:
    """Times are in milliseconds, by the points of `percentiles` and `max`."""

    revocations: int
    hours: float
    fill_seconds: float = 0.0
    start_seconds: float = 0.0
    """From the start of the process until it knew all of them."""
    empty_start_seconds: float = 0.0
    """The same where there were none."""
    sync_seconds: float = 0.0
    """Of which it read for so long: what `feed_synced` says, of the slowest node."""
    sync_cpu_seconds: float = 0.0
    """CPU time of the process until then, less that of the one that had nothing to read."""
    filter_bytes: int = 0
    filter_entries: int = 0
    filter_hours: int = 0
    empty: Reading | None = None
    """Memory without any revocation."""
    full: Reading | None = None
    """And with all of them."""
    peak_rss: int = 0
    """While it read."""
    disturbed_ms: dict[str, float] = field(default_factory=dict)
    """Latency of checks while it read."""
    calm_ms: dict[str, float] = field(default_factory=dict)
    """And afterwards."""
    late_ms: dict[str, float] = field(default_factory=dict)
    """How late `trickle.py` itself was, in both."""
    loop_lag: dict[float, int] = field(default_factory=dict)
    """`authz_event_loop_lag_seconds` until then: how many were at most so many seconds, and more
    than the next smaller bound."""
    warm_full: list[Cost] = field(default_factory=list)
    """Of tokens that are known, by round."""
    warm_empty: list[Cost] = field(default_factory=list)
    cold_full: list[Cost] = field(default_factory=list)
    """Of tokens never seen (HS256), each of which is looked for in the filters."""
    cold_empty: list[Cost] = field(default_factory=list)
    cutoffs: dict[str, int] = field(default_factory=dict)
    """As many cut-offs in a process of its own: `users`, `bytes` of the tables, `rss` added."""
    wrong: int = 0
    others: float = 0.0


def measure(bench: Bench, *, revocations: int, seconds: float, rounds: int) -> Million:
    """Raises as Bench does."""
    found = Million(revocations, HOURS)
    rig = Rig(bench)
    mark = Mark.now(bench)
    with rig.cluster("none") as none, rig.cluster("many") as many:
        found.fill_seconds = fill(bench, many, revocations, HOURS)
        core = bench.pinning.server
        with rig.sidecars({"empty": {"store": none.store}}, core) as (empty,):
            start = _Start(bench, empty)
            found.empty_start_seconds, idle_cpu = start.seconds, start.cpu_seconds
            with rig.sidecars({"full": {"store": many.store}}, core) as (full,):
                start = _Start(bench, full)
                found.start_seconds = start.seconds
                found.sync_cpu_seconds = start.cpu_seconds - idle_cpu
                found.disturbed_ms, found.peak_rss = start.latency_ms, start.peak_rss
                found.wrong += start.errors
                _look(bench, found, empty, full)
                for number in range(rounds + 1):  # the first one warms up
                    _round(bench, found, empty, full, seconds, number)
    found.others = mark.others(bench)
    found.cutoffs = _cutoffs(bench, revocations)
    return found


class _Start:
    """A sidecar that was just started, and checks meanwhile, until it knows all revocations."""

    def __init__(self, bench: Bench, sidecar: Sidecar) -> None:
        self.seconds = 0.0
        """Since the process began."""
        self.cpu_seconds = 0.0
        self.peak_rss = 0
        self._sidecar = sidecar
        self._until = bench.folder / f"{sidecar.name}.live"
        thread = threading.Thread(target=self._watch, name="watcher")
        thread.start()
        try:
            said = trickle(bench, sidecar, LIVE_TIMEOUT, self._until)
        finally:
            self._until.touch()
            thread.join()
        if not self.seconds:
            raise CommandError(f"{sidecar.name} did not know all within {LIVE_TIMEOUT:g} s")
        self.latency_ms, self.errors = milliseconds(said["latencies_us"]), said["errors"]

    def _watch(self) -> None:
        pid = self._sidecar.child.pid
        # A sidecar that is gone is noticed, and reported, by who waits for the checks.
        with suppress(CommandError, ProcessLookupError, httpx.HTTPError):
            while not self._until.exists():
                self.peak_rss = max(self.peak_rss, memory.read(pid).rss)
                if self._sidecar.is_live():
                    self.cpu_seconds = cpu_seconds(pid)
                    self.seconds = time.monotonic() - self._sidecar.started
                    self._until.touch()
                time.sleep(POLL)


def trickle(bench: Bench, sidecar: Sidecar, seconds: float, until: Path) -> dict[str, Any]:
    """What `trickle.py` says of so many seconds, or until the file is there."""
    what = {
        "socket": str(sidecar.socket),
        "path": CHECK_PATH,
        "body": str(bench.body_file(LIVE)),
        "rate": TRICKLE,
        "seconds": seconds,
        "until": str(until),
    }
    command = scripts.command(bench.folder, "trickle", what)
    return scripts.read(bench.load(command, seconds + EXTRA_TIME, direct=True))


def _look(bench: Bench, found: Million, empty: Sidecar, full: Sidecar) -> None:
    """At what the sidecar says of itself when it has read all, and at checks from then on."""
    feed = full.feed
    found.filter_bytes = feed["filter"]["bytes"]
    found.filter_entries = feed["filter"]["entries"]
    found.filter_hours = feed["filter"]["hours"]
    found.sync_seconds = max(line["seconds"] for line in full.logged("feed_synced"))
    found.loop_lag = full.histogram(names.LOOP_LAG.name)
    calm = trickle(bench, full, CALM_SECONDS, bench.folder / "never")
    found.calm_ms, found.late_ms = (
        milliseconds(calm[times]) for times in ("latencies_us", "late_us")
    )
    found.wrong += calm["errors"]
    found.empty, found.full = (memory.read(one.child.pid) for one in (empty, full))


def _round(
    bench: Bench, found: Million, empty: Sidecar, full: Sidecar, seconds: float, number: int
) -> None:
    """The same of both, one after the other; each round begins with the other one."""
    pairs = [
        (empty, found.warm_empty, found.cold_empty),
        (full, found.warm_full, found.cold_full),
    ]
    for sidecar, warm_costs, cold_costs in pairs[:: 1 if number % 2 else -1]:
        warm_cost = warm(bench, sidecar, seconds)
        fresh = never_seen(bench, number * FRESH)
        cold_cost = of_tokens(bench, sidecar, seconds, fresh)
        found.wrong += warm_cost.wrong + cold_cost.wrong
        if number:
            warm_costs.append(warm_cost)
            cold_costs.append(cold_cost)


def _cutoffs(bench: Bench, count: int) -> dict[str, int]:
    """Of a process of its own. CommandError: that failed."""
    command = scripts.command(bench.folder, "cutoffs", {"count": count})
    return scripts.read(bench.load(command, CUTOFFS_TIMEOUT, direct=True))
