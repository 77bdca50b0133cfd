"""What the scenarios of the feed are measured on: clusters, and sidecars that follow them."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import redis
import yaml

from authz.demo.processes import Child
from loadtest.bench import Bench, free_ports
from loadtest.cores import Cores, on
from loadtest.servers import STORE_TIMEOUT
from loadtest.stores import LOOPBACK, MASTERS, Stores
from loadtest.subjects import Server

LIVE_TIMEOUT = 120.0
"""Seconds until a sidecar has read all revocations."""
START_TIMEOUT = 60.0
"""Seconds until a sidecar answers: eight of them start at once."""
COLD_CACHE = {"tokens": 1, "revocations": 1, "negative_ttl": 0}
"""With many tokens in turn, each counts as never seen."""
INTERNAL = frozenset({"info", "config", "client|setname", "client|setinfo", "hello"})
"""Commands that are ours, or of the connection: not what a check or the feed asks."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """`MASTERS` nodes without replicas: an acknowledgement waits for none, so it comes soonest."""

    ports: Sequence[int]
    children: Sequence[Child]

    @property
    def store(self) -> dict[str, Any]:
        """The `store` of the settings."""
        nodes = ",".join(f"{LOOPBACK}:{port}" for port in self.ports)
        return {
            "url": f"redis+cluster://{nodes}",
            "timeout": STORE_TIMEOUT,
            "write_timeout": 30.0,
            "wait_replicas": 0,
        }

    def commands(self) -> dict[str, int]:
        """How often each was run so far, by all nodes together (INFO commandstats)."""
        counts: dict[str, int] = {}
        for port in self.ports:
            with redis.Redis(host=LOOPBACK, port=port, socket_timeout=5.0) as client:
                found: Mapping[str, Any] = client.info("commandstats")
            for name, figures in found.items():
                command = name.removeprefix("cmdstat_")
                if command not in INTERNAL:
                    counts[command] = counts.get(command, 0) + figures["calls"]
        return counts


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One that was started."""

    name: str
    child: Child
    started: float
    """Monotonic seconds."""
    socket: Path
    http: str

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"http://{self.http}/status", trust_env=False).json()
        return found

    @property
    def feed(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status()["feed"]
        return found

    def is_live(self) -> bool:
        feed = self.feed
        return bool(feed["live"] and feed["subscription"]["node"])

    def is_ready(self) -> bool:
        try:
            answer = httpx.get(f"http://{self.http}/readyz", trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK

    def verdicts(self) -> dict[str, int]:
        found: dict[str, int] = self.status()["checks"]
        return found

    def histogram(self, name: str) -> dict[float, int]:
        """One of `/metrics`, not cumulative: how many were at most so much, and more than the next
        smaller bound. Without labels.
        """
        text = httpx.get(f"http://{self.http}/metrics", trust_env=False).text
        found, before = {}, 0
        for bound, count in re.findall(
            rf'^{name}_bucket\{{le="([^"]+)"\}} ([0-9.e+]+)$', text, re.MULTILINE
        ):
            total = int(float(count))
            found[float(bound)] = total - before
            before = total
        return found

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log with this event, so far."""
        lines = [
            json.loads(line)
            for path in (self.child.log, self.child.output)
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("{")
        ]
        return [one for one in lines if one["event"] == event]


class Rig:
    """Starts them in the bench's folder."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    @contextmanager
    def cluster(self, name: str) -> Iterator[Cluster]:
        """On the store's core. CommandError: it does not become ready."""
        bench = self._bench
        folder = bench.folder / name
        folder.mkdir()
        stores = Stores(bench.programs.valkey, folder, bench.processes)
        ports = free_ports(2 * MASTERS)
        with on(bench.pinning.store):
            children = stores.start_cluster(ports[:MASTERS], ports[MASTERS:], f"store-{name}")
        with self._listed(children):
            yield Cluster(ports[:MASTERS], children)

    @contextmanager
    def sidecars(
        self, wanted: Mapping[str, Mapping[str, Any]], cores: Cores | None = None
    ) -> Iterator[list[Sidecar]]:
        """By name, with the settings that differ from those of `Server.MEMORY`. Ready, on these
        cores, or where the scheduler likes. CommandError: one does not become ready.
        """
        with on(cores or self._bench.pinning.all):
            started = [self._start(name, settings) for name, settings in wanted.items()]
        with self._listed([one.child for one in started]):
            for one in started:
                self._bench.processes.wait_until(
                    one.is_ready, f"{one.name} became ready", START_TIMEOUT
                )
            yield started

    def _start(self, name: str, settings: Mapping[str, Any]) -> Sidecar:
        bench = self._bench
        (port,) = free_ports(1)
        one = bench.folder / f"{name}.sock"
        values = {
            **bench.servers.values(Server.MEMORY),
            "listen": [f"unix:{one}"],
            "http_listen": f"{LOOPBACK}:{port}",
            "audit": {"path": str(bench.folder / f"{name}.jsonl")},
            **settings,
        }
        config = bench.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        started = time.monotonic()
        child = bench.processes.start(name, bench.servers.serve(config))
        return Sidecar(name, child, started, one, values["http_listen"])

    def wait_until_live(self, sidecars: Sequence[Sidecar]) -> None:
        """CommandError: one has not read all revocations in time."""
        for one in sidecars:
            self._bench.processes.wait_until(
                partial(_is_live, one), f"{one.name} was live", LIVE_TIMEOUT
            )

    @contextmanager
    def _listed(self, children: Sequence[Child]) -> Iterator[None]:
        """Among those whose time is ours; ended at the end."""
        bench = self._bench
        bench.children.update({child.name: child for child in children})
        try:
            yield
        finally:
            for child in children:
                del bench.children[child.name]
                bench.processes.stop(child)


def _is_live(one: Sidecar) -> bool:
    try:
        return one.is_live()
    except httpx.TransportError:
        return False
