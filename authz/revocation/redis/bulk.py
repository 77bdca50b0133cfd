"""Writes a stream of revocations, many in a call, in bounded memory.

Items are gathered by bucket. Of each bucket one batch is on its way at a time, and what comes in
meanwhile is its next one; of each node a few. Outcomes come in the order of the items, whichever
bucket was quicker, so that whoever reads a file can say: up to this line all is settled.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from authz.revocation.entry import Entry
from authz.revocation.redis.topology import Address
from authz.revocation.redis.writer import MAX_ENTRIES, Written
from authz.revocation.store import (
    Acknowledgement,
    Revocation,
    SlotMovingError,
    StoreError,
    StoreRefusedError,
    TokenRevocation,
)

WINDOW = 4096
"""Entries between the oldest item that isn't settled and the newest: two full batches for each of
16 buckets. With lines of 16 KiB, the longest, they are 64 MB; with common ones, 4 MB."""
WINDOW_A_BUCKET = 32
"""The same, for each bucket where there are many: or a batch would hold next to nothing."""

BATCHES_IN_FLIGHT = 2
"""Per node: one runs while the replicas of the other are waited for. A look-up waits for both at
most: 4 ms, see `MAX_ENTRIES`."""

DOWN_FOR = 15.0
"""Seconds for which a bucket that could not be written is not tried again; what belongs to it fails
at once. Each try holds up all others for `write_timeout`, 5 s."""

GRACE = 0.5
"""Seconds between a failure and its being told. Nodes that went together are given up within a few
milliseconds of each other; then nothing has failed, it is the store that is gone."""


class Item(Protocol):
    """What the caller knows a revocation by."""

    @property
    def revocation(self) -> Revocation | None:
        """None: there is nothing to write, and its outcome just keeps its place in the order."""
        ...


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[ItemT]):
    """What became of an item."""

    item: ItemT
    acknowledgement: Acknowledgement | None
    """None: it was not acknowledged, or there was nothing to write."""
    error: str = ""
    """Why it was not; repeating it is safe. Empty else."""


class Writes(Protocol):
    """What brings a batch through: `Writer`."""

    async def write(self, bucket: int, entries: Sequence[Entry]) -> Written: ...


class Places(Protocol):
    """Who has a bucket: `Nodes`."""

    def primary(self, bucket: int) -> Address | None: ...


class _Pending(Generic[ItemT]):
    """An item on its way: written to one bucket, or to all of them."""

    __slots__ = ("error", "item", "left", "repeated", "replicas", "weight")

    def __init__(self, item: ItemT, buckets: int) -> None:
        self.item = item
        self.left = buckets
        self.weight = max(1, buckets)
        self.replicas: int | None = None
        self.repeated = True
        self.error = ""

    def acknowledged(self, replicas: int, *, repeated: bool) -> None:
        self.left -= 1
        self.replicas = replicas if self.replicas is None else min(self.replicas, replicas)
        self.repeated &= repeated

    def failed(self, error: str) -> None:
        self.left -= 1
        self.error = self.error or error

    def outcome(self) -> Outcome[ItemT]:
        if self.error or self.replicas is None:
            return Outcome(self.item, None, self.error)
        return Outcome(self.item, Acknowledgement(self.replicas, self.repeated))


@dataclass(frozen=True, slots=True)
class _Down:
    """A bucket that could not be written."""

    until: float
    """In seconds of the loop's clock."""
    error: str


class Bulk(Generic[ItemT]):
    """One run. Make it in a running loop."""

    def __init__(self, writer: Writes, places: Places, buckets: int) -> None:
        self._writer = writer
        self._places = places
        self._buckets = buckets
        self._window = max(WINDOW, WINDOW_A_BUCKET * buckets)
        self._loop = asyncio.get_running_loop()
        self._order: deque[_Pending[ItemT]] = deque()
        self._open = 0
        self._room = asyncio.Event()
        self._settled = asyncio.Event()
        self._waiting: dict[int, deque[tuple[_Pending[ItemT], Entry]]] = {}
        self._working: set[int] = set()
        self._slots: dict[Address | None, asyncio.Semaphore] = {}
        self._down: dict[int, _Down] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def revoke(self, items: AsyncIterable[ItemT]) -> AsyncGenerator[Outcome[ItemT], None]:
        """Write what the items say; the outcome of each, in their order.

        StoreError: no bucket can be written any more. The items without an outcome may have been
        written or not; repeating them is safe.
        """
        feeding = self._spawn(self._feed(items))
        try:
            while True:
                while self._order and not self._order[0].left:
                    pending = self._order.popleft()
                    self._open -= pending.weight
                    self._room.set()
                    yield pending.outcome()
                if self._failure is not None:
                    raise self._failure
                if feeding.done() and not self._order:
                    return
                self._settled.clear()
                await self._settled.wait()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, items: AsyncIterable[ItemT]) -> None:
        async for item in items:
            while self._open >= self._window:
                self._room.clear()
                await self._room.wait()
            self._take(item)

    def _take(self, item: ItemT) -> None:
        revocation = item.revocation
        buckets: Sequence[int] = ()
        if revocation is not None:
            whole = revocation.bucket is None
            buckets = range(self._buckets) if whole else (revocation.bucket or 0,)
        pending = _Pending(item, len(buckets))
        self._order.append(pending)
        self._open += pending.weight
        if revocation is None:
            self._settled.set()
            return
        entry = (
            Entry.of_token(revocation)
            if isinstance(revocation, TokenRevocation)
            else Entry.of_user(revocation)
        )
        for bucket in buckets:
            self._waiting.setdefault(bucket, deque()).append((pending, entry))
            if bucket not in self._working:
                self._working.add(bucket)
                self._spawn(self._work(bucket))

    async def _work(self, bucket: int) -> None:
        """Write what waits for a bucket, batch after batch, until nothing does."""
        waiting = self._waiting[bucket]
        while waiting:
            async with self._slot(bucket):
                batch = [waiting.popleft() for _ in range(min(len(waiting), MAX_ENTRIES))]
                await self._write(bucket, batch)
        self._working.discard(bucket)

    def _slot(self, bucket: int) -> asyncio.Semaphore:
        address = self._places.primary(bucket)
        slot = self._slots.get(address)
        if slot is None:
            slot = self._slots[address] = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        return slot

    async def _write(self, bucket: int, batch: Sequence[tuple[_Pending[ItemT], Entry]]) -> None:
        down = self._down.get(bucket)
        if down is not None and self._loop.time() < down.until:
            self._fail(batch, down.error)
            return
        try:
            written = await self._writer.write(bucket, [entry for _, entry in batch])
        except StoreError as error:
            self._give_up(bucket, error)
            await asyncio.sleep(GRACE)
            self._fail(batch, str(error))
            return
        self._down.pop(bucket, None)
        for (pending, _), repeated in zip(batch, written.repeated, strict=True):
            pending.acknowledged(written.replicas, repeated=repeated)
        self._settled.set()

    def _fail(self, batch: Sequence[tuple[_Pending[ItemT], Entry]], error: str) -> None:
        for pending, _ in batch:
            pending.failed(error)
        self._settled.set()

    def _give_up(self, bucket: int, error: StoreError) -> None:
        """Not for this batch only: on the bucket, and where its node is gone, on all of the node's.
        Where no bucket is left, on the store.
        """
        node_gone = not isinstance(error, StoreRefusedError | SlotMovingError)
        primary = self._places.primary(bucket)
        now = self._loop.time()
        for other in range(self._buckets):
            if other == bucket or (node_gone and self._places.primary(other) == primary):
                self._down[other] = _Down(now + DOWN_FOR, str(error))
        if sum(now < down.until for down in self._down.values()) == self._buckets:
            self._stop(error)

    def _stop(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self._settled.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._stop(failure)
        self._settled.set()
