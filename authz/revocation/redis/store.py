"""Revocations in Redis or Valkey: a cluster, or a single server.

Look-ups and uses go through one `Lane` per node, writes through the `Writer`; `Nodes` knows who is
there.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from typing import Any

from authz.revocation.entry import Entry
from authz.revocation.feed.feed import Feed
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import Answer, Clear, Revoked, TokenRef, Unavailable
from authz.revocation.redis.announcements import Announcements
from authz.revocation.redis.bulk import Bulk, ItemT, Outcome
from authz.revocation.redis.lane import Lane
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.outage import Breaker
from authz.revocation.redis.question import Lookup, Usage
from authz.revocation.redis.script import ScriptRunner
from authz.revocation.redis.trace import NodeTracer
from authz.revocation.redis.writer import Writer, Written
from authz.revocation.store import Acknowledgement, TokenRevocation, Trace, UserRevocation
from authz.settings import FeedSettings, StoreSettings
from authz.uses.record import Use


class RedisStore:
    """The store at `redis://`, `rediss://`, `redis+cluster://` and `rediss+cluster://`."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        make_breaker: Callable[[], Breaker],
        learn: Callable[[TokenRef, Revoked | Clear], None],
        observe: Callable[[float, int], None],
    ) -> None:
        """`learn` is told each answer of the store, also one that came too late for its check;
        `observe` the seconds and look-ups of each pipeline. Must be made in a running loop.

        SettingsError: an unreadable password, CA or client certificate.
        """
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._nodes = Nodes(settings, make_breaker=make_breaker, learn=learn, observe=observe)
        self.scripts = ScriptRunner(settings, self._nodes)
        """For what else is kept of users: scripts of a bucket, brought through as revocations are.
        """
        self.announcements = Announcements(self.scripts, settings.buckets)
        self._writer = Writer(self.scripts, settings.buckets)
        self._tracer = NodeTracer(self._nodes)

    def find(self, ref: TokenRef) -> asyncio.Future[Answer] | Unavailable:
        """As `RevocationStore.find`. The future is the caller's alone."""
        lane = self._lane(ref.bucket)
        if isinstance(lane, Unavailable):
            return lane
        lookup = Lookup(ref, self._loop.create_future())
        lane.submit(lookup)
        return lookup.answer

    def use(self, bucket: int, name: str, until: float) -> asyncio.Future[Use] | Unavailable:
        """As `UseStore.use`. The future is the caller's alone."""
        lane = self._lane(bucket)
        if isinstance(lane, Unavailable):
            return lane
        usage = Usage(bucket, name, until, self._loop.create_future())
        lane.submit(usage)
        return usage.answer

    def _lane(self, bucket: int) -> Lane | Unavailable:
        """The way to whoever has the bucket, if a check may take it."""
        shard = self._nodes.topology.shard(bucket)
        if shard is None:
            return Unavailable("connection")
        lane = self._nodes.lane(shard.primary)
        if not lane.breaker.allows(self._loop.time()):
            return Unavailable("breaker_open")
        return lane

    async def trace(
        self, bucket: int, refs: Sequence[TokenRef], now: float
    ) -> Sequence[Trace] | Unavailable:
        """As `Tracer.trace`."""
        return await self._tracer.trace(bucket, refs, now)

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        """As `RevocationStore.revoke_token`. Without a user it is written to every bucket, since
        nobody can tell in which one the token will be looked for.
        """
        buckets = (
            range(self._settings.buckets) if revocation.bucket is None else [revocation.bucket]
        )
        entry = Entry.of_token(revocation)
        results = await asyncio.gather(
            *(self._writer.write(bucket, [entry]) for bucket in buckets),
            return_exceptions=True,  # each is tried for its whole time, whatever becomes of others
        )
        written: list[Written] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            written.append(result)
        return Acknowledgement(
            replicas=min(one.replicas for one in written),
            repeated=all(all(one.repeated) for one in written),
        )

    async def revoke_user(self, revocation: UserRevocation) -> Acknowledgement:
        """As `RevocationStore.revoke_user`."""
        written = await self._writer.write(revocation.bucket, [Entry.of_user(revocation)])
        return Acknowledgement(written.replicas, all(written.repeated))

    def revoke_many(self, items: AsyncIterable[ItemT]) -> AsyncGenerator[Outcome[ItemT], None]:
        """As `Bulk.revoke`. Close the generator where it isn't read to its end."""
        bulk: Bulk[ItemT] = Bulk(self._writer, self._nodes, self._settings.buckets)
        return bulk.revoke(items)

    async def start(self) -> None:
        """Connect in the background; an unreachable store is not an error here."""
        self._nodes.start()

    async def first_look(self) -> None:
        """Wait until it is known which nodes answer, at most `store.connect_timeout`: who begins
        to answer checks before that can't ask anyone.
        """
        await self._nodes.first_look(self._settings.connect_timeout)

    async def connect(self) -> bool:
        """Reach every primary once, now. Whether all of them answered."""
        return await self._nodes.connect()

    async def aclose(self) -> None:
        """Let go of all connections; what is being asked is answered as unavailable."""
        await self._nodes.aclose()

    def follow(
        self,
        settings: FeedSettings,
        knowledge: Knowledge,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        observe_lag: Callable[[float], None],
        keys_withdrawn: Callable[[], None] | None = None,
    ) -> Feed:
        """A feed of this store's revocations into `knowledge`, not yet started. As `Feed`."""
        return Feed(
            settings,
            self._settings,
            self._nodes,
            knowledge,
            clock=clock,
            monotonic=monotonic,
            observe_lag=observe_lag,
            keys_withdrawn=keys_withdrawn,
        )

    def breakers(self) -> dict[str, Breaker]:
        """`host:port` of each node that is asked, and its breaker."""
        return self._nodes.breakers()

    @property
    def nodes(self) -> Nodes:
        """For what has to look at every node."""
        return self._nodes

    @property
    def topology_refreshes(self) -> int:
        return self._nodes.topology.refreshes

    def status(self) -> dict[str, Any]:
        """As `RevocationStore.status`."""
        return self._nodes.status()
