"""The memory of a sidecar: at rest, with a full cache of tokens, and over millions of checks."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import httpx

from authz.cli.errors import CommandError
from loadtest.bench import Bench
from loadtest.generators import DEFAULT_ROOM, send
from loadtest.sending import Tokens
from loadtest.subjects import ALLOWED, Server

KIB = 1024
MIB = 1024 * KIB
SETTLING = 2.0
"""Seconds after a start, or after load, until memory is looked at."""
INTERVAL = 1.0
"""Seconds between two readings."""
MANY = "many"
"""The file of tokens that fill the cache."""
KNOWN_TOKENS = DEFAULT_ROOM * 3 // 4
FRESH_EVERY = 100
"""Over millions of checks, most are of tokens that are known, and each hundredth is of one never
seen before, which pushes an old one out: tokens come and go, as they do in a day."""
FRESH_FIRST = 10_000_000
"""Numbers of tokens that nothing else uses."""
PART = 10
"""Growth is from the second tenth of the readings to the last: in the first, caches fill."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes of one process."""

    rss: int
    """Resident, pages that others have too included (`VmRSS`)."""
    pss: int
    """Resident, of shared pages only its part."""
    uss: int
    """Resident, of shared pages nothing: what its end would free."""
    checks: int = 0
    """Answered since the readings began."""
    seconds: float = 0.0


@dataclass(slots=True)
class Memory:
    """What was found; in a quick run only `rest`."""

    rest: dict[str, Reading] = field(default_factory=dict)
    """By server."""
    cached: int = 0
    """Tokens, when the cache was full."""
    full: Reading | None = None
    readings: list[Reading] = field(default_factory=list)
    """One a second over the checks."""
    wrong: int = 0

    @property
    def growth(self) -> int | None:
        """Bytes of RSS over all checks but the first tenth; None where it was too short to say."""
        tenth = len(self.readings) // PART
        if not tenth:
            return None
        early, late = self.readings[tenth : 2 * tenth], self.readings[-tenth:]
        return round(median(one.rss for one in late) - median(one.rss for one in early))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "growth": self.growth}


def read(pid: int) -> Reading:
    """From proc(5), `smaps_rollup`. CommandError: the process isn't there, or isn't ours."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError as error:
        raise CommandError(f"the memory of process {pid} can't be read: {error.strerror}") from None
    sizes = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * KIB
    own = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Reading(rss=sizes["Rss"], pss=sizes["Pss"], uss=own)


def at_rest(bench: Bench, servers: Sequence[Server]) -> dict[str, Reading]:
    """Of each server, before anything was asked."""
    bench.wait(SETTLING)
    return {server: read(bench.children[server].pid) for server in servers}


def fill(bench: Bench, memory: Memory, count: int) -> None:
    """Show `Server.FILLED` so many tokens, signed with RSA."""
    bench.make_tokens(MANY, count)
    tokens = Tokens(count, file=MANY)
    memory.wrong += send(bench, Server.FILLED, tokens, checks=count).errors
    bench.wait(SETTLING)
    memory.cached = bench.status(Server.FILLED)["tokens"]["cached"]
    memory.full = read(bench.children[Server.FILLED].pid)


def watch(bench: Bench, memory: Memory, checks: int) -> None:
    """Read the memory of `Server.FILLED` each second while it answers so many checks."""
    before = bench.verdicts(Server.FILLED)
    tokens = Tokens(KNOWN_TOKENS, fresh_every=FRESH_EVERY, fresh_first=FRESH_FIRST)
    with Watcher(bench, Server.FILLED) as watcher:
        outcome = send(bench, Server.FILLED, tokens, checks=checks)
    memory.readings = watcher.readings
    after = bench.verdicts(Server.FILLED)
    allowed = after.get(ALLOWED, 0) - before.get(ALLOWED, 0)
    memory.wrong += outcome.errors + abs(outcome.requests - allowed)


class Watcher:
    """Reads a server's memory from a thread, as the main one waits for the load generator."""

    def __init__(self, bench: Bench, server: Server) -> None:
        self.readings: list[Reading] = []
        self._bench = bench
        self._server = server
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        pid = self._bench.children[self._server].pid
        start, before = time.monotonic(), self._checks()
        # A server that is gone is noticed, and reported, by who waits for the load.
        with suppress(CommandError, httpx.HTTPError):
            while not self._ending.wait(INTERVAL):
                one = read(pid)
                seconds = round(time.monotonic() - start, 2)
                checks = self._checks() - before
                self.readings.append(Reading(one.rss, one.pss, one.uss, checks, seconds))

    def _checks(self) -> int:
        return sum(self._bench.verdicts(self._server).values())
