"""The ledger: what this process saw, then the store, on a real cluster."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from authz.revocation.record import Clear, Unavailable
from authz.revocation.redis.outage import State
from authz.settings import MAX_LEEWAY
from authz.uses.ledger import Ledger
from authz.uses.record import FIRST, USED, Use, used_key
from support.cluster import ValkeyCluster, slot_of
from support.revocations import Opened, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

BUCKET = 3
_numbers = count(1)


def new_name() -> str:
    return f"{next(_numbers):043}"


async def use(ledger: Ledger, name: str, *, until: float | None = None) -> Use:
    now = time.time()
    answer = ledger.use(BUCKET, name, int(now) + 60 if until is None else until, now)
    return await answer if isinstance(answer, Awaitable) else answer


@asynccontextmanager
async def two(url: str, **settings: Any) -> AsyncIterator[tuple[Ledger, Ledger, Opened]]:
    """The ledgers of two sidecars; the store of the first one."""
    async with opened(url, **settings) as one, opened(url, **settings) as other:
        yield Ledger(one.store), Ledger(other.store), one


# One use in all


async def test_of_many_tries_at_two_sidecars_one_is_the_first(cluster: ValkeyCluster) -> None:
    """Each sidecar asks the store once, however many try."""
    name = new_name()
    async with two(cluster.url) as (one, other, _):
        cluster.reset_counts()
        tries = [use(ledger, name, until=time.time() + 60.5) for ledger in (one, other) * 32]
        found = await asyncio.gather(*tries)
    assert sorted(map(str, found)) == sorted(map(str, [FIRST, *[USED] * 63]))
    assert cluster.master_of(BUCKET).command_counts()["set"] == 2
    assert one.results["used_here"] == other.results["used_here"] == 31
    counts = one.results.get("first", 0) + other.results.get("first", 0)
    assert (counts, one.results.get("used", 0) + other.results.get("used", 0)) == (1, 1)


async def test_a_use_is_written_down_until_no_clock_lets_it_count(valkey: ValkeyServer) -> None:
    name, until = new_name(), int(time.time()) + 90.25
    async with opened(valkey.url) as told:
        assert await use(Ledger(told.store), name, until=until) == FIRST
    expires = valkey.command("PEXPIRETIME", used_key(BUCKET, name))
    assert expires == round((until + MAX_LEEWAY) * 1000)


async def test_uses_and_look_ups_of_one_turn_are_one_pipeline(valkey: ValkeyServer) -> None:
    async with opened(valkey.url) as told:
        ledger = Ledger(told.store)
        ref = token_ref()
        use_of, finding = await asyncio.gather(use(ledger, new_name()), told.find(ref))
        assert (use_of, finding) == (FIRST, Clear())
        assert told.pipelines == [2]


async def test_without_a_store_memory_decides() -> None:
    ledger, name = Ledger(None), new_name()
    assert [await use(ledger, name, until=1e10) for _ in range(2)] == [FIRST, USED]


# Several processes of one sidecar


async def test_what_another_process_used_is_refused_without_asking() -> None:
    """And what it takes back is not, unless it was used here."""
    one, other = Ledger(None), Ledger(None)
    one.tell = lambda *told: other.hear([told], time.time())
    theirs, both, taken_back = new_name(), new_name(), new_name()
    assert await use(other, both, until=1e10) == FIRST
    for name in (theirs, both, taken_back):
        assert await use(one, name, until=1e10) == FIRST
    one.forget(taken_back, 1e10)
    one.forget(both, 1e10)
    assert other.remembered == 2
    assert [await use(other, name, until=1e10) for name in (theirs, both)] == [USED, USED]
    assert await use(other, taken_back, until=1e10) == FIRST
    assert other.results == {"first": 2, "used_here": 2}


# While a slot moves


async def test_a_use_is_one_on_either_side_of_a_moving_slot(cluster: ValkeyCluster) -> None:
    """Keys that have gone get ASK, the first try after the move MOVED."""
    target = next(node for node in cluster.masters if node is not cluster.master_of(BUCKET))
    before, during = new_name(), new_name()
    until = time.time() + 60.5
    async with two(cluster.url) as (one, other, _):
        assert await use(one, before, until=until) == FIRST
        await asyncio.to_thread(cluster.move_slot, BUCKET, target, finish=False)
        assert await use(other, before, until=until) == USED
        assert await use(one, during, until=until) == FIRST
        assert await use(other, during, until=until) == USED
        await asyncio.to_thread(cluster.finish_move, slot_of(BUCKET), target)
        after = new_name()
        assert await use(one, after, until=until) == FIRST
        assert await use(other, after, until=until) == USED


# While the store fails


async def test_while_the_store_is_gone_what_was_seen_here_is_refused(valkey: ValkeyServer) -> None:
    """At once, where it was seen; unavailable where it wasn't, which then counts as seen."""
    seen, new, until = new_name(), new_name(), time.time() + 60.5
    async with two(valkey.url, timeout=0.05) as (one, other, told):
        assert await use(one, seen, until=until) == FIRST
        valkey.kill()
        now = time.time()
        assert one.use(BUCKET, seen, until, now) == USED
        assert isinstance(await use(other, seen, until=until), Unavailable)
        assert isinstance(await use(one, new, until=until), Unavailable)
        assert one.use(BUCKET, new, until, now) == USED
        while (await use(one, new_name())) != Unavailable("breaker_open"):
            pass
        assert one.use(BUCKET, new_name(), until, now) == Unavailable("breaker_open")  # no wait
        assert all(breaker.state is State.OPEN for breaker in told.store.breakers().values())
        assert one.results["breaker_open"] >= 2


async def test_a_check_waits_for_one_time_out_at_most_and_else_asks(valkey: ValkeyServer) -> None:
    """What the store said of the revocation: where it took no time-out, as with a missing right to
    read, the use is written down all the same.
    """
    name, until = new_name(), time.time() + 60.5
    async with two(valkey.url) as (one, other, _):
        late = Unavailable("timeout")
        assert one.use(BUCKET, name, until, time.time(), late) == late
        answer = other.use(BUCKET, name, until, time.time(), Unavailable("error"))
        assert isinstance(answer, Awaitable)
        assert await answer == FIRST


async def test_a_use_that_did_not_come_about_can_be_tried_again(valkey: ValkeyServer) -> None:
    """After a 503 a client comes back. If the store got the call after all, it is used."""
    name, other, until = new_name(), new_name(), time.time() + 60.5
    async with opened(valkey.url, timeout=0.05) as told:
        ledger = Ledger(told.store)
        valkey.kill()
        for one in (name, other):
            assert isinstance(await use(ledger, one, until=until), Unavailable)
            ledger.forget(one, until)
        valkey.restart()
        valkey.command("SET", used_key(BUCKET, other), 1)
        await eventually(lambda: told.store.status()["connected"], "connected")
        assert await use(ledger, name, until=until) == FIRST
        assert await use(ledger, other, until=until) == USED


async def test_a_server_that_hangs_makes_nobody_wait_longer(valkey: ValkeyServer) -> None:
    async with opened(valkey.url, timeout=0.05) as told:
        ledger = Ledger(told.store)
        valkey.freeze()
        started = time.monotonic()
        assert await use(ledger, new_name()) == Unavailable("timeout")
        assert time.monotonic() - started < 0.4


async def test_a_check_that_went_away_has_used_nothing(valkey: ValkeyServer) -> None:
    """Unless the store had got the call."""
    name, until = new_name(), time.time() + 60.5
    async with opened(valkey.url) as told:
        ledger = Ledger(told.store)
        valkey.freeze()
        waiting = asyncio.create_task(use(ledger, name, until=until))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert ledger.remembered == 0
        assert not ledger.owed


@pytest.mark.parametrize("refusal", ["right", "memory"])
async def test_a_store_that_will_not_write_still_answers_look_ups(
    valkey: ValkeyServer, refusal: str
) -> None:
    """However often it refuses: what can't be used costs no check its look-up."""
    async with opened(valkey.url) as told:
        ledger = Ledger(told.store)
        if refusal == "right":
            valkey.command("ACL", "SETUSER", "default", "-set")
        else:
            valkey.command("CONFIG", "SET", "maxmemory", 1)
        for _ in range(20):
            assert await use(ledger, new_name()) == Unavailable("error")
        assert await told.find(token_ref()) == Clear()
        assert all(breaker.state is State.CLOSED for breaker in told.store.breakers().values())
        assert all(breaker.opened == 0 for breaker in told.store.breakers().values())
