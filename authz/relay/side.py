"""One of the two stores: its nodes, and whether it answers."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import structlog
from redis.exceptions import AskError, MovedError, RedisError

from authz.observe import events
from authz.relay.cursor import FIELDS, Cursor, cursor_key
from authz.revocation.entry import Entry
from authz.revocation.record import tip_key
from authz.revocation.redis.announcements import Announcements
from authz.revocation.redis.lane import ReadError, describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.outage import Breaker
from authz.revocation.redis.script import ScriptRunner
from authz.revocation.redis.topology import Address, node_name
from authz.revocation.redis.writer import Writer, Written
from authz.settings import StoreSettings

CALL_TIMEOUT = 1.0
"""Seconds for a few small commands at one node, an ocean away at 200 ms a round trip included."""

MAX_REDIRECTS = 3

log = structlog.get_logger(__name__)


class SideError(Exception):
    """A store doesn't answer at the moment. The text says why."""

    def __init__(self, which: str, text: str) -> None:
        super().__init__(text)
        self.which = which


class Side:
    """A store, as the relay sees it. Make it in a running loop."""

    def __init__(self, which: Literal["from", "to"], settings: StoreSettings) -> None:
        """SettingsError: an unreadable password, CA or client certificate."""
        self.which = which
        self.settings = settings
        self.nodes = Nodes(
            settings,
            make_breaker=lambda: Breaker(time.monotonic(), random.random),
            learn=_nobody,
            observe=_nobody,
        )
        self.up: bool | None = None
        """Whether it did what was asked last; None: nothing was asked yet."""
        self.error = ""
        """What is wrong, for people."""

    def start(self, wake: Callable[[], None]) -> None:
        """Connect in the background. `wake` is called when a node is back or the map changed."""
        self.nodes.on_recovery = wake
        self.nodes.start()

    async def aclose(self) -> None:
        await self.nodes.aclose()

    def well(self) -> None:
        """It answers, and does what it is asked."""
        if self.up is False:
            log.info(events.RELAY_SIDE_UP, side=self.which)
        self.up, self.error = True, ""

    def ill(self, error: str) -> None:
        """It doesn't."""
        if self.up is not False:
            log.warning(events.RELAY_SIDE_DOWN, side=self.which, error=error)
        self.up, self.error = False, error

    def by_primary(self, buckets: Collection[int]) -> dict[Address, list[int]]:
        """Who is to be asked about which buckets. SideError: of one nobody knows."""
        found: dict[Address, list[int]] = {}
        for bucket in buckets:
            shard = self.nodes.topology.shard(bucket)
            if shard is None:
                error = self.nodes.error or "the map of the cluster is not known yet"
                raise SideError(self.which, error)
            found.setdefault(shard.primary, []).append(bucket)
        return found

    async def counts_of_buckets(self, buckets: Collection[int]) -> Mapping[int, int]:
        """Bucket to the number of buckets that its last writer spread users over. One in which
        nothing was written, or by a version that didn't say, is missing. SideError.
        """
        found: dict[int, int] = {}
        commands = {bucket: ("HMGET", tip_key(bucket), "buckets") for bucket in buckets}
        for bucket, (count,) in (await self.ask(commands)).items():
            if count and count.isdigit():
                found[bucket] = int(count)
        return found

    async def ask(self, commands: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """The replies to one command for each of some buckets, at their primaries. SideError."""
        replies: dict[int, Any] = {}
        for _ in range(MAX_REDIRECTS):
            missing = [bucket for bucket in commands if bucket not in replies]
            if not missing:
                return replies
            by_primary = self.by_primary(missing)
            for told in await asyncio.gather(
                *(self._ask(address, asked, commands) for address, asked in by_primary.items())
            ):
                replies.update(told)
        if len(replies) < len(commands):
            raise SideError(self.which, "nodes disagree about who has a slot")
        return replies

    async def _ask(
        self, address: Address, buckets: Sequence[int], commands: Mapping[int, tuple[Any, ...]]
    ) -> dict[int, Any]:
        """Without those that moved away."""
        try:
            lane = self.nodes.lane(address)
            replies = await lane.read([commands[bucket] for bucket in buckets], CALL_TIMEOUT)
        except ReadError as error:
            self.nodes.wake()
            raise SideError(self.which, f"{node_name(address)}: {error}") from None
        told: dict[int, Any] = {}
        for bucket, reply in zip(buckets, replies, strict=True):
            match reply:
                case MovedError():
                    self.nodes.topology.moved(bucket, (reply.host or address[0], reply.port))
                    self.nodes.wake()
                case AskError():
                    there = (reply.host or address[0], reply.port)
                    told[bucket] = await self._ask_elsewhere(there, commands[bucket])
                case Exception():
                    raise SideError(self.which, f"{node_name(address)}: {describe(reply)}")
                case _:
                    told[bucket] = reply
        return told

    async def _ask_elsewhere(self, address: Address, command: tuple[Any, ...]) -> Any:
        """Once, at the node to which the slot is being moved."""
        pipeline = self.nodes.client(address).pipeline(transaction=False)
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return (await pipeline.execute())[1]
        except (RedisError, OSError, TimeoutError) as error:
            raise SideError(self.which, f"{node_name(address)}: {describe(error)}") from None


class Target(Side):
    """The store that is written to."""

    def __init__(self, settings: StoreSettings, name: str) -> None:
        """`name`: of the cursors. SettingsError as `Side`."""
        super().__init__("to", settings)
        self._name = name
        scripts = ScriptRunner(settings, self.nodes)
        self.announcements = Announcements(scripts, settings.buckets)
        self._writer = Writer(scripts, settings.buckets)

    async def write(self, bucket: int, entries: Sequence[Entry]) -> Written:
        """As `Writer.write`: acknowledged as `store.wait_replicas` says. StoreError."""
        return await self._writer.write(bucket, entries)

    async def cursors(self, buckets: Collection[int]) -> Mapping[int, Cursor | None]:
        """How far they were copied; None: not at all. SideError."""
        commands = {b: ("HMGET", cursor_key(b, self._name), *FIELDS) for b in buckets}
        return {b: Cursor.of_reply(reply) for b, reply in (await self.ask(commands)).items()}

    async def store_cursor(self, bucket: int, cursor: Cursor) -> None:
        """It goes out behind the entries and on the way they took, so no replica has it without
        them. SideError.
        """
        await self.ask({bucket: ("HSET", cursor_key(bucket, self._name), *cursor.fields())})


def _nobody(*told: object) -> None:
    """Nobody checks tokens here."""
