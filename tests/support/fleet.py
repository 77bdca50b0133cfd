"""A sidecar of several worker processes."""

import json
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from support.grpc import CheckClient
from support.sidecar import Sidecar
from support.waiting import wait_until

SLOW = 60.0
"""Seconds for a worker to come up on a busy machine; half a second of them is its share of a core.
"""


class Fleet(Sidecar):
    """`authz serve` with `workers` processes."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        workers: int = 2,
        **env: str,
    ) -> None:
        super().__init__(folder, {"workers": workers, **(settings or {})}, **env)
        self._count = workers
        self._clients: list[CheckClient] = []

    def start(self) -> Self:
        try:
            self.process.start(self.is_ready, timeout=SLOW)
        except BaseException:
            self.close()
            raise
        return self

    def until_restarted(self, worker: int) -> None:
        """Wait until it has ended unasked and serves again."""
        wait_until(
            lambda: self.restarts()[worker] and self.workers()[worker]["up"],
            f"worker {worker} is restarted",
            timeout=SLOW,
        )

    def workers(self) -> list[dict[str, Any]]:
        """What `/status` says of each."""
        workers: list[dict[str, Any]] = self.status()["workers"]
        return workers

    def pids(self) -> list[int]:
        """Of the workers, in order; all must run."""
        return [int(worker["pid"]) for worker in self.workers()]

    def connections(self) -> list[int]:
        """Open ones, by worker."""
        return [int(worker["connections"]) for worker in self.workers()]

    def restarts(self) -> list[int]:
        return [int(worker["restarts"]) for worker in self.workers()]

    def connect(self, address: str | None = None) -> CheckClient:
        """A new client on the Unix socket, or at `address`. Closed with the fleet."""
        client = CheckClient(address or self.socket)
        self._clients.append(client)
        return client

    def signal(self, worker: int, number: signal.Signals) -> int:
        """Send a signal to a worker. Its pid."""
        pid = self.pids()[worker]
        os.kill(pid, number)
        return pid

    def worker_audit(self, worker: int) -> list[dict[str, Any]]:
        """The records of a worker's audit."""
        path = self.audit_path.with_name(f"audit.worker-{worker}.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log with this event."""
        lines = [line for line in self.log_text().splitlines() if line.startswith("{")]
        return [found for line in lines if (found := json.loads(line))["event"] == event]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()
        leftover = children_of(self.process.pid) if self.process.running else set()
        super().close()
        wait_until(lambda: not any(map(alive, leftover)), "the workers are gone", timeout=20)


def children_of(pid: int) -> set[int]:
    """The children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in text.split()}


def alive(pid: int) -> bool:
    """Whether there is such a process that is more than a zombie."""
    return _state(pid) not in {"", "Z"}


def stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached it, which takes until it next runs."""
    return _state(pid) == "T"


def _state(pid: int) -> str:
    """Its letter (proc(5), status); empty where there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    found = re.search(r"^State:\s+(\S)", status, re.MULTILINE)
    return found[1] if found else ""
