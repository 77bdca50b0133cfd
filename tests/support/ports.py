"""Free TCP ports on loopback."""

import os
import random
import socket

LOOPBACK = "127.0.0.1"

_RANGE = range(20_000, 32_000)
"""Below what Linux and macOS give to outgoing connections (32768 and 49152 upwards), so that a port
stays free between being chosen and being bound, and while a killed server is away."""

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
"""Test processes side by side: each has ports of its own, also for a server that is away."""

_given: set[int] = set()
_dice = random.SystemRandom()  # pytest-randomly resets the ordinary generator before each test


def free_port() -> int:
    """A port on which nothing listens, never given twice, not to another test process either."""
    for _ in range(1000):
        port = _dice.choice(_RANGE[_WORKER::_WORKERS])
        if port not in _given and _can_be_bound(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {_RANGE.start} and {_RANGE.stop}")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


def accepts_connections(port: int) -> bool:
    """Whether something listens on the port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
