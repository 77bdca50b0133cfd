"""Look-ups against a real server behind a proxy: gathered, bounded in time, learnt late."""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

import pytest

from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import Clear, Finding, Revoked, TokenRef, Unavailable
from authz.revocation.redis.lane import MAX_PIPELINE, MAX_PIPELINES_IN_FLIGHT, PROBE_TIMEOUT
from authz.revocation.redis.outage import MAX_IN_A_ROW, State
from authz.revocation.redis.question import read_reply
from authz.revocation.view import Revocations
from authz.settings import MAX_LEEWAY, MAX_LIFETIME
from authz.uses.record import FIRST
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.revocations import BUCKETS, Opened, of_token, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

TIMEOUT = 0.05
SCHEDULING = 0.3
"""Seconds that a busy machine may add to a wait."""


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[TcpProxy]:
    with TcpProxy(valkey.port) as proxy:
        yield proxy


def url_of(proxy: TcpProxy) -> str:
    return f"redis://{LOOPBACK}:{proxy.port}"


def breaker_state(told: Opened) -> State:
    (breaker,) = told.store.breakers().values()
    return breaker.state


# One pipeline


async def test_look_ups_of_one_turn_are_one_round_trip(valkey: ValkeyServer) -> None:
    """As the server counts what it reads, and the commands in it."""
    refs = [token_ref() for _ in range(100)]
    async with opened(valkey.url) as told:
        await told.find(token_ref())
        valkey.reset_counts()
        before = valkey.client.info("stats")["total_reads_processed"]
        found = await asyncio.gather(*map(told.find, refs))
        reads = valkey.client.info("stats")["total_reads_processed"] - before
        assert found == [Clear()] * 100
        assert told.pipelines == [1, 100]
        assert valkey.command_counts() == {"mget": 100}
        assert reads <= 3  # two of them were these calls of INFO; 32 KB are one or two reads


async def test_a_turn_of_very_many_is_split(valkey: ValkeyServer) -> None:
    async with opened(valkey.url) as told:
        count = 2 * MAX_PIPELINE + 10
        assert len(await asyncio.gather(*(told.find(token_ref()) for _ in range(count)))) == count
        assert sorted(told.pipelines) == [10, MAX_PIPELINE, MAX_PIPELINE]


async def test_more_than_a_few_pipelines_wait_and_then_share_one(
    valkey: ValkeyServer, proxy: TcpProxy
) -> None:
    async with opened(url_of(proxy)) as told:
        proxy.block("to_server")
        waiting = []
        for _ in range(20):  # turns of the loop
            waiting.append(asyncio.create_task(told.find(token_ref())))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        proxy.restore()
        assert await asyncio.gather(*waiting) == [Clear()] * 20
        assert len(told.pipelines) == MAX_PIPELINES_IN_FLIGHT + 1


async def test_equal_look_ups_of_many_checks_are_one_command(valkey: ValkeyServer) -> None:
    ref = token_ref()
    async with opened(valkey.url) as told:
        knowledge = Knowledge(
            revocations=100, negative_ttl=1.0, false_positives=1e-6, buckets=BUCKETS
        )
        view = Revocations(knowledge, time.time, time.monotonic)
        view.use(told.store)

        async def ask() -> Finding:
            answer = view.find(ref, time.time())
            return await answer if isinstance(answer, Awaitable) else answer

        valkey.reset_counts()
        tasks = [asyncio.create_task(ask()) for _ in range(50)]
        await asyncio.sleep(0)
        tasks.pop(0).cancel()  # the one that asked goes away
        assert await asyncio.gather(*tasks) == [Clear()] * 49
        assert valkey.command_counts() == {"mget": 1}


# In time


async def test_nobody_waits_longer_than_the_timeout_for_a_server_that_hangs(
    valkey: ValkeyServer,
) -> None:
    async with opened(valkey.url, timeout=TIMEOUT) as told:
        valkey.freeze()
        for _ in range(3):
            finding, waited = await told.timed_find(token_ref())
            assert finding == Unavailable("timeout")
            assert TIMEOUT - 0.01 <= waited < TIMEOUT + SCHEDULING


async def test_a_busy_sidecar_does_not_take_itself_for_a_slow_server(valkey: ValkeyServer) -> None:
    """A reply is read some turns of the loop after it was asked for. Where each takes a third of
    the time-out, as with many bad tokens at a time, the server is still believed to be well.
    """
    async with opened(valkey.url, timeout=TIMEOUT) as told:
        assert await told.find(token_ref()) == Clear()
        with busy(TIMEOUT / 3):
            for number in range(MAX_IN_A_ROW):
                assert await told.find(token_ref()) == Clear()
                use = told.store.use(0, f"{number}".ljust(43, "-"), time.time() + 60)
                assert not isinstance(use, Unavailable)
                assert await use == FIRST
        assert breaker_state(told) is State.CLOSED


async def test_a_burst_that_keeps_the_loop_busy_is_answered_all_the_same(
    valkey: ValkeyServer,
) -> None:
    """256 uses in one turn, and one turn behind it that takes longer than they may wait."""
    async with opened(valkey.url, timeout=TIMEOUT) as told:
        assert await told.find(token_ref()) == Clear()
        uses = [told.store.use(0, f"{n}".ljust(43, "."), time.time() + 60) for n in range(256)]
        asyncio.get_running_loop().call_soon(time.sleep, 2 * TIMEOUT)
        awaited = [use for use in uses if not isinstance(use, Unavailable)]
        assert await asyncio.gather(*awaited) == [FIRST] * 256
        assert breaker_state(told) is State.CLOSED


async def test_a_busy_sidecar_finds_that_the_server_is_back(valkey: ValkeyServer) -> None:
    """A probe's answer, too, is read some turns later: three of these take longer than it may."""
    async with opened(valkey.url, timeout=TIMEOUT) as told:
        valkey.freeze()
        for _ in range(MAX_IN_A_ROW):
            await told.find(token_ref())
        assert breaker_state(told) is State.OPEN
        valkey.thaw()
        with busy(PROBE_TIMEOUT / 2):
            await eventually(lambda: breaker_state(told) is State.CLOSED, "closed again")


@contextmanager
def busy(seconds: float) -> Iterator[None]:
    """Let each turn of the running loop take so long."""
    loop, working = asyncio.get_running_loop(), True

    def work() -> None:
        if working:
            time.sleep(seconds)
            loop.call_soon(work)

    work()
    try:
        yield
    finally:
        working = False


async def test_an_open_breaker_costs_no_wait_and_closes_when_the_server_is_back(
    valkey: ValkeyServer,
) -> None:
    async with opened(valkey.url, timeout=TIMEOUT) as told:
        valkey.freeze()
        for _ in range(MAX_IN_A_ROW):
            await told.find(token_ref())
        assert breaker_state(told) is State.OPEN
        for _ in range(100):
            assert told.store.find(token_ref()) == Unavailable("breaker_open")
        await eventually(lambda: told.store.status()["connected"] is False, "reported")
        valkey.thaw()
        await eventually(lambda: breaker_state(told) is State.CLOSED, "closed again")
        assert await told.find(token_ref()) == Clear()
        await eventually(lambda: told.store.status()["connected"], "reported")
        assert told.store.status()["error"] is None


async def test_many_checks_of_one_turn_count_as_one_failure(valkey: ValkeyServer) -> None:
    """A burst in one bad moment must not open the breaker."""
    async with opened(valkey.url, timeout=TIMEOUT) as told:
        valkey.freeze()
        found = await asyncio.gather(*(told.find(token_ref()) for _ in range(100)))
        assert found == [Unavailable("timeout")] * 100
        assert breaker_state(told) is State.CLOSED


async def test_a_server_that_is_gone_is_known_at_once_and_again_when_it_is_back(
    valkey: ValkeyServer,
) -> None:
    async with opened(valkey.url) as told:
        valkey.kill()
        finding, waited = await told.timed_find(token_ref())
        assert finding == Unavailable("connection")
        assert waited < 0.5  # of a timeout of 1
        while breaker_state(told) is State.CLOSED:
            await told.find(token_ref())
        valkey.restart()
        await eventually(lambda: breaker_state(told) is State.CLOSED, "closed again")
        assert await told.find(token_ref()) == Clear()


async def test_a_server_that_is_down_at_the_start_is_reached_when_it_appears(
    valkey: ValkeyServer,
) -> None:
    """Without a check that asks, and it isn't said to be reached before it is."""
    valkey.kill()
    async with opened(valkey.url, connected=False) as told:
        await eventually(
            lambda: "Connect call failed" in str(told.store.status()["error"]), "tried"
        )
        for _ in range(30):
            await asyncio.sleep(0.05)
            assert told.store.status()["connected"] is False
        valkey.restart()
        await eventually(lambda: told.store.status()["connected"], "connected", timeout=3)
        assert await told.find(token_ref()) == Clear()


async def test_an_answer_that_comes_late_is_learnt(valkey: ValkeyServer, proxy: TcpProxy) -> None:
    ref, other = token_ref(), token_ref()
    async with opened(url_of(proxy), timeout=TIMEOUT) as told:
        await told.store.revoke_token(of_token(ref))
        proxy.delay(2 * TIMEOUT, "to_client")
        found = await asyncio.gather(*map(told.find, (ref, other)))
        assert found == [Unavailable("timeout")] * 2
        assert told.learnt == []
        await eventually(lambda: len(told.learnt) == 2, "learnt")
        assert told.learnt == [(ref, Revoked(ref.expires_at + MAX_LEEWAY)), (other, Clear())]


async def test_a_server_that_is_always_a_little_late_does_not_flap(
    valkey: ValkeyServer, proxy: TcpProxy
) -> None:
    """Its late answers don't close the breaker, and a probe may take longer than a check: what
    closes it is a probe in time.
    """
    async with opened(url_of(proxy), timeout=0.02) as told:
        proxy.delay(0.3, "to_client")
        for _ in range(MAX_IN_A_ROW):
            await told.find(token_ref())
        assert breaker_state(told) is State.OPEN
        await eventually(lambda: told.learnt, "one came late")
        assert breaker_state(told) is State.OPEN
        proxy.restore()
        await eventually(lambda: breaker_state(told) is State.CLOSED, "closed")


async def test_closing_settles_what_is_being_asked(valkey: ValkeyServer) -> None:
    async with opened(valkey.url, timeout=0.3) as told:
        valkey.freeze()
        waiting = [asyncio.create_task(told.find(token_ref())) for _ in range(10)]
        for _ in range(2 * MAX_PIPELINES_IN_FLIGHT):
            waiting.append(asyncio.create_task(told.find(token_ref())))
            await asyncio.sleep(0)
        await told.store.aclose()
    async with asyncio.timeout(2):
        assert all(isinstance(one, Unavailable) for one in await asyncio.gather(*waiting))


async def test_an_error_of_the_server_is_an_error_and_not_a_clear_answer(
    valkey: ValkeyServer,
) -> None:
    """A key of another type (somebody's accident) is not `nil`: MGET says nil for it, GET an error.
    A server that refuses the command is unavailable.
    """
    async with opened(valkey.url) as told:
        valkey.command("ACL", "SETUSER", "default", "-mget")
        ref = token_ref()
        assert await told.find(ref) == Unavailable("error")
        assert told.learnt == []
        for _ in range(MAX_IN_A_ROW - 1):
            await told.find(ref)
        assert told.store.breakers()[f"{LOOPBACK}:{valkey.port}"].opened == 1


async def test_no_connection_is_left_behind(valkey: ValkeyServer) -> None:
    """However often it froze; and not many are needed meanwhile."""

    def clients() -> int:
        return sum(1 for one in valkey.client.client_list() if one["name"] == "authz")

    async with opened(valkey.url, timeout=0.01) as told:
        for _ in range(3):
            valkey.freeze()
            for _ in range(10):
                await asyncio.gather(*(told.find(token_ref()) for _ in range(5)))
            valkey.thaw()
            await eventually(lambda: breaker_state(told) is State.CLOSED, "closed")
        await asyncio.gather(*(told.find(token_ref()) for _ in range(5)))
        await eventually(lambda: clients() <= MAX_PIPELINES_IN_FLIGHT + 2, "few connections")
    await eventually(lambda: clients() == 0, "all closed")


# What the values say

REF = TokenRef("U", "T", 0, 1000, 2000)


@pytest.mark.parametrize(
    ("values", "finding"),
    [
        ([None, None, None], Clear()),
        ([b"{}", None, None], Revoked(2000 + MAX_LEEWAY)),
        ([None, b"{}", None], Revoked(2000 + MAX_LEEWAY)),
        ([b"", None, None], Revoked(2000 + MAX_LEEWAY)),
        ([None, None, b"1000000 {}"], Clear()),
        ([None, None, b"1000001 {}"], Revoked(1000.001 + MAX_LIFETIME + MAX_LEEWAY, 1000.001)),
        ([b"{}", None, b"1000001 {}"], Revoked(2000 + MAX_LEEWAY)),
        ([None, None, b"999999 {}"], Clear()),
        ([None, None, b"garbage"], Revoked(2000 + MAX_LEEWAY)),
        ([None, None, b""], Revoked(2000 + MAX_LEEWAY)),
    ],
)
def test_the_values_of_the_three_keys(values: list[bytes | None], finding: Finding) -> None:
    """A value that can't be read revokes: someone meant to revoke something."""
    assert read_reply(REF, values) == finding
