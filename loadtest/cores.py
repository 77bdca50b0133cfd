"""Which processor cores each part runs on, and how much time it spent there."""

import os
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

Cores = frozenset[int]

CPUCLOCK_SCHED = 2
"""The clock that counts what the scheduler gave (include/linux/posix-timers.h)."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Pinning:
    """One core each for Envoy, for the server of checks and for the load, as far as they go round.

    On two cores the load shares with the server of checks, as Envoy is what must not be slowed
    down when it is the slower one; sent directly, the load has Envoy's core. The store is asked
    little, so it takes what is left, else Envoy's core.
    """

    envoy: Cores
    server: Cores
    store: Cores
    load_on_envoy: Cores
    load_on_server: Cores

    @property
    def all(self) -> Cores:
        """Where the scheduler may choose."""
        return self.envoy | self.server | self.store | self.load_on_envoy | self.load_on_server

    @classmethod
    def of_this_machine(cls) -> Self:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) == 1:
            everything = Cores(cores)
            return cls(*[everything] * 5)
        first, second = Cores(cores[:1]), Cores(cores[1:2])
        if len(cores) == 2:
            return cls(first, second, first, second, first)
        third, last = Cores(cores[2:3]), Cores(cores[-1:])
        return cls(first, second, last if len(cores) > 3 else first, third, third)


@contextmanager
def on(cores: Cores) -> Iterator[None]:
    """Processes started meanwhile run on these cores: the choice is inherited."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, cores: Cores) -> None:
    """Move a running process with all its threads; the threads it will start go with them."""
    for _ in range(2):  # the second time for those that began during the first
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), cores)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads together, to the nanosecond.
    ProcessLookupError: there is none.
    """
    # clock_getcpuclockid(3), which Python lacks: Linux makes the id of a process's clock this way.
    try:
        return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    except OSError:
        raise ProcessLookupError(pid) from None


def own_seconds(pids: Iterable[int]) -> float:
    """What this process, these and its children that have ended spent so far."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    for pid in pids:
        with suppress(ProcessLookupError):
            total += cpu_seconds(pid)
    return total


def machine_seconds() -> float:
    """What everybody on this machine spent so far, and what its host took from it (steal)."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    user, nice, system, _, _, _, _, steal = (int(field) for field in line[1:9])
    return (user + nice + system + steal) / _TICK
