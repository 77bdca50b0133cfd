"""A store in memory that a feed can follow, and everything that can become of it.

It has what `revoke.lua` writes: keys, numbered entries, a tip and pushes; of its replies each is
made when the test says so, and arrives when the test says so.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from authz.revocation.entry import TOKEN, Entry
from authz.revocation.feed import reading
from authz.revocation.feed.position import NOTHING, Push, Tip
from authz.revocation.feed.source import Row, SourceError
from authz.revocation.record import ANY_USER, Answer, Clear, Revoked, TokenRef
from authz.revocation.redis.topology import Address

NODE: Address = ("store", 1)
PAGE = 2
"""Entries a page has here, so that there are several."""


@dataclass(slots=True)
class Bucket:
    """What one bucket holds."""

    rows: list[Row] = field(default_factory=list)
    tip: Tip = NOTHING
    keys: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By user and TID, the latter empty for a cut-off."""


class Data:
    """One copy of the store."""

    def __init__(self, buckets: int) -> None:
        self.buckets = [Bucket() for _ in range(buckets)]

    def entry(self, bucket: int, user: str, token: str, now: float) -> Entry | None:
        """What a key holds, unless it has expired."""
        entry = self.buckets[bucket].keys.get((user, token))
        return entry if entry is not None and now * 1000 < entry.expires else None

    def find(self, ref: TokenRef, now: float) -> Answer:
        """What a look-up says."""
        for user in (ref.user, ANY_USER):
            entry = self.entry(ref.bucket, user, ref.token, now)
            if entry is not None:
                return Revoked(entry.expires / 1000)
        cut = self.entry(ref.bucket, ref.user, "", now)
        if cut is not None and ref.issued_at < cut.before / 1000:
            return Revoked(cut.expires / 1000, cut.before / 1000)
        return Clear()


@dataclass(slots=True, eq=False)
class Request:
    """The feed has asked, and waits."""

    make: Callable[[], Any]
    arrived: asyncio.Future[Any]
    for_tips: bool = False
    reply: Any = None
    made_at: float | None = None
    """True time."""


class World:
    """The store as it is now, its older copies, and what is under way."""

    def __init__(self, buckets: int) -> None:
        self.refusals: dict[int, str] = {}
        self.skipped = 0
        self.data = Data(buckets)
        self.copies: list[Data] = []
        self.pushes: list[tuple[int, Push]] = []
        """Published and not delivered yet."""
        self.requests: list[Request] = []
        self.now = 1_800_000_000.0
        """True time. Seconds since 1970."""
        self.named_at = 0.0
        """True time as of which the feed was told the tips."""
        self._made = 0

    # What the script does

    def write(self, bucket: int, entry: Entry) -> None:
        """As `revoke.lua` with one revocation."""
        here = self.data.buckets[bucket]
        known = self.data.entry(bucket, entry.user, entry.token, self.now)
        if known is not None and entry.kind == TOKEN:
            if entry.expires <= known.expires:
                return
        elif known is not None and entry.before <= known.before:
            return
        here.keys[entry.user, entry.token] = entry
        self._append(here, bucket, entry)

    def _append(self, here: Bucket, bucket: int, entry: Entry) -> None:
        self._made += 1
        tip = here.tip
        if tip == NOTHING:
            tip = Tip(f"epoch-{self._made}", 0, "")
        began_at_first = not here.rows if tip.seq == 0 else (
            bool(here.rows) and here.rows[0].seq == tip.first
        )  # fmt: skip
        row = Row(f"{1_000_000 + self._made}-0", tip.seq + 1, entry)
        here.rows.append(row)
        first = here.rows[0].seq if began_at_first else tip.first
        here.tip = Tip(tip.epoch, row.seq, row.id, first)
        end = Tip(tip.epoch, row.seq, row.id)
        self.pushes.append((bucket, Push(tip.epoch, tip.id, row.seq, end, [entry])))

    # What becomes of the store

    def copy(self) -> None:
        """A replica gets as far as this."""
        self.copies.append(deepcopy(self.data))

    def fail_over(self, copy: Data) -> None:
        """A replica that was that far has become the primary."""
        self.data = deepcopy(copy)

    def flush(self) -> None:
        self.data = Data(len(self.data.buckets))

    def cut(self, bucket: int, left: int) -> None:
        """XTRIM by somebody else: so many of the newest entries stay."""
        rows = self.data.buckets[bucket].rows
        del rows[: max(0, len(rows) - left)]

    # What the feed asks: the part of `Source`

    def by_primary(self, buckets: Collection[int]) -> dict[Address, list[int]]:
        return {NODE: list(buckets)} if buckets else {}

    def answers(self, address: Address) -> bool:
        assert address == NODE
        return True

    def read_map(self) -> None: ...

    async def tips(
        self, address: Address, buckets: Sequence[int], within: float
    ) -> Mapping[int, Tip]:
        assert (address, within > 0) == (NODE, True)
        asked = list(buckets)
        tips: Mapping[int, Tip] = await self._ask(
            lambda: {bucket: self.data.buckets[bucket].tip for bucket in asked}, for_tips=True
        )
        return tips

    async def page(self, bucket: int, start: str) -> list[Row]:
        after, wanted = start.startswith("("), start.removeprefix("(")

        def make() -> list[Row]:
            found = [
                row
                for row in self.data.buckets[bucket].rows
                if wanted == reading.BEGINNING or (row.id > wanted if after else row.id >= wanted)
            ]
            return found[:PAGE]

        rows: list[Row] = await self._ask(make)
        return rows

    async def keys(
        self, address: Address, buckets: Collection[int]
    ) -> AsyncIterator[list[tuple[int, Entry]]]:
        """In two portions, as SCAN: what is there all the while is in one of them."""
        assert address == NODE
        asked = sorted(buckets)
        for half in (0, 1):
            found: list[tuple[int, Entry]] = await self._ask(partial(self._portion, asked, half))
            yield found

    def _portion(self, buckets: Sequence[int], half: int) -> list[tuple[int, Entry]]:
        return [
            (bucket, entry)
            for bucket in buckets
            for key, entry in self.data.buckets[bucket].keys.items()
            if sum(map(ord, key[1])) % 2 == half and self.now * 1000 < entry.expires
        ]

    async def _ask(self, make: Callable[[], Any], *, for_tips: bool = False) -> Any:
        request = Request(make, asyncio.get_running_loop().create_future(), for_tips)
        self.requests.append(request)
        return await request.arrived

    # What becomes of a request

    def make(self, request: Request) -> None:
        """The node answers. The reply is under way."""
        if request.made_at is None:
            request.reply, request.made_at = request.make(), self.now

    def arrive(self, request: Request) -> None:
        self.make(request)
        self.requests.remove(request)
        if request.for_tips:
            self.named_at = request.made_at or 0.0
        if not request.arrived.done():
            request.arrived.set_result(request.reply)

    def fail(self, request: Request) -> None:
        self.requests.remove(request)
        if not request.arrived.done():
            request.arrived.set_exception(SourceError("it doesn't answer"))
