"""Many revocations at once: in which batches they go out, and what becomes of each."""

import asyncio
import contextlib
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from authz.revocation.entry import Entry
from authz.revocation.record import Note
from authz.revocation.redis import bulk
from authz.revocation.redis.bulk import BATCHES_IN_FLIGHT, WINDOW, Bulk, Outcome
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
from support.cluster import ValkeyCluster
from support.revocations import BUCKETS, find, of_token, of_user, opened, token_ref

NODES: list[Address] = [("a", 1), ("b", 2), ("c", 3)]


@dataclass(frozen=True)
class One:
    """An item."""

    number: int
    revocation: Revocation | None


def token(number: int, bucket: int | None = None) -> One:
    bucket = number % BUCKETS if bucket is None else bucket
    note = Note("", "", 0)
    return One(number, TokenRevocation(f"T{number}", "U", bucket, 2**33, note))


def userless(number: int) -> One:
    return One(number, TokenRevocation(f"T{number}", None, None, 2**33, Note("", "", 0)))


@dataclass
class FakeStore:
    """Writes nothing, but says what it was asked to."""

    trouble: Callable[[int], StoreError | None] = lambda _: None
    """What comes of a write to a bucket."""
    calls: list[tuple[int, list[str]]] = field(default_factory=list)
    known: set[tuple[int, str]] = field(default_factory=set)
    in_flight: Counter[int] = field(default_factory=Counter)
    most_in_flight: Counter[object] = field(default_factory=Counter)
    replicas: Callable[[int], int] = lambda _: 1
    held: asyncio.Event | None = None
    """While it is not set nothing is answered."""

    async def write(self, bucket: int, entries: Sequence[Entry]) -> Written:
        node = self.primary(bucket)
        self.in_flight[bucket] += 1
        for place in (bucket, node):
            busy = sum(n for b, n in self.in_flight.items() if place in {b, self.primary(b)})
            self.most_in_flight[place] = max(self.most_in_flight[place], busy)
        try:
            await asyncio.sleep(0)
            if self.held is not None:
                await self.held.wait()
            self.calls.append((bucket, [entry.token for entry in entries]))
            if (error := self.trouble(bucket)) is not None:
                raise error
        finally:
            self.in_flight[bucket] -= 1
        repeated = []
        for entry in entries:
            repeated.append((bucket, entry.token) in self.known)
            self.known.add((bucket, entry.token))
        return Written(self.replicas(bucket), repeated)

    def primary(self, bucket: int) -> Address:
        return NODES[bucket % 3]


async def items(ones: Iterable[One]) -> AsyncIterator[One]:
    for one in ones:
        yield one


async def outcomes_of(store: FakeStore, ones: Iterable[One]) -> list[Outcome[One]]:
    run = Bulk[One](store, store, BUCKETS).revoke(items(ones))
    async with contextlib.aclosing(run):
        return [outcome async for outcome in run]


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "GRACE", 0.0)


# Batches


async def test_outcomes_come_in_the_order_of_the_items() -> None:
    """Whichever bucket is quicker: one is held back here."""
    store = FakeStore()
    ones = [token(n) for n in range(5000)]
    found = await outcomes_of(store, ones)
    assert [outcome.item for outcome in found] == ones
    assert {outcome.acknowledgement for outcome in found} == {Acknowledgement(1, repeated=False)}


async def test_batches_are_of_one_bucket_and_of_bounded_size() -> None:
    store = FakeStore()
    await outcomes_of(store, [token(n) for n in range(10_000)])
    for bucket, tokens in store.calls:
        assert {int(one[1:]) % BUCKETS for one in tokens} == {bucket}
        assert len(tokens) <= MAX_ENTRIES
    assert len(store.calls) < 2 * 10_000 / MAX_ENTRIES  # most of them are full


async def test_few_batches_are_in_flight() -> None:
    """One of a bucket, so that what was given later comes later; and few of a node."""
    store = FakeStore()
    await outcomes_of(store, [token(n) for n in range(10_000)])
    assert max(store.most_in_flight[bucket] for bucket in range(BUCKETS)) == 1
    assert max(store.most_in_flight[node] for node in NODES) == BATCHES_IN_FLIGHT


async def test_a_token_without_a_user_goes_to_every_bucket_and_counts_once() -> None:
    """Confirmed by as many replicas as the worst of them; a repeat where all had it."""
    store = FakeStore(replicas=lambda bucket: 0 if bucket == 7 else 2)
    (first,) = await outcomes_of(store, [userless(1)])
    assert first.acknowledgement == Acknowledgement(0, repeated=False)
    assert {bucket for bucket, _ in store.calls} == set(range(BUCKETS))
    store.known.discard((3, "T1"))
    first, second = await outcomes_of(store, [userless(1), userless(1)])
    assert first.acknowledgement == Acknowledgement(0, repeated=False)
    assert second.acknowledgement == Acknowledgement(0, repeated=True)


async def test_an_item_with_nothing_to_write_keeps_its_place() -> None:
    found = await outcomes_of(FakeStore(), [token(0), One(1, None), token(2), One(3, None)])
    assert [outcome.item.number for outcome in found] == [0, 1, 2, 3]
    assert [outcome.acknowledgement is None for outcome in found] == [False, True, False, True]
    assert not any(outcome.error for outcome in found)


async def test_no_items_have_no_outcomes() -> None:
    assert await outcomes_of(FakeStore(), []) == []


async def test_only_so_many_items_are_taken_ahead_of_the_oldest() -> None:
    """However slow one bucket is and however quick the others."""
    taken = 0

    def ones() -> Iterable[One]:
        nonlocal taken
        for number in range(20_000):
            taken += 1
            yield token(number)

    store = FakeStore(held=asyncio.Event())
    run = Bulk[One](store, store, BUCKETS).revoke(items(ones()))
    first = asyncio.ensure_future(anext(run))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert taken <= WINDOW + 1
    assert store.held
    store.held.set()
    await first
    assert len([outcome async for outcome in run]) == 20_000 - 1


async def test_memory_does_not_grow_with_the_number_of_items() -> None:
    """Not by what the store keeps, which is none of ours."""

    class Forgetful(FakeStore):
        async def write(self, bucket: int, entries: Sequence[Entry]) -> Written:
            del bucket
            await asyncio.sleep(0)
            return Written(1, [False] * len(entries))

    async def peak(count: int) -> int:
        store = Forgetful()
        tracemalloc.reset_peak()
        async for _ in Bulk[One](store, store, BUCKETS).revoke(items(map(token, range(count)))):
            pass
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        await peak(10_000)
        few, many = await peak(10_000), await peak(50_000)
    finally:
        tracemalloc.stop()
    assert many < 1.3 * few


# Trouble


def gone(*buckets: int) -> Callable[[int], StoreError | None]:
    return lambda bucket: StoreError("no answer") if bucket in buckets else None


async def test_what_belongs_to_a_node_that_is_gone_fails_at_once_and_the_rest_goes_on() -> None:
    """After one try of each batch that was on its way, not after one of every batch."""
    node = NODES[1]
    store = FakeStore(trouble=gone(*(b for b in range(BUCKETS) if NODES[b % 3] == node)))
    found = await outcomes_of(store, [token(n) for n in range(10_000)])
    for outcome in found:
        dead = NODES[outcome.item.number % BUCKETS % 3] == node
        assert (outcome.error == "no answer") is dead
        assert (outcome.acknowledgement is None) is dead
    tried = [bucket for bucket, _ in store.calls if NODES[bucket % 3] == node]
    assert len(tried) <= BATCHES_IN_FLIGHT


async def test_a_node_that_was_gone_is_tried_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "DOWN_FOR", 0.0)
    answers = [StoreError("no answer")]
    store = FakeStore(trouble=lambda bucket: answers.pop() if bucket == 1 and answers else None)
    found = await outcomes_of(store, [token(n, 1) for n in range(500)])
    assert [bool(outcome.error) for outcome in found] == [True] * MAX_ENTRIES + [False] * (
        500 - MAX_ENTRIES
    )


@pytest.mark.parametrize("error", [StoreRefusedError("WRONGTYPE"), SlotMovingError("ASK")])
async def test_trouble_of_one_bucket_leaves_the_others_of_its_node_alone(
    error: StoreError,
) -> None:
    store = FakeStore(trouble=lambda bucket: error if bucket == 4 else None)
    found = await outcomes_of(store, [token(n) for n in range(5000)])
    assert all((outcome.item.number % BUCKETS == 4) is bool(outcome.error) for outcome in found)


async def test_where_all_nodes_are_gone_it_stops_and_no_item_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the store that failed: the items are to be given again."""
    monkeypatch.setattr(bulk, "GRACE", 0.05)
    failing = False
    store = FakeStore(trouble=lambda _: StoreError("no answer") if failing else None)
    found: list[Outcome[One]] = []
    run = Bulk[One](store, store, BUCKETS).revoke(items(token(n) for n in range(10_000)))

    async def read() -> None:
        nonlocal failing
        async for outcome in run:
            found.append(outcome)
            failing = len(found) > 1000

    with pytest.raises(StoreError, match="no answer"):
        await read()
    assert not any(outcome.error for outcome in found)
    assert 1000 < len(found) < 10_000
    assert len(store.calls) < 10_000 / MAX_ENTRIES


async def test_a_token_without_a_user_fails_where_one_bucket_does() -> None:
    store = FakeStore(trouble=gone(1, 4, 7, 10, 13))
    (found,) = await outcomes_of(store, [userless(1)])
    assert (found.acknowledgement, found.error) == (None, "no answer")


async def test_what_goes_wrong_in_the_source_is_raised() -> None:
    async def broken() -> AsyncIterator[One]:
        yield token(1)
        raise OSError("the disk is gone")

    store = FakeStore()
    with pytest.raises(OSError, match="the disk is gone"):
        async for _ in Bulk[One](store, store, BUCKETS).revoke(broken()):
            pass


async def test_closing_it_ends_its_tasks() -> None:
    store = FakeStore(held=asyncio.Event())
    before = asyncio.all_tasks()
    run = Bulk[One](store, store, BUCKETS).revoke(items(token(n) for n in range(1000)))
    first = asyncio.ensure_future(anext(run))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await run.aclose()
    assert asyncio.all_tasks() == before


# A real cluster


async def test_every_revocation_that_is_acknowledged_is_in_the_cluster(
    cluster: ValkeyCluster,
) -> None:
    refs = [token_ref(bucket=n % BUCKETS) for n in range(3000)]
    cut = time.time() + 1
    ones = [
        One(n, of_user(ref, cut) if n % 10 == 0 else of_token(ref, userless=n % 10 == 1))
        for n, ref in enumerate(refs)
    ]
    async with opened(cluster.url) as told:
        found = [outcome async for outcome in told.store.revoke_many(items(ones))]
        assert [outcome.item for outcome in found] == ones
        acknowledged = {outcome.acknowledgement for outcome in found}
        assert acknowledged == {Acknowledgement(1, repeated=False)}
        answers = await asyncio.gather(*(find(told.store, ref) for ref in refs))
        assert all(type(answer).__name__ == "Revoked" for answer in answers)
        again = [outcome async for outcome in told.store.revoke_many(items(ones))]
        assert {outcome.acknowledgement for outcome in again} == {Acknowledgement(1, repeated=True)}
    calls = cluster.command_counts()["evalsha"]
    assert calls < 2 * (3000 + 300 * BUCKETS) / 16  # together, not one by one


async def test_a_failover_in_the_middle_loses_nothing_that_was_acknowledged(
    cluster: ValkeyCluster,
) -> None:
    """A master is killed for good; its replica takes over, and the run goes through."""
    refs = [token_ref(bucket=n % BUCKETS) for n in range(30_000)]
    dead = cluster.master_of(0)
    found: list[Outcome[One]] = []
    async with opened(cluster.url, start=False, write_timeout=15) as told:
        killing = None
        async for outcome in told.store.revoke_many(
            items(One(n, of_token(ref)) for n, ref in enumerate(refs))
        ):
            found.append(outcome)
            if len(found) == 5000:
                killing = asyncio.create_task(asyncio.to_thread(cluster.kill, dead))
        assert killing is not None
        await killing
    assert len(found) == len(refs)
    await asyncio.to_thread(cluster.wait_failover, dead)
    keys: set[bytes] = set()
    for node in cluster.nodes:
        if node.up and node.is_master:
            keys.update(node.client.scan_iter(match="*blacklist*", count=1000))
    lost = [
        outcome
        for outcome, ref in zip(found, refs, strict=True)
        if outcome.acknowledgement
        and f"jwt:{{{ref.bucket}}}:blacklist:{ref.user}:{ref.token}".encode() not in keys
    ]
    assert not lost
    assert all(outcome.acknowledgement for outcome in found)


@pytest.mark.parametrize("finish", [False, True])
async def test_while_a_slot_is_moved_only_its_own_wait(
    cluster: ValkeyCluster, finish: bool
) -> None:
    """They fail if the move takes longer than `write_timeout`; whoever is quicker loses nothing."""
    refs = [token_ref(bucket=n % BUCKETS) for n in range(2000)]
    target = next(node for node in cluster.masters if node is not cluster.master_of(3))
    async with opened(cluster.url, start=False, write_timeout=5 if finish else 0.5) as told:
        await told.store.revoke_token(of_token(token_ref(bucket=3)))
        slot = await asyncio.to_thread(cluster.move_slot, 3, target, finish=False)
        run = told.store.revoke_many(items(One(n, of_token(ref)) for n, ref in enumerate(refs)))
        finishing = None
        found: list[Outcome[One]] = []
        async for outcome in run:
            found.append(outcome)
            if finish and finishing is None:
                finishing = asyncio.create_task(
                    asyncio.to_thread(cluster.finish_move, slot, target)
                )
    failed = {outcome.item.number % BUCKETS for outcome in found if outcome.error}
    assert failed == (set() if finish else {3})
    assert all("the slot is being moved" in one.error for one in found if one.error)
