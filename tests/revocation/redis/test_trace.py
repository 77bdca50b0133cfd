"""What Redis still knows of tokens afterwards: by their keys, and by the stream behind them."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from authz.observe import events
from authz.revocation.memory import MemoryStore
from authz.revocation.record import (
    Note,
    TokenRef,
    Unavailable,
    blacklist_key,
    feed_key,
    not_before_key,
)
from authz.revocation.redis import trace as trace_module
from authz.revocation.redis.store import RedisStore
from authz.revocation.store import TokenRevocation, Trace, UserRevocation
from support.cluster import ValkeyCluster
from support.revocations import BUCKETS, of_token, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

EXPIRED_FOR = 61.0
"""Seconds after `exp`: more than the longest leeway, so that keys may be gone."""


def revocation(ref: TokenRef, at: float, *, userless: bool = False) -> TokenRevocation:
    return replace(of_token(ref, userless=userless), note=Note("stolen", "ops", at))


def cut_off(ref: TokenRef, before: float, at: float) -> UserRevocation:
    return UserRevocation(ref.user, ref.bucket, before, 86_400, Note("password", "ann", at))


async def trace(
    store: RedisStore, refs: Sequence[TokenRef], now: float | None = None
) -> Sequence[Trace]:
    found = await store.trace(refs[0].bucket, refs, time.time() if now is None else now)
    assert not isinstance(found, Unavailable), found
    return found


def forget_keys(server: Any, ref: TokenRef) -> None:
    """As their expiry does."""
    for key in (
        blacklist_key(ref.bucket, ref.user, ref.token),
        blacklist_key(ref.bucket, "-", ref.token),
        not_before_key(ref.bucket, ref.user),
    ):
        server.delete(key)


async def test_each_way_to_revoke_is_told_with_when_by_whom_and_why(valkey: ValkeyServer) -> None:
    now = round(time.time(), 3)
    own, anyones, cut, clear = (token_ref(bucket=3) for _ in range(4))
    async with opened(valkey.url) as told:
        await told.store.revoke_token(revocation(own, now - 1))
        await told.store.revoke_token(revocation(anyones, now - 2, userless=True))
        await told.store.revoke_user(cut_off(cut, now + 30, now - 3))
        found = await trace(told.store, [own, anyones, cut, clear])
    assert found == [
        Trace("store", True, now - 1, "ops", "stolen"),
        Trace("store", True, now - 2, "ops", "stolen"),
        Trace("store", True, now - 3, "ann", "password"),
        Trace("store", revoked=False),
    ]


async def test_a_cut_off_before_the_token_was_issued_does_not_revoke_it(
    valkey: ValkeyServer,
) -> None:
    ref = token_ref(bucket=3)
    async with opened(valkey.url) as told:
        await told.store.revoke_user(cut_off(ref, ref.issued_at - 5, time.time()))
        assert await trace(told.store, [ref]) == [Trace("store", revoked=False)]


async def test_of_several_cut_offs_the_first_that_took_the_token_counts(
    valkey: ValkeyServer,
) -> None:
    """The key holds the latest only: by it, requests between the two would seem to be allowed."""
    now = round(time.time(), 3)
    ref = token_ref(bucket=3, issued_at=now - 100)
    async with opened(valkey.url) as told:
        await told.store.revoke_user(cut_off(ref, now - 200, now - 90))  # not this token
        await told.store.revoke_user(cut_off(ref, now - 60, now - 60))
        await told.store.revoke_user(cut_off(ref, now - 10, now - 10))
        assert await trace(told.store, [ref]) == [Trace("store", True, now - 60, "ann", "password")]


async def test_the_earliest_of_a_revocation_and_a_cut_off_counts(valkey: ValkeyServer) -> None:
    now = round(time.time(), 3)
    ref = token_ref(bucket=3)
    async with opened(valkey.url) as told:
        await told.store.revoke_token(revocation(ref, now - 1))
        await told.store.revoke_user(cut_off(ref, now + 30, now - 2))
        (found,) = await trace(told.store, [ref])
    assert (found.at, found.by) == (now - 2, "ann")


async def test_once_the_keys_are_gone_the_stream_tells(valkey: ValkeyServer) -> None:
    now = round(time.time(), 3)
    own, anyones, cut, clear = (token_ref(bucket=3) for _ in range(4))
    async with opened(valkey.url) as told:
        await told.store.revoke_token(revocation(own, now - 1))
        await told.store.revoke_token(revocation(anyones, now - 2, userless=True))
        await told.store.revoke_user(cut_off(cut, now + 30, now - 3))
        for ref in (own, anyones, cut):
            forget_keys(valkey.client, ref)
        later = own.expires_at + EXPIRED_FOR
        found = await trace(told.store, [own, anyones, cut, clear], later)
        assert found == [
            Trace("stream", True, now - 1, "ops", "stolen"),
            Trace("stream", True, now - 2, "ops", "stolen"),
            Trace("stream", True, now - 3, "ann", "password"),
            Trace("expired", revoked=False),
        ]
        # Just expired: the keys ought to be there, but the clock of Redis may be ahead.
        (found_own, _, _, found_clear) = await trace(
            told.store, [own, anyones, cut, clear], own.expires_at + 1
        )
    assert found_own.evidence == "stream"
    assert found_clear == Trace("store", revoked=False)


async def test_a_stream_is_read_page_by_page_once_for_all_tokens(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "PAGE", 7)
    monkeypatch.setattr(trace_module, "CHUNK", 5)
    monkeypatch.setattr(trace_module, "PAUSE", 0.0)
    refs = [token_ref(bucket=3) for _ in range(40)]
    async with opened(valkey.url) as told:
        for ref in refs[:30]:
            await told.store.revoke_token(of_token(ref))
        for ref in refs:
            forget_keys(valkey.client, ref)
        valkey.reset_counts()
        found = await trace(told.store, refs, refs[0].expires_at + EXPIRED_FOR)
    assert [one.revoked for one in found] == [True] * 30 + [False] * 10
    assert {one.evidence for one in found[:30]} == {"stream"}
    counts = valkey.command_counts()
    assert (counts["xrange"], counts["mget"]) == (5, 40)  # 30 entries in sevens


async def test_a_token_that_lives_needs_no_stream(valkey: ValkeyServer) -> None:
    ref = token_ref(bucket=3)
    async with opened(valkey.url) as told:
        await told.store.revoke_token(of_token(ref))
        valkey.reset_counts()
        await trace(told.store, [ref, token_ref(bucket=3)])
    assert valkey.command_counts()["xrange"] == 0


async def test_what_is_unknown_in_a_stream_is_passed_over(valkey: ValkeyServer) -> None:
    ref = token_ref(bucket=3)
    later = ref.expires_at + EXPIRED_FOR
    key = feed_key(3)
    valkey.client.xadd(key, {"kind": "later", "user": ref.user, "token": ref.token})
    valkey.client.xadd(key, {"else": "where"})
    async with opened(valkey.url) as told:
        assert await trace(told.store, [ref], later) == [Trace("expired", revoked=False)]
        valkey.client.xadd(
            key, {"seq": "9", "kind": "token", "user": ref.user, "token": ref.token, "note": "{"}
        )
        (found,) = await trace(told.store, [ref], later)
    # When the entry was added is the next best.
    assert (found.evidence, found.by) == ("stream", "")
    assert found.at == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({"at": "soon", "by": 7, "reason": None}),
        json.dumps({"at": True}),
        json.dumps({"at": -1}),
        json.dumps({"at": 1e300}),
        '{"at": NaN}',
    ],
)
async def test_a_note_that_can_not_be_read_revokes_at_an_unknown_time(
    valkey: ValkeyServer, note: str
) -> None:
    token, user = token_ref(bucket=3), token_ref(bucket=3)
    valkey.client.set(blacklist_key(3, token.user, token.token), note)
    valkey.client.set(not_before_key(3, user.user), f"{(user.issued_at + 5) * 1000} {note}")
    async with opened(valkey.url) as told:
        unknown = Trace("store", revoked=True)
        assert await trace(told.store, [token, user]) == [unknown, unknown]


async def test_every_bucket_of_a_cluster_can_be_asked(cluster: ValkeyCluster) -> None:
    refs = [token_ref(bucket=bucket) for bucket in range(BUCKETS)]
    async with opened(cluster.url) as told:
        for ref in refs[::2]:
            await told.store.revoke_token(of_token(ref))
        found = [(await trace(told.store, [ref]))[0].revoked for ref in refs]
    assert found == [True, False] * (BUCKETS // 2)


async def test_while_a_slot_is_moved_keys_and_stream_are_found_on_either_side(
    cluster: ValkeyCluster,
) -> None:
    stays, goes = token_ref(bucket=3), token_ref(bucket=3)
    async with opened(cluster.url) as told:
        for ref in (stays, goes):
            await told.store.revoke_token(of_token(ref))
        source = cluster.master_of(3)
        target = next(master for master in cluster.masters if master is not source)
        await asyncio.to_thread(cluster.move_slot, 3, target, finish=False)
        for key in (blacklist_key(3, goes.user, goes.token), feed_key(3)):
            source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        clear = token_ref(bucket=3)
        found = await trace(told.store, [stays, goes, clear], clear.expires_at + 1)
    assert [one.revoked for one in found] == [True, True, False]


async def test_after_a_slot_has_moved_the_next_attempt_finds_it(cluster: ValkeyCluster) -> None:
    ref = token_ref(bucket=3)
    async with opened(cluster.url) as told:
        await told.store.revoke_token(of_token(ref))
        source = cluster.master_of(3)
        target = next(master for master in cluster.masters if master is not source)
        await asyncio.to_thread(cluster.move_slot, 3, target)

        assert await told.store.trace(3, [ref], time.time()) == Unavailable("error")
        assert (await trace(told.store, [ref]))[0].revoked


async def test_a_node_that_is_gone_is_unavailable_and_is_not_asked_behind_its_breaker(
    valkey: ValkeyServer,
) -> None:
    ref = token_ref(bucket=3)
    async with opened(valkey.url) as told:
        valkey.kill()
        assert await told.store.trace(3, [ref], time.time()) == Unavailable("connection")
        for _ in range(5):
            await told.find(ref)
        assert await told.store.trace(3, [ref], time.time()) == Unavailable("breaker_open")
        valkey.restart()
        await eventually(
            lambda: all(str(b.state) == "closed" for b in told.store.breakers().values()),
            "the breaker to close",
        )
        assert await trace(told.store, [ref]) == [Trace("store", revoked=False)]


async def test_before_the_map_is_known_nothing_can_be_asked(cluster: ValkeyCluster) -> None:
    async with opened(cluster.url, start=False) as told:
        ref = token_ref(bucket=3)
        assert await told.store.trace(3, [ref], time.time()) == Unavailable("connection")


async def test_a_missing_right_is_said_once(valkey: ValkeyServer) -> None:
    ref = token_ref(bucket=3)
    valkey.command("ACL", "SETUSER", "default", "-xrange")
    async with opened(valkey.url) as told:
        with capture_logs() as logged:
            for _ in range(3):
                found = await told.store.trace(3, [ref], ref.expires_at + EXPIRED_FOR)
                assert found == Unavailable("error")
    (line,) = [one for one in logged if one["event"] == events.TRACE_REFUSED]
    assert "xrange" in line["error"].lower()


async def test_in_memory_it_is_known_whether_and_not_when() -> None:
    store = MemoryStore()
    ref = token_ref(bucket=3)
    await store.revoke_token(of_token(ref))
    assert await store.trace(3, [ref, token_ref(bucket=3)], time.time()) == [
        Trace("store", revoked=True),
        Trace("store", revoked=False),
    ]
