"""What faults are done to: clusters, the lines to them, and sidecars, one behind a real Envoy.

Each sidecar reaches every node by a line of its own, which can be cut, while the revoker goes to
the nodes directly. All see the same cluster: its nodes leave their host out of CLUSTER SLOTS and
redirects (`cluster-preferred-endpoint-type unknown-endpoint`), and a client then stays with the
host by which it came. So whoever enters by 127.0.1.1 is sent to 127.0.1.1 only, where there is a
proxy on the port of each node, and whoever enters by 127.0.0.1 to the nodes themselves.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chaos.ask import Asker, EnvoyAsker, GrpcAsker
from chaos.evidence import Life, Process, Window
from chaos.oracle import MAX_STALENESS, Promises

from authz.audit.chain import parse_head
from authz.audit.verify import Verification
from support.cluster import Node, ValkeyCluster
from support.envoy import Envoy, ExtAuthz
from support.proxy import Direction, TcpProxy
from support.sidecar import Sidecar
from support.upstream import Upstream
from support.waiting import wait_until

SEATS = 3
"""Sidecars of the first region; the first of them is behind Envoy."""

FORGETFUL, FEW = 2, 10
"""Where there is the feed, the second sidecar of a region remembers no more revocations than this
exactly, so that it lives by its filter, as all do by the revocations of before their start."""

STORE_TIMEOUT = "100ms"
"""Four times the default: the lines to Redis are Python programs on a machine that is busy."""

CLUSTER_OPTIONS = {
    "cluster-preferred-endpoint-type": "unknown-endpoint",
    # All nodes are killed at once in one of the faults. By `everysec` a write may be held back in
    # the server's own memory for up to two seconds while the disk is slow.
    "appendfsync": "always",
}

CLOCK_SHIFT = Path(__file__).parent / "clock_shift"
ENDLESS = float("inf")


class Lines:
    """The ways of one client to all nodes of a cluster, by an address of its own."""

    def __init__(self, cluster: ValkeyCluster, host: str) -> None:
        self.host = host
        self._proxies = [TcpProxy(node.port, host=host, port=node.port) for node in cluster.nodes]

    @property
    def url(self) -> str:
        """For `store.url`."""
        nodes = ",".join(f"{self.host}:{proxy.port}" for proxy in self._proxies)
        return f"redis+cluster://{nodes}"

    def start(self) -> Self:
        for proxy in self._proxies:
            proxy.start()
        return self

    def stop(self) -> None:
        """For good. Nothing happens the second time."""
        while self._proxies:
            self._proxies.pop().stop()

    def cut(self, node: Node | None = None) -> None:
        """Connections break, new ones are refused: to this node, or to all."""
        for proxy in self._proxies:
            if node is None or proxy.port == node.port:
                proxy.cut()

    def block(self, direction: Direction) -> None:
        """Connections stay, and nothing comes through in one direction until `restore`."""
        for proxy in self._proxies:
            proxy.block(direction)

    def slow(self, seconds: float) -> None:
        """Hold all that comes from the nodes this long, piece by piece, until `restore`."""
        for proxy in self._proxies:
            proxy.delay(seconds, "to_client")

    def restore(self) -> None:
        for proxy in self._proxies:
            proxy.restore()


@dataclass(eq=False)
class Seat:
    """A sidecar's place: it may be killed and started again, and then begins a new life."""

    name: str
    region: str
    lines: Lines
    sidecar: Sidecar
    envoy: Envoy | None

    def __post_init__(self) -> None:
        self.lives: list[Life] = []
        self._read_to = 0
        self._memory = 0.0
        self._log_length = 0

    @property
    def life(self) -> int:
        """The number of the one that is going on, or of the last one."""
        return len(self.lives)

    def begin(self, *, ahead: float = 0.0) -> None:
        """Start the process of the next life, with a wall clock that is `ahead` seconds of
        everybody's, and don't wait for it.
        """
        env = self.sidecar.process.env
        for name in ("CLOCK_SHIFT", "PYTHONPATH"):
            env.pop(name, None)
        if ahead:
            path = [str(CLOCK_SHIFT), os.environ.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = os.pathsep.join(filter(None, path))
            env["CLOCK_SHIFT"] = str(ahead)
        self.lives.append(Life(self.name, self.life + 1, ENDLESS, ENDLESS, ahead))
        self.sidecar.process.start()

    def start(self, *, ahead: float = 0.0) -> None:
        """Begin the next life; it is ready on return."""
        self.begin(ahead=ahead)
        self.sidecar.process.wait_ready(self.sidecar.is_ready)
        ready = time.monotonic()
        instance = self.sidecar.status()["audit"]["instance"]
        self.lives[-1] = self.lives[-1]._replace(ready=ready, instance=instance)
        self._memory = max(self._memory, self._resident())

    def kill(self) -> None:
        """kill -9."""
        self._end()
        self.sidecar.process.kill()

    def stop(self) -> None:
        """SIGTERM, and until it is gone."""
        self._end()
        self.sidecar.process.stop()

    def asker(self) -> Asker:
        """A client of its own for each thread that asks."""
        if self.envoy is not None:
            return EnvoyAsker(self.envoy.port)
        return GrpcAsker(self.sidecar.address)

    def is_connected(self) -> bool:
        """Whether it says that the store and the feed are in order."""
        status = self.sidecar.status()
        store = status["store"]
        return (
            bool(store["connected"])
            and all(node["state"] == "closed" for node in store["nodes"].values())
            and (status["feed"] is None or all(_follows(status["feed"])))
        )

    def follows(self) -> tuple[bool, bool]:
        """Whether its feed is live, and whether it is subscribed, by its own word. One that has no
        feed is in order.
        """
        feed = self.sidecar.status()["feed"]
        return (True, True) if feed is None else _follows(feed)

    def mark(self) -> None:
        """A scenario begins: what it uses and writes from here on counts."""
        self._memory = self._resident()
        path = self.sidecar.audit_path
        self._read_to = path.stat().st_size if path.exists() else 0
        self._log_length = len(self.sidecar.log_text())

    def audit(self) -> list[dict[str, Any]]:
        """What its audit got since `mark`, of all events."""
        path = self.sidecar.audit_path
        new = path.read_bytes()[self._read_to :] if path.exists() else b""
        return [json.loads(line) for line in new[: new.rfind(b"\n") + 1].splitlines()]

    def tampered(self) -> list[str]:
        """What is wrong with its whole audit as a chain, up to the head that it tells."""
        head = self.sidecar.status()["audit"]["head"]
        verification = Verification([] if head is None else [parse_head(head)])
        if self.sidecar.audit_path.exists():
            verification.read(self.sidecar.audit_path)
        verification.finish()
        return [str(problem) for problem in (*verification.problems, *verification.unlinked)]

    def process(self) -> Process:
        running = self.sidecar.process.running
        return Process(
            self.name,
            running=running,
            grown=self._resident() - self._memory if running else 0.0,
            traceback="Traceback" in self.sidecar.log_text()[self._log_length :],
        )

    def _end(self) -> None:
        life, now = self.lives[-1], time.monotonic()
        self.lives[-1] = life._replace(ready=min(life.ready, now), ended=min(life.ended, now))

    def _resident(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.sidecar.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


def _follows(feed: Mapping[str, Any]) -> tuple[bool, bool]:
    """Of the part of `/status` that tells of the feed."""
    return bool(feed["live"]), feed["subscription"]["node"] is not None


class Region:
    """A cluster and the sidecars that ask it."""

    def __init__(self, name: str, folder: Path, number: int, *, feed: bool) -> None:
        """`feed`: whether the sidecars follow it."""
        self.name = name
        self._feed = feed
        self.folder = folder
        self._number = number
        self._stack = ExitStack()
        self.cluster = ValkeyCluster(folder / "cluster", options=CLUSTER_OPTIONS)
        self.seats: list[Seat] = []

    def start(self, seats: int, upstream: Upstream | None) -> Self:
        """`upstream`: the first sidecar gets an Envoy in front of this one."""
        try:
            self._stack.callback(self.cluster.stop)
            self.cluster.start()
            for number in range(1, seats + 1):
                self._seat(number, upstream if number == 1 else None)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self._stack.close()

    def lines(self, number: int) -> Lines:
        """Further ways to the cluster, by the address with this number."""
        lines = Lines(self.cluster, f"127.0.{self._number}.{number}")
        self._stack.callback(lines.stop)
        return lines.start()

    def mend(self) -> None:
        """All in order: the cluster, the lines, the sidecars, which are all connected."""
        for seat in self.seats:
            seat.lines.restore()
        self.cluster.heal()
        for seat in self.seats:
            if seat.lives[-1].ahead:
                seat.stop()
            if not seat.sidecar.process.running:
                seat.kill()  # whoever died unasked was found out before; its life is over
                seat.start()
        for seat in self.seats:
            try:
                wait_until(seat.is_connected, f"{seat.name} is connected", timeout=30)
            except TimeoutError as error:
                status = {name: seat.sidecar.status()[name] for name in ("store", "feed")}
                raise TimeoutError(f"{error}: {status}") from None

    def _seat(self, number: int, upstream: Upstream | None) -> None:
        name = f"{self.name}{number}"
        lines = self.lines(number)
        settings = sidecar_settings(self.folder / name, lines.url, feed=self._feed)
        if self._feed and number == FORGETFUL:
            settings["cache"] = {"revocations": FEW}
        sidecar = Sidecar(self.folder / name, settings)
        self._stack.callback(sidecar.stop)
        envoy = None
        if upstream is not None:
            envoy = Envoy.for_sidecar(
                self.folder / f"{name}-envoy",
                sidecar=sidecar.socket,
                upstream_port=upstream.port,
                ext_authz=ExtAuthz(routes={"/closed": {"authz.fail_mode": "closed"}}),
            )
            self._stack.callback(envoy.stop)
        seat = Seat(name, self.name, lines, sidecar, envoy)
        self.seats.append(seat)
        seat.start()
        if envoy is not None:
            envoy.start()


class World:
    """One region, or two. As a context manager all of it is ended, whatever happened."""

    def __init__(self, folder: Path, *, feed: bool = True) -> None:
        """`feed`: whether the sidecars follow it, or only look up."""
        self.folder = folder
        self.promises = Promises(feed=feed)
        self.windows: list[Window] = []
        self.regions: list[Region] = []
        self.related = 0.0
        self.trimmed = -math.inf
        """As in Evidence."""
        self.upstream = Upstream()
        self._numbers = count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(self.upstream)
            self.add_region(SEATS)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def home(self) -> Region:
        return self.regions[0]

    @property
    def seats(self) -> list[Seat]:
        return [seat for region in self.regions for seat in region.seats]

    def add_region(self, seats: int) -> Region:
        number = next(self._numbers)
        name = f"r{number}-"
        region = Region(name, self.folder / name, number, feed=self.promises.feed)
        self._stack.callback(region.stop)
        region.start(seats, self.upstream if number == 1 else None)
        self.regions.append(region)
        return region

    def drop_region(self, region: Region) -> None:
        self.regions.remove(region)
        region.stop()

    def mend(self) -> None:
        for region in self.regions:
            region.mend()


def sidecar_settings(folder: Path, url: str, *, feed: bool) -> dict[str, Any]:
    """Failing open on record, and slow to give up on its own audit."""
    return {
        "store": {"url": url, "timeout": STORE_TIMEOUT},
        "audit": {"path": str(folder / "audit.jsonl"), "timeout": "2s"},
        "feed": {"enabled": feed, "max_staleness": f"{MAX_STALENESS:g}s"},
    }
