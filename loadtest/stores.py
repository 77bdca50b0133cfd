"""Valkey for the load test: one server, and a small cluster."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import redis
from redis.exceptions import RedisError

from authz.demo.processes import Child, Processes

LOOPBACK = "127.0.0.1"
MASTERS = 3
"""The smallest cluster that spreads its slots as large ones do; without replicas."""
SLOTS = 16384
READY_TIMEOUT = 30.0
"""Seconds for all of it to start; a cluster takes about two to agree."""


class Stores:
    """Starts servers without persistence: what is measured is the asking."""

    def __init__(self, program: Path, folder: Path, processes: Processes) -> None:
        self._program = program
        self._folder = folder
        self._processes = processes

    def start_one(self, port: int) -> Child:
        """A single server, ready."""
        child = self._start("valkey", port)
        self._processes.wait_until(partial(_answers, port), "Valkey became ready", READY_TIMEOUT)
        return child

    def start_cluster(
        self, ports: Sequence[int], buses: Sequence[int], name: str = "valkey"
    ) -> list[Child]:
        """`MASTERS` of them that have agreed on who holds which slots."""
        children = []
        for number, (port, bus) in enumerate(zip(ports, buses, strict=True)):
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
            options += ["--cluster-config-file", f"nodes-{number}.conf"]
            children.append(self._start(f"{name}-{number}", port, options))
        for port in ports:
            self._processes.wait_until(
                partial(_answers, port), "Valkey became ready", READY_TIMEOUT
            )
        for number, port in enumerate(ports):
            first, last = (SLOTS * edge // MASTERS for edge in (number, number + 1))
            _ask(port, "CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            if number:
                _ask(port, "CLUSTER", "MEET", LOOPBACK, ports[0], buses[0])
        for port in ports:
            self._processes.wait_until(
                partial(_agrees, port), "the cluster became ready", READY_TIMEOUT
            )
        return children

    def _start(self, name: str, port: int, options: Sequence[str] = ()) -> Child:
        return self._processes.start(
            name,
            [
                str(self._program),
                *("--bind", LOOPBACK, "--port", str(port), "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "no"),
                *options,
            ],
        )


def _ask(port: int, *command: str | int) -> object:
    with redis.Redis(host=LOOPBACK, port=port, socket_timeout=5.0) as client:
        return client.execute_command(*command)


def _answers(port: int) -> bool:
    try:
        return bool(_ask(port, "PING"))
    except RedisError:
        return False


def _agrees(port: int) -> bool:
    info = str(_ask(port, "CLUSTER", "INFO"))
    return "cluster_state:ok" in info and f"cluster_known_nodes:{MASTERS}" in info
