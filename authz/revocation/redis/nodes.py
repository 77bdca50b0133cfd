"""The nodes of the store: who is asked for which bucket, and how they fare.

A background task, the guard, reads the topology when it may have changed, and probes the nodes
whose breaker is open.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from redis.asyncio import Redis

from authz.observe import events
from authz.revocation.record import Clear, Revoked, TokenRef, Unavailable
from authz.revocation.redis.client import connector
from authz.revocation.redis.lane import Lane, Redirect
from authz.revocation.redis.outage import Breaker, State
from authz.revocation.redis.question import Question
from authz.revocation.redis.topology import Address, Topology, TopologyError, node_name
from authz.settings import StoreSettings, store_url_parts

MAX_REDIRECTS = 3
"""Of one question. A slot moves once; more means that nodes disagree, and time is up anyway."""
TOPOLOGY_EVERY = 10.0
"""Seconds between readings of the map when nothing seems wrong."""
TOPOLOGY_RETRY = 0.5
"""Seconds between readings while a node is in doubt: the interval of the breaker's probes."""
TOPOLOGY_PAUSE = 0.1
"""Seconds at least between two readings, however many look-ups fail."""

log = structlog.get_logger(__name__)


class Nodes:
    """One lane per node, the map that says which one to take, and the guard over both."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        make_breaker: Callable[[], Breaker],
        learn: Callable[[TokenRef, Revoked | Clear], None],
        observe: Callable[[float, int], None],
    ) -> None:
        """As `RedisStore`."""
        scheme, seeds, _ = store_url_parts(settings)
        self._settings = settings
        self._connect = connector(settings)
        self._make_breaker = make_breaker
        self._learn = learn
        self._observe = observe
        self.is_cluster = scheme.endswith("+cluster")
        self.topology = Topology(seeds, settings.buckets, cluster=self.is_cluster)
        self.error = "not connected yet"
        """What went wrong last, for people; empty while all is well."""
        self._lanes: dict[Address, Lane] = {}
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._guardian: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._connected: bool | None = None
        self._told: set[str] = set()
        self._looked = asyncio.Event()
        self.on_recovery: Callable[[], None] = _nothing
        """Called when a node answers again, or the map has changed."""

    def primary(self, bucket: int) -> Address | None:
        """Who has a bucket; None: nobody said yet."""
        shard = self.topology.shard(bucket)
        return None if shard is None else shard.primary

    def lane(self, address: Address) -> Lane:
        """The way to a node, made when it is first asked for."""
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = Lane(
                address,
                self._connect(address),
                self._make_breaker(),
                timeout=self._settings.timeout,
                learn=self._learn,
                redirected=self._redirected,
                troubled=self._troubled,
                observe=self._observe,
            )
        return lane

    def client(self, address: Address) -> Redis:
        """The client of a node: its connections, beside the lane's look-ups."""
        return self.lane(address).client

    def start(self) -> None:
        """Connect in the background; an unreachable store is not an error here."""
        self._guardian = self._loop.create_task(self._guard())

    async def first_look(self, within: float) -> None:
        """Wait until the guard has looked at all nodes once, whatever it found, at most so many
        seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._looked.wait()

    async def connect(self) -> bool:
        """Reach every primary once, now. Whether all of them answered."""
        await self._tend()
        return bool(self._connected)

    async def aclose(self) -> None:
        """Let go of all connections; what is being asked is answered as unavailable."""
        tasks = [*self._side_tasks, *([self._guardian] if self._guardian else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Together: saying good-bye by TLS to a node that hangs takes `connect_timeout` each.
        await asyncio.gather(
            *(lane.aclose() for lane in self._lanes.values()), return_exceptions=True
        )

    async def _guard(self) -> None:
        """Read the map when it may have changed, and probe the nodes that failed."""
        while True:
            self._wake.clear()  # before: what goes wrong meanwhile calls for another round
            try:
                await self._tend()
            except Exception:  # without this task no breaker would ever close again
                log.exception(events.STORE_GUARD_FAILED)
            self._looked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            await asyncio.sleep(TOPOLOGY_PAUSE)

    def _pause(self) -> float:
        now = self._loop.time()
        pauses = [TOPOLOGY_EVERY if self._connected else TOPOLOGY_RETRY]
        # Of primaries only: nobody probes a node that is out of use, so it would always be overdue.
        pauses += [breaker.next_probe(now) for breaker in self.breakers().values()]
        return min(pauses)

    async def _tend(self) -> None:
        try:
            changed = await self.topology.refresh(self.client, self._settings.connect_timeout)
        except TopologyError as error:
            self._report(reachable=False, error=str(error))
            await self._probe()
            return
        await self._retire_lanes()
        for address in self.topology.primaries():
            self.lane(address)
        reached = await self._probe()
        self._report(reachable=reached, error=self.error)
        if changed:
            self.on_recovery()

    async def _probe(self) -> bool:
        """Ping the primaries that are in doubt. Whether none is left in doubt."""
        primaries = self.topology.primaries()
        doubtful = [
            lane
            for address, lane in self._lanes.items()
            if address in primaries and (not self._connected or lane.breaker.state is State.OPEN)
        ]
        due = [lane for lane in doubtful if self._probe_is_due(lane)]
        answers = await asyncio.gather(*(lane.probe() for lane in due))
        for lane, answered in zip(due, answers, strict=True):
            if not answered:
                self.error = lane.last_error
        if any(answers):
            self.on_recovery()
        return len(due) == len(doubtful) and all(answers)

    def _probe_is_due(self, lane: Lane) -> bool:
        is_open = lane.breaker.state is State.OPEN
        return not is_open or lane.breaker.next_probe(self._loop.time()) <= 0

    async def _retire_lanes(self) -> None:
        """Drop the connections to nodes that left the cluster."""
        known = set(self.topology.nodes())
        for address in [address for address in self._lanes if address not in known]:
            await self._lanes.pop(address).aclose()

    def _report(self, *, reachable: bool, error: str) -> None:
        """Tell what changed; of an outage each kind of error once, for the first may be a mere
        time-out and the next say that the password is wrong.
        """
        if not reachable:
            self.error = error
            kind = error.partition(":")[0]
            if kind not in self._told:
                log.warning(events.STORE_UNREACHABLE, error=error)
                self._told.add(kind)
        else:
            self.error = ""
            self._told.clear()
            if not self._connected:
                nodes = [node_name(address) for address in self.topology.primaries()]
                log.info(events.STORE_CONNECTED, nodes=nodes)
        self._connected = reachable

    def wake(self) -> None:
        """Look after the nodes now: something is wrong, or was moved."""
        self._wake.set()

    async def refresh(self) -> None:
        """Read the map now, for a write that can't wait. `error` says whether it failed."""
        try:
            await self.topology.refresh(self.client, self._settings.connect_timeout)
        except TopologyError as error:
            self.error = str(error)

    # ---- told by lanes

    def _redirected(self, question: Question, to: Redirect) -> None:
        question.redirects += 1
        if question.redirects > MAX_REDIRECTS:
            question.settle(Unavailable("error"))
            return
        shard = self.topology.shard(to.bucket)
        if to.asking and shard is not None:
            home = self.lane(shard.primary)
            self._spawn(home.ask_one_by_one(question, self.client))
            return
        self.topology.moved(to.bucket, to.address)
        self._wake.set()
        lane = self.lane(to.address)
        if not lane.breaker.allows(self._loop.time()):
            question.settle(Unavailable("breaker_open"))
        elif not question.answer.done():
            lane.submit(question)

    def _troubled(self, lane: Lane) -> None:
        self.error = lane.last_error
        self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    # ---- telling

    def breakers(self) -> dict[str, Breaker]:
        """`host:port` of each node that is asked, and its breaker."""
        primaries = self.topology.primaries()
        return {
            node_name(address): lane.breaker
            for address, lane in list(self._lanes.items())
            if address in primaries
        }

    def status(self) -> dict[str, Any]:
        """As `RevocationStore.status`."""
        return {
            "kind": "cluster" if self.is_cluster else "single",
            "connected": bool(self._connected),
            "error": self.error or None,
            "nodes": {
                name: breaker.status(self._loop.time()) for name, breaker in self.breakers().items()
            },
        }


def _nothing() -> None:
    """For those who don't follow the store."""
