"""What was let through without the store is written down once it answers again."""

import time
from collections.abc import Awaitable
from functools import partial
from itertools import count

from authz.revocation.record import Clear, Unavailable
from authz.uses.ledger import Ledger
from authz.uses.owed import BATCH, OwedUses
from authz.uses.record import FIRST, USED, Use, used_key
from authz.uses.settler import Settler
from support.revocations import BUCKETS, Opened, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

NOW = 1_800_000_000.0
_numbers = count(1)


class Store:
    """Some buckets of it are silent."""

    def __init__(self, *silent: int) -> None:
        self.silent = set(silent)
        self.written: list[str] = []
        self.refused = 0

    def use(self, bucket: int, name: str, until: float) -> Awaitable[Use] | Unavailable:
        del until
        if bucket in self.silent:
            self.refused += 1
            return Unavailable("breaker_open")
        self.written.append(name)
        return self._say(USED if self.written.count(name) > 1 else FIRST)

    async def _say(self, use: Use) -> Use:
        return use


async def answers(told: Opened) -> bool:
    return await told.find(token_ref()) == Clear()


async def use(ledger: Ledger, name: str, until: float) -> Use:
    answer = ledger.use(3, name, until, time.time())
    return await answer if isinstance(answer, Awaitable) else answer


async def test_after_an_outage_the_store_is_told_and_other_sidecars_refuse(
    valkey: ValkeyServer,
) -> None:
    """But for what was refused for want of the store."""
    passed, refused = f"{next(_numbers):043}", f"{next(_numbers):043}"
    until = int(time.time()) + 60.0
    async with opened(valkey.url, timeout=0.05) as one, opened(valkey.url) as other:
        ledger, elsewhere = Ledger(one.store), Ledger(other.store)
        settler = Settler(ledger, time.time)
        settler.start()
        valkey.kill()
        for name in (passed, refused):
            assert isinstance(await use(ledger, name, until), Unavailable)
        ledger.forget(refused, until)
        assert len(ledger.owed) == 1
        valkey.restart()
        await eventually(lambda: not ledger.owed, "written down")
        assert ledger.owed.settled == {"written": 1, "present": 0, "expired": 0, "dropped": 0}
        assert valkey.client.exists(used_key(3, passed))
        await eventually(partial(answers, other), "the other one has noticed")
        for name, expected in ((passed, USED), (refused, FIRST)):
            assert await use(elsewhere, name, until) == expected
        await settler.aclose()


async def test_what_is_owed_is_told_when_a_sidecar_stops(valkey: ValkeyServer) -> None:
    async with opened(valkey.url) as told:
        ledger = Ledger(told.store)
        settler = Settler(ledger, time.time)
        settler.start()
        ledger.owed.add(3, "x", time.time() + 60)
        await settler.aclose()
        assert valkey.client.exists(used_key(3, "x"))


async def test_a_silent_bucket_is_asked_once_and_holds_up_no_other() -> None:
    owed, store = OwedUses(), Store(0)
    for number in range(3 * BATCH):
        owed.add(number % BUCKETS, str(number), NOW + 60)
    await owed.settle(store, NOW)
    assert len(owed) == 3 * BATCH // BUCKETS
    assert store.refused == 1
    store.silent.clear()
    await owed.settle(store, NOW)
    assert (len(owed), owed.settled["written"]) == (0, 3 * BATCH)


async def test_what_ran_out_meanwhile_is_dropped_and_what_is_there_is_counted() -> None:
    owed, store = OwedUses(), Store()
    store.written.append("there")
    owed.add(0, "over", NOW - 1)
    owed.add(0, "there", NOW + 60)
    await owed.settle(store, NOW)
    assert store.written == ["there", "there"]
    assert owed.settled == {"written": 0, "present": 1, "expired": 1, "dropped": 0}


async def test_memory_is_bounded() -> None:
    owed = OwedUses(capacity=2)
    for name in "abc":
        owed.add(0, name, NOW + 60)
    assert (len(owed), owed.settled["dropped"]) == (2, 1)
