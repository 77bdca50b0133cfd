"""Requests are counted in Redis for all processes, and here while it is gone."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from authz.settings import StoreSettings
from authz.settings.token_limits import TokenLimitsSettings
from authz.tokens.limits import limiter as limiter_module
from authz.tokens.limits.limiter import Limiter
from authz.tokens.limits.storage import close_storage, open_storage
from support.cluster import ValkeyCluster
from support.valkey import ValkeyServer
from support.waiting import eventually

RATES = TokenLimitsSettings(issue_client="3/hour", issue_user="1/second", refresh_client=None)


@asynccontextmanager
async def limiter_at(url: str) -> AsyncIterator[Limiter]:
    storage = open_storage(StoreSettings(url=SecretStr(url)))
    try:
        yield Limiter(RATES, storage)
    finally:
        await close_storage(storage)


async def hits(limiter: Limiter, count: int, who: str = "billing") -> list[bool]:
    """Whether each of so many requests may go on."""
    return [await limiter.hit("issue_client", who) is None for _ in range(count)]


async def test_two_processes_count_together_on_a_cluster(cluster: ValkeyCluster) -> None:
    async with limiter_at(cluster.url) as one, limiter_at(cluster.url) as other:
        for who in (f"client-{n}" for n in range(8)):  # on all nodes
            assert await hits(one, 2, who) == [True, True]
            assert await hits(other, 2, who) == [True, False]
            after = await one.hit("issue_client", who)
            assert after is not None
            assert 0 <= after <= 3600
        assert one.shared_answers
        assert one.failures == 0


async def test_looking_does_not_count(valkey: ValkeyServer) -> None:
    async with limiter_at(valkey.url) as limiter:
        for _ in range(5):
            assert await limiter.look("issue_client", "billing") is None
        assert await hits(limiter, 4) == [True, True, True, False]
        assert await limiter.look("issue_client", "billing") is not None


async def test_what_is_not_limited_is_not_counted(valkey: ValkeyServer) -> None:
    async with limiter_at(valkey.url) as limiter:
        for _ in range(10):
            assert await limiter.hit("refresh_client", "billing") is None
    assert valkey.client.keys() == []


async def test_nothing_of_who_is_counted_stands_in_the_store(valkey: ValkeyServer) -> None:
    """A user may be called anything, and it is nobody's business."""
    async with limiter_at(valkey.url) as limiter:
        await limiter.hit("issue_client", "al}ice{/é\ud800")
        (key,) = valkey.command("KEYS", "*")
    assert key.startswith(b"jwt:limits:")
    assert b"ice" not in key
    assert 0 < valkey.client.ttl(key) <= 2 * 3600


async def test_without_redis_each_process_counts_for_itself_until_it_is_back(
    valkey: ValkeyServer,
) -> None:
    async with limiter_at(valkey.url) as limiter:
        assert await hits(limiter, 3) == [True, True, True]
        valkey.kill()
        assert await hits(limiter, 4) == [True, True, True, False]
        assert not limiter.shared_answers
        valkey.restart()

        async def shared_again() -> bool:
            await limiter.look("issue_client", "another")
            return limiter.shared_answers

        await eventually(shared_again, "counted in Redis again")


async def test_while_redis_hangs_one_request_a_second_waits(valkey: ValkeyServer) -> None:
    loop = asyncio.get_running_loop()
    async with limiter_at(valkey.url) as limiter:
        await limiter.hit("issue_client", "billing")
        valkey.freeze()
        started = loop.time()
        await asyncio.gather(*(limiter.hit("issue_client", f"client-{n}") for n in range(20)))
        first = loop.time() - started
        started = loop.time()
        await asyncio.gather(*(limiter.hit("issue_client", f"other-{n}") for n in range(20)))
        second = loop.time() - started
        valkey.thaw()
    assert first < 2
    assert second < limiter_module.SHARED_TIMEOUT


async def test_alone_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "MAX_LOCAL", 10)
    limiter = Limiter(RATES, None)
    outcomes = [await limiter.hit("issue_client", f"client-{n}") for n in range(30)]
    assert outcomes[:5] == [None] * 5
    assert outcomes[-1] is not None


async def test_once_the_windows_are_over_there_is_room_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter_module, "MAX_LOCAL", 10)
    monkeypatch.setattr(limiter_module, "SHARED_RETRY", 0.1)
    limiter = Limiter(RATES, None)
    for n in range(30):
        await limiter.hit("issue_user", f"user-{n}")
    assert await limiter.hit("issue_user", "another") is not None

    async def room() -> bool:
        return await limiter.hit("issue_user", f"user-{time.monotonic()}") is None

    await eventually(room, "there is room", timeout=5)


async def test_a_window_ends() -> None:
    limiter = Limiter(RATES, None)
    assert await limiter.hit("issue_user", "alice") is None
    assert await limiter.hit("issue_user", "alice") is not None

    async def free() -> bool:
        return await limiter.look("issue_user", "alice") is None

    await eventually(free, "the window is over", timeout=4)
