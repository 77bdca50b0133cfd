"""Word that signing keys were withdrawn, by way of a real store."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from authz.revocation.feed.news import KEYS, KeysNews, announced
from authz.revocation.feed.position import FIELDS, NOTHING, Tip
from authz.revocation.record import tip_key
from authz.revocation.redis import announcements
from authz.revocation.redis.announcements import Announcements
from authz.revocation.store import StoreError
from support.cluster import ValkeyCluster
from support.following import MAX_STALENESS, following
from support.revocations import BUCKETS, of_token, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

NOW = int(time.time())


def tips(server: ValkeyServer) -> list[Tip]:
    return [
        Tip.of_reply(server.command("HMGET", tip_key(bucket), *FIELDS, KEYS))
        for bucket in range(BUCKETS)
    ]


@asynccontextmanager
async def heard(told: Announcements) -> AsyncIterator[list[float]]:
    """When `follow` was told of something."""
    moments: list[float] = []

    async def note() -> None:
        moments.append(time.monotonic())

    task = asyncio.ensure_future(told.follow(note))
    try:
        yield moments
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_it_reaches_every_bucket_and_is_on_a_replica(cluster: ValkeyCluster) -> None:
    async with opened(cluster.url, wait_replicas=1) as told:
        await told.store.announcements.announce(NOW)
    for bucket in range(BUCKETS):
        value = cluster.master_of(bucket).command("HGET", tip_key(bucket), KEYS)
        assert value == b"%d000" % NOW, bucket


async def test_the_number_rises_also_where_the_clock_went_back(valkey: ValkeyServer) -> None:
    async with opened(valkey.url) as told:
        for now in (NOW, NOW - 1_000_000, NOW - 1_000_000):
            await told.store.announcements.announce(now)
    assert {tip.keys for tip in tips(valkey)} == {NOW * 1000 + 2}


async def test_what_is_passed_on_never_lowers_it(valkey: ValkeyServer) -> None:
    """So two relays in opposite directions come to rest."""
    async with opened(valkey.url) as told:
        for number in (5, 9, 7):
            await told.store.announcements.pass_on(number)
    assert {tip.keys for tip in tips(valkey)} == {9}


async def test_a_bucket_with_nothing_but_that_counts_as_one_without_revocations(
    valkey: ValkeyServer,
) -> None:
    """The feed is live; the first revocation begins the epoch and is no loss of history; the
    number stays as it is.
    """
    async with opened(valkey.url) as told:
        await told.store.announcements.announce(NOW)
        assert tips(valkey) == [NOTHING] * BUCKETS
        async with following(valkey.url) as follower:
            ref = token_ref(bucket=3)
            await told.store.revoke_token(of_token(ref))
            await follower.hears(ref)
            verified = follower.feed.figures.entries["pushed"]
            await eventually(lambda: follower.feed.staleness < 0.5, "verified since")
            assert follower.live
            assert (verified, follower.feed.figures.lost) == (1, 0)
    assert {tip.keys for tip in tips(valkey)} == {NOW * 1000}
    assert tips(valkey)[3].seq == 1


async def test_a_feed_says_so_within_a_round_and_at_the_start_of_what_was_before(
    cluster: ValkeyCluster,
) -> None:
    """Each once, however many buckets say it."""
    async with following(cluster.url) as follower:
        news = follower.told.store.announcements
        assert follower.withdrawals == []
        began = time.monotonic()
        await news.announce(time.time())
        await eventually(lambda: follower.withdrawals, "heard")
        assert follower.withdrawals[0] - began < MAX_STALENESS
        await news.announce(time.time())
        await eventually(lambda: len(follower.withdrawals) == 2, "heard again")
        await eventually(lambda: follower.feed.staleness < 0.5, "a round more")
        assert len(follower.withdrawals) == 2
    async with following(cluster.url) as late:
        await eventually(lambda: len(late.withdrawals) == 1, "of what was before")


async def test_who_follows_hears_each_once_and_also_of_what_was_before(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcements, "POLL", 0.02)
    async with opened(valkey.url) as told:
        news = told.store.announcements
        async with heard(news) as moments:
            await eventually(lambda: valkey.command_counts()["hmget"] > BUCKETS + 2, "a round")
            assert moments == []
            await news.announce(time.time())
            await eventually(lambda: len(moments) == 1, "heard")
            valkey.reset_counts()
            await eventually(lambda: valkey.command_counts()["hmget"] > BUCKETS + 2, "a round")
            assert len(moments) == 1
            await news.announce(time.time())
            await eventually(lambda: len(moments) == 2, "heard again")
        async with heard(news) as moments:
            await eventually(lambda: len(moments) == 1, "of what was before")


async def test_a_shard_that_is_gone_hides_nothing(
    cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every bucket has the word, and one after the other is asked."""
    monkeypatch.setattr(announcements, "POLL", 0.02)
    async with opened(cluster.url, write_timeout=0.5) as told:
        news = told.store.announcements
        async with heard(news) as moments:
            gone = cluster.master_of(3)
            cluster.freeze(gone)
            try:
                with pytest.raises(StoreError):
                    await news.announce(time.time())
                await eventually(lambda: moments, "heard by the others")
            finally:
                cluster.thaw(gone)


@pytest.mark.parametrize("made_up", [b"9" * 16, b"9" * 17, b"inf", b"nan", b"-5", b"x"])
async def test_a_number_that_somebody_made_up_hides_nothing_that_comes_after_it(
    valkey: ValkeyServer, made_up: bytes
) -> None:
    async with following(valkey.url) as follower:
        for bucket in range(BUCKETS):
            valkey.command("HSET", tip_key(bucket), KEYS, made_up)
        await eventually(lambda: follower.feed.staleness < 0.3, "a round")
        heard_before = len(follower.withdrawals)
        await follower.told.store.announcements.announce(time.time())
        await eventually(lambda: len(follower.withdrawals) > heard_before, "heard")
    assert {tip.keys for tip in tips(valkey)} != {0}


def test_news_is_what_no_bucket_has_said_last() -> None:
    news = KeysNews()
    said = [(0, 0), (0, 5), (1, 5), (2, 5), (1, 7), (0, 7), (0, 0), (0, 3), (2, 7)]
    assert [news.hear(*one) for one in said] == [
        False, True, False, False, True, False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, b"", b"x", b"-1", b"1" * 17, b"\xb2"])
def test_a_number_that_can_not_be_read_says_nothing(value: bytes | None) -> None:
    assert announced(value) == 0
