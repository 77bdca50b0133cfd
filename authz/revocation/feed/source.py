"""Reads what the feed needs: tips, pages of streams, and, where a stream isn't whole, the keys.

Always from primaries: a replica may be behind, and nobody could tell.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import AskError, MovedError, RedisError

from authz.revocation.entry import LATEST, TOKEN, USER, Entry, EntryError
from authz.revocation.feed.news import KEYS
from authz.revocation.feed.position import FIELDS, Tip
from authz.revocation.record import ANY_USER, blacklist_key, feed_key, tip_key
from authz.revocation.redis.lane import Lane, ReadError, describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.outage import State
from authz.revocation.redis.topology import Address, node_name
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

PAGE = 256
"""Entries read at a time: about 2 ms of work for this process' event loop, 100 KB."""

SCAN_COUNT = 512
"""Keys that one SCAN walks over: a quarter of a millisecond of the node's time."""

READ_TIMEOUT = 1.0
"""Seconds. Nobody waits for a page, but a node that hangs must be found out."""

MAX_REDIRECTS = 3

MAX_DIGITS = 16
"""Of the number of an entry and of milliseconds: a million a second would take three centuries to
get there."""

ENDLESS, GONE = -1, -2
"""What PEXPIRETIME says of a key that has no end, and of none."""

NOWHERE = "-"
"""Stands for a token in a key that never is there."""

_NAME = rb"([\w-]{1,64})"
_KEY = re.compile(
    rb"jwt:\{(\d{1,4})\}:(?:blacklist:" + _NAME + rb":" + _NAME + rb"|not-before:" + _NAME + rb")"
)


class SourceError(Exception):
    """It can't be read at the moment. The text says why; no entry was skipped."""


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a stream."""

    id: str
    seq: int
    """0: written before entries were numbered."""
    entry: Entry | None
    """None: nothing that we could read. It has its place all the same."""


class Source:
    """The revocations of one store, for whoever follows them."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.skipped = 0
        """Entries and keys that are none of ours: unreadable, so nobody can act on them."""
        self.refusals: dict[int, str] = {}
        """Buckets whose tip could not be read at the last time, and why."""

    def by_primary(self, buckets: Collection[int]) -> dict[Address, list[int]]:
        """Who is to be asked about which buckets; one of which nobody knows is missing."""
        found: dict[Address, list[int]] = {}
        for bucket in buckets:
            shard = self._nodes.topology.shard(bucket)
            if shard is not None:
                found.setdefault(shard.primary, []).append(bucket)
        return found

    def answers(self, address: Address) -> bool:
        """Whether its breaker lets anyone ask this node."""
        return self._nodes.lane(address).breaker.state is State.CLOSED

    def read_map(self) -> None:
        """Have the map of the cluster read again."""
        self._nodes.wake()

    async def tips(
        self, address: Address, buckets: Sequence[int], within: float
    ) -> Mapping[int, Tip]:
        """The tips of these buckets at one node, within so many seconds. One that moved away or
        can't be read is missing; `refusals` says why, and the map is read again where it helps.
        SourceError: there is none at all.
        """
        deadline = asyncio.get_running_loop().time() + within
        commands = [("HMGET", tip_key(bucket), *FIELDS, KEYS) for bucket in buckets]
        replies = await self._read(self._nodes.lane(address), commands, within)
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        found = await asyncio.gather(
            *(
                self._tip(address, bucket, reply, command, left)
                for bucket, reply, command in zip(buckets, replies, commands, strict=True)
            )
        )
        tips = {bucket: tip for bucket, tip in zip(buckets, found, strict=True) if tip is not None}
        why = next((self.refusals[b] for b in buckets if b in self.refusals), None)
        if not tips and why is not None:
            raise SourceError(why)
        return tips

    async def _tip(
        self, address: Address, bucket: int, reply: Any, command: tuple[Any, ...], within: float
    ) -> Tip | None:
        self.refusals.pop(bucket, None)
        try:
            if isinstance(reply, AskError) and not isinstance(reply, MovedError):
                reply = await self._ask_elsewhere(reply, address, command, within)
            if isinstance(reply, MovedError):
                self._moved(bucket, reply, address)
                return None
            if not isinstance(reply, Exception):
                return Tip.of_reply(reply)
            why = describe(reply)
        except (SourceError, EntryError) as error:
            why = str(error)
        self.refusals[bucket] = f"{node_name(address)}: {tip_key(bucket)}: {why}"
        return None

    async def page(self, bucket: int, start: str) -> list[Row]:
        """`PAGE` entries of the bucket's stream from an id on (`-`: the beginning; `(id`: behind
        it), or fewer at its end. SourceError: it can't be read.
        """
        command = ("XRANGE", feed_key(bucket), start, "+", "COUNT", PAGE)
        for _ in range(MAX_REDIRECTS):
            shard = self._nodes.topology.shard(bucket)
            if shard is None:
                break
            (reply,) = await self._read(self._nodes.lane(shard.primary), [command], READ_TIMEOUT)
            if isinstance(reply, MovedError):
                self._moved(bucket, reply, shard.primary)
                continue
            if isinstance(reply, AskError):
                reply = await self._ask_elsewhere(reply, shard.primary, command, READ_TIMEOUT)
            if isinstance(reply, Exception):
                raise SourceError(f"{node_name(shard.primary)}: {describe(reply)}")
            return [self._row(*item) for item in reply]
        raise SourceError(f"nobody has the slot of bucket {bucket}")

    async def keys(
        self, address: Address, buckets: Collection[int]
    ) -> AsyncIterator[list[tuple[int, Entry]]]:
        """All revocations of these buckets, which one node has, by their keys; in portions.

        SourceError: the node doesn't answer, or a bucket has moved from it, so that keys may have
        been missed.
        """
        lane = self._nodes.lane(address)
        async for found in self._walk(lane, buckets):
            yield found
        # Only now: what leaves this node from here on has been found here.
        for target, moving in (await self._moving(lane, buckets)).items():
            async for found in self._walk(self._nodes.lane(target), moving, asking=True):
                yield found
        moved = [b for b in buckets if self.by_primary([b]).get(address) is None]
        if moved:
            raise SourceError(f"bucket {moved[0]} moved while its keys were read")

    async def _walk(
        self, lane: Lane, buckets: Collection[int], *, asking: bool = False
    ) -> AsyncIterator[list[tuple[int, Entry]]]:
        """Revocations of these buckets whose keys stand at this node. `asking`: although their
        slots aren't its own yet.
        """
        cursor = b"0"
        while True:
            command = ("SCAN", cursor, "MATCH", "jwt:{*}:*", "COUNT", SCAN_COUNT)
            (reply,) = await self._read(lane, [command], READ_TIMEOUT)
            if isinstance(reply, Exception):
                raise SourceError(f"{lane.node}: {describe(reply)}")
            cursor, keys = reply
            found = [
                (key, match)
                for key in keys
                if (match := _KEY.fullmatch(key)) and int(match[1]) in buckets
            ]
            yield await self._entries(lane, found, asking=asking)
            if int(cursor) == 0:
                return

    async def _moving(
        self, lane: Lane, buckets: Collection[int]
    ) -> Mapping[Address, Collection[int]]:
        """Which of the buckets are on their way to another node, and to which. SourceError: one is
        this node's no more.

        Redis Cluster specification, "ASK redirection": a node says ASK of a key that it hasn't,
        where the key's slot is leaving it.
        """
        asked = list(buckets)
        commands = [("GET", blacklist_key(bucket, ANY_USER, NOWHERE)) for bucket in asked]
        targets: dict[Address, list[int]] = {}
        for bucket, reply in zip(
            asked, await self._read(lane, commands, READ_TIMEOUT), strict=True
        ):
            match reply:
                case MovedError():
                    self._moved(bucket, reply, lane.address)
                    raise SourceError(f"bucket {bucket} moved while its keys were read")
                case AskError():
                    target = (reply.host or lane.address[0], reply.port)
                    targets.setdefault(target, []).append(bucket)
                case Exception():
                    raise SourceError(f"{lane.node}: {describe(reply)}")
        return targets

    async def _entries(
        self, lane: Lane, keys: Sequence[tuple[bytes, re.Match[bytes]]], *, asking: bool
    ) -> list[tuple[int, Entry]]:
        commands: list[tuple[Any, ...]] = []
        for key, _ in keys:
            for name in ("PEXPIRETIME", "GET"):
                commands += [("ASKING",), (name, key)] if asking else [(name, key)]
        if not commands:
            return []
        replies = await self._read(lane, commands, READ_TIMEOUT)
        if asking:
            replies = replies[1::2]
        entries: list[tuple[int, Entry]] = []
        for (_, match), expires, value in zip(keys, replies[::2], replies[1::2], strict=True):
            failed = next((r for r in (expires, value) if isinstance(r, Exception)), None)
            if failed is not None and not str(failed).startswith("WRONGTYPE"):
                raise SourceError(f"{lane.node}: {describe(failed)}")
            entry = None if failed is not None else _entry_of_key(match, expires, value)
            if entry is not None:
                entries.append((int(match[1]), entry))
            elif expires != GONE:
                self.skipped += 1
        return entries

    async def _read(
        self, lane: Lane, commands: Sequence[tuple[Any, ...]], within: float
    ) -> list[Any]:
        try:
            return await lane.read(commands, within)
        except ReadError as error:
            raise SourceError(f"{lane.node}: {error}") from None

    async def _ask_elsewhere(
        self, ask: AskError, asked: Address, command: tuple[Any, ...], within: float
    ) -> Any:
        """Once, at the node to which the slot is being moved. The reply, or the error."""
        client = self._nodes.client((ask.host or asked[0], ask.port))
        pipeline = client.pipeline(transaction=False)
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(within):
                return (await pipeline.execute(raise_on_error=False))[1]
        except (RedisError, OSError, TimeoutError) as error:
            raise SourceError(describe(error)) from None

    def _moved(self, bucket: int, moved: MovedError, asked: Address) -> None:
        self._nodes.topology.moved(bucket, (moved.host or asked[0], moved.port))
        self._nodes.wake()

    def _row(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Row:
        texts = {
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in fields.items()
        }
        number = texts.get("seq", "")
        seq = int(number) if number.isdecimal() and len(number) <= MAX_DIGITS else 0
        try:
            return Row(entry_id.decode(), seq, Entry.of_fields(texts))
        except EntryError:
            self.skipped += 1
            return Row(entry_id.decode(), seq, None)


def _entry_of_key(match: re.Match[bytes], expires: int, value: bytes | None) -> Entry | None:
    """None: it has gone meanwhile. One without an end, which isn't ours, revokes for as long as
    any; a cut-off that can't be read counts as of when its key says it was made: someone meant to
    revoke something.
    """
    if expires == GONE or value is None:
        return None
    until = LATEST if expires == ENDLESS else expires
    text = value.decode(errors="replace")
    if match[4] is None:
        user, token = match[2].decode(), match[3].decode()
        return Entry(TOKEN, user, token, 0, until, text)
    cut, _, note = text.partition(" ")
    before = until - round((MAX_LIFETIME + MAX_LEEWAY) * 1000)
    if cut.isdecimal() and len(cut) <= MAX_DIGITS:
        before = int(cut)
    return Entry(USER, match[4].decode(), "", before, until, note)
