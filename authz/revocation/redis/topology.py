"""Which node answers for which bucket.

Only the slots of our buckets matter, so the map has one entry per bucket. It is read with CLUSTER
SLOTS from whichever node answers, and patched by MOVED replies in between.

Why not redis-py's RedisCluster: on a connection error or a time-out it closes the connections to
*all* nodes and reads the topology again inside the failing call. Here one dead node must not touch
the look-ups that go to the others, and a check can't wait for either. Connections, authentication,
TLS and the protocol are redis-py's all the same.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from authz.revocation.record import feed_key

Address = tuple[str, int]

MAX_NODES_ASKED = 6
"""Nodes asked for the map at the same time; the first good answer is taken."""

LAGGARDS = 0.05
"""Seconds that the nodes which did not answer first are given to answer at all."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The nodes that hold a bucket."""

    primary: Address
    replicas: tuple[Address, ...]


class TopologyError(Exception):
    """No node could say where the buckets are. The text says why."""


class Topology:
    """The map from bucket to shard."""

    def __init__(self, seeds: Sequence[Address], buckets: int, *, cluster: bool) -> None:
        self._seeds = tuple(seeds)
        self._cluster = cluster
        self._slots = {bucket: key_slot(feed_key(bucket).encode()) for bucket in range(buckets)}
        self._shards: dict[int, Shard] = {}
        self.refreshes = 0
        if not cluster:
            self._shards = dict.fromkeys(self._slots, Shard(self._seeds[0], ()))

    @property
    def known(self) -> bool:
        return bool(self._shards)

    def shard(self, bucket: int) -> Shard | None:
        """None: nobody said yet."""
        return self._shards.get(bucket)

    def moved(self, bucket: int, address: Address) -> None:
        """A node said MOVED: its word holds until the map is read again."""
        old = self._shards.get(bucket)
        if old is None or old.primary != address:
            self._shards[bucket] = Shard(address, old.replicas if old else ())

    def primaries(self) -> set[Address]:
        return {shard.primary for shard in list(self._shards.values())}

    def nodes(self) -> list[Address]:
        """All that may know the map: what is in use, replicas, and the configured ones."""
        nodes: dict[Address, None] = {}
        for shard in self._shards.values():
            nodes[shard.primary] = None
        for shard in self._shards.values():
            nodes.update(dict.fromkeys(shard.replicas))
        nodes.update(dict.fromkeys(self._seeds))
        return list(nodes)

    async def refresh(self, connect: Callable[[Address], Redis], within: float) -> bool:
        """Read the map. True if it changed. TopologyError: no node gave it `within` that many
        seconds. A single server needs no map; nothing is asked.
        """
        if not self._cluster:
            return False
        shards = await self._first_answer(connect, within)
        changed = shards != self._shards
        self._shards = shards
        self.refreshes += 1
        return changed

    async def _first_answer(
        self, connect: Callable[[Address], Redis], within: float
    ) -> dict[int, Shard]:
        nodes = self.nodes()
        # The configured nodes come last but must not starve behind replicas that are gone.
        asked = nodes[: MAX_NODES_ASKED // 2] + nodes[-(MAX_NODES_ASKED // 2) :]
        tasks = [
            asyncio.create_task(self._ask(connect(node), node)) for node in dict.fromkeys(asked)
        ]
        errors: list[str] = []
        try:
            for answer in asyncio.as_completed(tasks, timeout=within):
                try:
                    shards = await answer
                except (RedisError, OSError, TopologyError) as error:
                    errors.append(f"{type(error).__name__}: {error}")
                else:
                    # The others are about to answer, too. To cancel one costs its connection,
                    # and then a check the time for a new one.
                    await asyncio.wait(tasks, timeout=LAGGARDS)
                    return shards
        except TimeoutError:
            errors.append(f"no answer within {within:g} s")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise TopologyError(" ".join((errors or ["no node is known"])[-1].split())[:200])

    async def _ask(self, client: Redis, node: Address) -> dict[int, Shard]:
        reply = await client.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
        try:
            return self._read(reply, node)
        except (TypeError, ValueError, IndexError):  # one node's nonsense mustn't hide the others
            raise TopologyError("the node's answer to CLUSTER SLOTS can't be read") from None

    def _read(self, reply: Any, node: Address) -> dict[int, Shard]:
        """CLUSTER SLOTS: rows of first slot, last slot, primary, replicas …; each node as host,
        port and more.
        """
        if not isinstance(reply, list):
            raise TopologyError("the node does not answer CLUSTER SLOTS as a cluster would")
        ranges: list[tuple[int, int, Shard]] = []
        for first, last, primary, *replicas in reply:
            shard = Shard(_address(primary, node), tuple(_address(r, node) for r in replicas))
            ranges.append((int(first), int(last), shard))
        shards: dict[int, Shard] = {}
        for bucket, slot in self._slots.items():
            shard_of = next((s for first, last, s in ranges if first <= slot <= last), None)
            if shard_of is None:
                raise TopologyError(f"slot {slot} is not covered: the cluster is incomplete")
            shards[bucket] = shard_of
        return shards


def _address(node: Sequence[Any], asked: Address) -> Address:
    host = node[0].decode() if isinstance(node[0], bytes) else ""
    return (host or asked[0], int(node[1]))  # an empty or null host: the one that was asked


def node_name(address: Address) -> str:
    """`host:port`, for people and metrics."""
    return f"{address[0]}:{address[1]}"
