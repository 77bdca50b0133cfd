"""The feed against real servers: whatever happens to pushes, streams and nodes, it finds out."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from authz.revocation.record import (
    POSSIBLY_REVOKED,
    Clear,
    Revoked,
    TokenRef,
    Unavailable,
    blacklist_key,
    feed_key,
    not_before_key,
    tip_key,
)
from support.cluster import ValkeyCluster
from support.following import MAX_STALENESS, Follower, following
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.revocations import BUCKETS, new_subject, of_token, of_user, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

BUCKET = 5


async def revoke(follower: Follower, *refs: TokenRef) -> None:
    for ref in refs:
        await follower.told.store.revoke_token(of_token(ref))


def disconnect_subscribers(cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        node.command("CLIENT", "KILL", "TYPE", "pubsub")


# The ordinary day


async def test_a_revocation_comes_by_itself_and_is_refused_without_asking(
    cluster: ValkeyCluster,
) -> None:
    old, subject = token_ref(), new_subject()
    now = int(time.time())
    before, after = token_ref(subject, issued_at=now - 10), token_ref(subject, issued_at=now + 2)
    userless = token_ref()
    async with following(cluster.url) as follower:
        assert await follower.find(old) == Clear()
        cluster.reset_counts()
        await revoke(follower, old)
        await follower.told.store.revoke_user(of_user(before, now + 1))
        await follower.told.store.revoke_token(of_token(userless, userless=True))
        for ref in (old, before, userless):
            await follower.hears(ref)
        assert await follower.find(after) == Clear()
        assert cluster.command_counts()["mget"] == 0
        assert follower.feed.figures.gaps == 0
        assert max(follower.lags) < MAX_STALENESS


async def test_a_token_never_seen_costs_no_command_while_the_feed_is_live(
    cluster: ValkeyCluster,
) -> None:
    """Not one more than the feed's own comparison of tips, whatever the number of tokens."""
    async with following(cluster.url) as follower:
        cluster.reset_counts()
        assert {str(await follower.find(token_ref())) for _ in range(2000)} == {str(Clear())}
        counts = cluster.command_counts()
        assert not counts.keys() & {"mget", "get", "exists"}
        rounds = counts["hmget"] / BUCKETS
        assert rounds <= 3


async def test_at_the_start_it_reads_all_there_is(cluster: ValkeyCluster) -> None:
    """Several pages of it, and cut-offs; and tells for each node how much that was."""
    refs = [token_ref(bucket=bucket) for bucket in (3, 3, 9) for _ in range(300)]
    subject = new_subject()
    cut = token_ref(subject, issued_at=int(time.time()) - 5)
    async with opened(cluster.url) as told:
        for some in (refs[i : i + 100] for i in range(0, len(refs), 100)):
            await asyncio.gather(*(told.store.revoke_token(of_token(ref)) for ref in some))
        await told.store.revoke_user(of_user(cut, time.time()))
    with capture_logs() as logged:
        async with following(cluster.url) as follower:
            assert follower.feed.figures.entries["synced"] == len(refs) + 1
            assert all(follower.knows(ref) for ref in refs)
    synced = [entry for entry in logged if entry["event"] == "feed_synced"]
    assert len(synced) == 3  # nodes, which are read at the same time
    assert sum(entry["entries"] for entry in synced) == len(refs) + 1


async def test_what_it_read_at_the_start_is_what_it_asks_the_store_about(
    cluster: ValkeyCluster,
) -> None:
    ref, subject = token_ref(bucket=3), new_subject()
    cut = token_ref(subject, issued_at=int(time.time()) - 5)
    async with opened(cluster.url) as told:
        await told.store.revoke_token(of_token(ref))
        await told.store.revoke_user(of_user(cut, time.time()))
    async with following(cluster.url) as follower:
        assert isinstance(await follower.find(ref), Revoked)
        cluster.reset_counts()
        assert isinstance(await follower.find(cut), Revoked)
        assert await follower.find(token_ref(bucket=3)) == Clear()
        assert cluster.command_counts()["mget"] == 0


async def test_revocations_of_before_entries_were_numbered_are_read_too(
    valkey: ValkeyServer,
) -> None:
    """Those of an earlier version: keys, and a stream without numbers and tip."""
    ref = token_ref(bucket=BUCKET)
    lost = token_ref(bucket=BUCKET)
    expires = (ref.expires_at + 60) * 1000
    for one in (ref, lost):
        valkey.client.set(blacklist_key(BUCKET, one.user, one.token), "{}", pxat=expires)
    fields = {
        "kind": "token", "user": ref.user, "token": ref.token, "before": "", "note": "{}",
        "expires": str(expires),
    }  # fmt: skip
    valkey.command(
        "XADD", feed_key(BUCKET), "*", *(text for pair in fields.items() for text in pair)
    )
    async with following(valkey.url) as follower:
        assert follower.knows(ref)
        assert follower.knows(lost)
        later = token_ref(bucket=BUCKET)
        await revoke(follower, later)
        await follower.hears(later)
        await eventually(
            lambda: follower.feed.figures.entries["read"] > 0 or follower.live, "caught up"
        )
    async with following(valkey.url) as follower:
        assert all(follower.knows(one) for one in (ref, lost, later))


# Pushes that do not come


async def test_what_was_not_pushed_is_read_from_the_streams(cluster: ValkeyCluster) -> None:
    """The subscription breaks again and again while revocations are written."""
    refs = [token_ref() for _ in range(300)]
    async with following(cluster.url) as follower:
        for number, ref in enumerate(refs):
            if number % 50 == 0:
                await asyncio.to_thread(disconnect_subscribers, cluster)
            await revoke(follower, ref)
        for ref in refs:
            await eventually(lambda: follower.knows(ref), "known")  # noqa: B023  called at once
        figures = follower.feed.figures
        assert figures.entries["read"] > 0
        # Nothing had to be read whole again; but for what an earlier test published and comes late.
        assert figures.syncs == BUCKETS + figures.lost
        await follower.is_live()


async def test_a_subscription_that_pushes_nothing_is_moved(
    cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is well and answers pings: only the streams show that it is deaf."""
    async with following(cluster.url) as follower:
        subscription = follower.feed.subscription
        await eventually(
            lambda: min(follower.knowledge.live_until) - MAX_STALENESS > subscription.since,
            "verified while it was subscribed",
        )
        hear = subscription._take
        monkeypatch.setattr(subscription, "_take", lambda *_: None)
        ref = token_ref()
        await revoke(follower, ref)
        await follower.hears(ref)
        await eventually(lambda: subscription.started > 1, "subscribed anew")
        monkeypatch.setattr(subscription, "_take", hear)
        await eventually(lambda: follower.feed.subscribed, "subscribed")
        heard = follower.feed.figures.entries["pushed"]
        await revoke(follower, token_ref())
        await eventually(lambda: follower.feed.figures.entries["pushed"] > heard, "pushed")


async def test_a_frozen_node_ends_the_subscription_at_it(cluster: ValkeyCluster) -> None:
    """No error comes from a node that hangs: silence does it."""
    async with following(cluster.url) as follower:
        port = int(follower.feed.subscription.node.rpartition(":")[2])
        node = next(node for node in cluster.nodes if node.port == port)
        cluster.freeze(node)
        await eventually(
            lambda: (
                follower.feed.subscribed
                and not follower.feed.subscription.node.endswith(f":{port}")
            ),
            "subscribed elsewhere",
            timeout=20,
        )


# Streams that are not what they were


async def test_a_store_that_was_emptied_takes_no_revocation_back(cluster: ValkeyCluster) -> None:
    """FLUSHALL: what was known stays in force, as exactly as it was known; new ones come in."""
    pushed, synced = token_ref(bucket=BUCKET), token_ref(bucket=BUCKET)
    good = token_ref(bucket=BUCKET)
    async with opened(cluster.url) as told:
        await told.store.revoke_token(of_token(synced))
    async with following(cluster.url) as follower:
        await revoke(follower, pushed)
        await follower.hears(pushed)
        await asyncio.to_thread(cluster.flush)
        await eventually(lambda: follower.feed.figures.lost == 1, "noticed")
        await follower.is_live()
        assert isinstance(await follower.find(pushed), Revoked)
        assert await follower.find(synced) == POSSIBLY_REVOKED
        assert await follower.find(good) == Clear()
        after = token_ref(bucket=BUCKET)
        await revoke(follower, after)
        await follower.hears(after)
        assert await follower.find(good) == Clear()


async def test_a_store_that_was_emptied_a_moment_ago_clears_nobody(cluster: ValkeyCluster) -> None:
    """Before the feed has compared tips again, its word about a listed token is checked."""
    ref = token_ref(bucket=BUCKET)
    async with opened(cluster.url) as told:
        await told.store.revoke_token(of_token(ref))
    async with following(cluster.url) as follower:
        lost_before = follower.feed.figures.lost
        assert lost_before == 0
        for master in cluster.masters:
            master.client.flushall()
        assert await follower.find(ref) == POSSIBLY_REVOKED
        assert await follower.find(ref) == POSSIBLY_REVOKED


async def test_a_token_that_the_filter_takes_for_revoked_is_cleared_by_the_store(
    cluster: ValkeyCluster,
) -> None:
    """The filter is told of one that isn't, which is what a false positive is."""
    ref = token_ref()
    async with following(cluster.url) as follower:
        follower.knowledge.filter.add(ref.token, ref.expires_at, time.time())
        cluster.reset_counts()
        assert await follower.find(ref) == Clear()
        assert cluster.command_counts()["mget"] == 1


async def test_a_failover_that_lost_revocations_is_noticed(cluster: ValkeyCluster) -> None:
    """The stream goes on from an older copy, with as many other entries as were lost."""
    kept, lost, new = (token_ref(bucket=BUCKET) for _ in range(3))
    client = cluster.master_of(BUCKET).client
    async with following(cluster.url) as follower:
        await revoke(follower, kept)
        copies = {name: client.dump(name) for name in (feed_key(BUCKET), tip_key(BUCKET))}
        await revoke(follower, lost)
        await follower.hears(lost)
        await asyncio.to_thread(disconnect_subscribers, cluster)
        client.delete(blacklist_key(BUCKET, lost.user, lost.token))
        for name, copy in copies.items():
            assert isinstance(copy, bytes)
            client.restore(name, 0, copy, replace=True)
        await revoke(follower, new)
        await eventually(lambda: follower.knows(new), "known")
        await eventually(lambda: follower.feed.figures.lost == 1, "noticed")
        await follower.is_live()
        for ref in (kept, lost, new):
            assert isinstance(await follower.find(ref), Revoked)


@pytest.mark.parametrize("left", [0, 2])
async def test_a_stream_that_was_cut_is_made_up_for_from_the_keys(
    cluster: ValkeyCluster, left: int
) -> None:
    """Cut below what the follower had read, while it couldn't hear anything."""
    refs = [token_ref(bucket=BUCKET) for _ in range(10)]
    async with following(cluster.url) as follower:
        await revoke(follower, refs[0])
        await follower.hears(refs[0])
        await asyncio.to_thread(disconnect_subscribers, cluster)
        async with opened(cluster.url) as other:
            await asyncio.gather(*(other.store.revoke_token(of_token(ref)) for ref in refs[1:]))
        cluster.master_of(BUCKET).command("XTRIM", feed_key(BUCKET), "MAXLEN", left)
        for ref in refs:
            await eventually(lambda: follower.knows(ref), "known")  # noqa: B023  called at once
        await follower.is_live()
    async with following(cluster.url) as late:  # begins with the cut stream
        assert all(late.knows(ref) for ref in refs)
        assert late.feed.figures.scans >= 1


async def test_a_stream_that_was_cut_does_not_look_whole_after_the_next_revocation(
    cluster: ValkeyCluster,
) -> None:
    """Whoever starts later, and has nothing but what is left of it."""
    refs = [token_ref(bucket=BUCKET) for _ in range(5)]
    async with opened(cluster.url) as told:
        for ref in refs[:4]:
            await told.store.revoke_token(of_token(ref))
        cluster.master_of(BUCKET).command("XTRIM", feed_key(BUCKET), "MAXLEN", 1)
        await told.store.revoke_token(of_token(refs[4]))
    async with following(cluster.url) as late:
        assert all(late.knows(ref) for ref in refs)


async def test_a_slot_that_is_moved_is_followed(cluster: ValkeyCluster) -> None:
    refs = [token_ref(bucket=BUCKET) for _ in range(3)]
    async with following(cluster.url) as follower:
        await revoke(follower, refs[0])
        source = cluster.master_of(BUCKET)
        target = next(node for node in cluster.masters if node is not source)
        await asyncio.to_thread(cluster.move_slot, BUCKET, target)
        await revoke(follower, refs[1])
        await follower.hears(refs[1])
        await follower.is_live()
        await asyncio.to_thread(cluster.move_slot, BUCKET, source)
        await revoke(follower, refs[2])
        await follower.hears(refs[2])
        await follower.is_live()
        assert follower.feed.figures.lost == 0


async def test_half_a_move_keeps_the_bucket_live(cluster: ValkeyCluster) -> None:
    """Its keys stand at the new node while the old one still answers for the slot: ASK."""
    ref = token_ref(bucket=BUCKET)
    async with following(cluster.url) as follower:
        await revoke(follower, ref)
        target = next(node for node in cluster.masters if node is not cluster.master_of(BUCKET))
        await asyncio.to_thread(cluster.move_slot, BUCKET, target, finish=False)
        verified = follower.knowledge.live_until[BUCKET]
        await eventually(
            lambda: follower.knowledge.live_until[BUCKET] > verified + 1, "verified again"
        )
        assert follower.feed.figures.lost == 0


async def test_keys_on_both_sides_of_half_a_move_are_read(cluster: ValkeyCluster) -> None:
    """Where the stream isn't whole: the node that still has the slot no longer has all its keys."""
    cut = token_ref(new_subject(BUCKET), issued_at=int(time.time()) - 5)
    refs = [token_ref(bucket=BUCKET) for _ in range(4)]
    async with opened(cluster.url) as told:
        for ref in refs:
            await told.store.revoke_token(of_token(ref))
        await told.store.revoke_user(of_user(cut, time.time()))
    source = cluster.master_of(BUCKET)
    target = next(node for node in cluster.masters if node is not source)
    source.client.delete(feed_key(BUCKET))
    keys = [not_before_key(BUCKET, cut.user)]
    keys += [blacklist_key(BUCKET, ref.user, ref.token) for ref in refs[:2]]
    cluster.half_move_keys(BUCKET, target, keys)
    async with following(cluster.url) as follower:
        assert follower.feed.figures.scans > 0
        assert all(follower.knows(ref) for ref in (*refs, cut))


# Outages


async def test_a_cut_line_is_survived(valkey: ValkeyServer) -> None:
    """Live for `max_staleness`, then not; what is listed stays refused; back in a moment."""
    known, good = token_ref(), token_ref()
    while_cut = token_ref()
    with TcpProxy(valkey.port) as proxy:
        url = f"redis://{LOOPBACK}:{proxy.port}"
        async with following(url, timeout=0.05) as follower, opened(valkey.url) as direct:
            await revoke(follower, known)
            await follower.hears(known)
            assert await follower.find(good) == Clear()
            proxy.cut()
            cut_at = time.monotonic()
            assert await follower.find(good) == Clear()
            await direct.store.revoke_token(of_token(while_cut))
            await eventually(lambda: follower.feed.live_buckets == 0, "stale")
            assert time.monotonic() - cut_at < MAX_STALENESS + 1
            assert isinstance(await follower.find(good), Unavailable)
            assert isinstance(await follower.find(while_cut), Unavailable)
            assert isinstance(await follower.find(known), Revoked)
            proxy.restore()
            await follower.hears(while_cut)
            await follower.is_live()
            assert await follower.find(good) == Clear()
            assert follower.feed.figures.lost == 0


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_line_that_is_cut_one_way_is_no_live_feed(
    valkey: ValkeyServer, direction: str
) -> None:
    ref = token_ref()
    with TcpProxy(valkey.port) as proxy:
        url = f"redis://{LOOPBACK}:{proxy.port}"
        async with following(url, timeout=0.05) as follower, opened(valkey.url) as direct:
            proxy.block(direction)  # type: ignore[arg-type]
            await direct.store.revoke_token(of_token(ref))
            await eventually(
                lambda: follower.knows(ref) or follower.feed.live_buckets == 0, "heard or stale"
            )
            proxy.restore()
            await follower.hears(ref)
            await follower.is_live()


async def test_a_dead_master_makes_only_its_own_buckets_stale(cluster: ValkeyCluster) -> None:
    """And once a replica has taken over, all are live again, with nothing lost."""
    refs = [token_ref(bucket=bucket) for bucket in range(BUCKETS)]
    async with following(cluster.url, timeout=0.05) as follower:
        await asyncio.gather(*(follower.told.store.revoke_token(of_token(ref)) for ref in refs))
        victim = cluster.master_of(BUCKET)
        of_victim = {b for b in range(BUCKETS) if cluster.master_of(b) is victim}
        cluster.kill(victim)
        for ref in refs:
            await eventually(lambda: follower.knows(ref), "known")  # noqa: B023  called at once
        await asyncio.to_thread(cluster.wait_failover, victim)
        await follower.is_live()
        assert follower.feed.figures.lost == 0
        assert 0 < len(of_victim) < BUCKETS
        after = token_ref(bucket=BUCKET)
        await revoke(follower, after)
        await follower.hears(after)


async def test_a_store_that_comes_late_is_followed_from_then_on(valkey: ValkeyServer) -> None:
    ref = token_ref()
    async with opened(valkey.url) as told:
        await told.store.revoke_token(of_token(ref))
    valkey.command("SAVE")
    valkey.kill()
    async with following(valkey.url, live=False) as follower:
        assert isinstance(await follower.find(ref), Unavailable)
        await asyncio.to_thread(valkey.restart)
        await follower.is_live()
        assert isinstance(await follower.find(ref), Revoked)


async def test_many_revocations_at_once_leave_no_gap(cluster: ValkeyCluster) -> None:
    refs = [token_ref() for _ in range(2000)]
    async with following(cluster.url) as follower:
        for some in (refs[i : i + 100] for i in range(0, len(refs), 100)):
            await asyncio.gather(*(follower.told.store.revoke_token(of_token(r)) for r in some))
        for ref in refs:
            await eventually(lambda: follower.knows(ref), "known")  # noqa: B023  called at once
        figures = follower.feed.figures
        assert figures.entries["pushed"] >= len(refs)  # an earlier test's may come late
        assert figures.syncs == BUCKETS + figures.lost


def test_entries_are_numbered_without_a_gap(cluster: ValkeyCluster) -> None:
    async def write() -> None:
        async with opened(cluster.url) as told:
            refs = [token_ref(bucket=BUCKET) for _ in range(50)]
            await asyncio.gather(*(told.store.revoke_token(of_token(ref)) for ref in refs))

    asyncio.run(write())
    entries: Any = cluster.master_of(BUCKET).client.xrange(feed_key(BUCKET))
    numbers = [int(fields[b"seq"]) for _, fields in entries]
    assert all(b == a + 1 for a, b in pairwise(numbers))
    assert numbers[0] == 1


# What somebody else wrote


def spoil(client: Any, how: str) -> None:
    """Something in the bucket that none of ours writes."""
    feed, tip = feed_key(BUCKET), tip_key(BUCKET)
    match how:
        case "a tip of another type":
            client.delete(tip)
            client.set(tip, "x")
        case "a tip that is no number":
            client.hset(tip, "seq", "x")
        case "a stream of another type":
            client.delete(feed)
            client.set(feed, "x")
        case "an entry without a number":
            client.xadd(feed, {"kind": "token"})
        case "an entry with an absurd number":
            client.xadd(feed, {"kind": "token", "seq": "9" * 5000})
        case "keys that are no revocations":
            client.delete(feed)  # so that the keys are read
            client.set(b"jwt:{5}:blacklist:\xff:\xfe", "x")
            client.set("jwt:{5}:not-before:somebody", "9" * 400, ex=1000)
            client.lpush(blacklist_key(BUCKET, "some", "list"), "x")
            client.set("jwt:{" + "9" * 5000 + "}:blacklist:a:b", "x")
        case _:
            raise ValueError(how)


@pytest.mark.parametrize(
    "how",
    [
        "a tip of another type",
        "a tip that is no number",
        "a stream of another type",
        "an entry without a number",
        "an entry with an absurd number",
        "keys that are no revocations",
    ],
)
async def test_rubbish_in_one_bucket_leaves_the_others_live(valkey: ValkeyServer, how: str) -> None:
    """And its own tokens are still refused: by the store where the feed can't tell."""
    ref, other = token_ref(bucket=BUCKET), token_ref(bucket=3)
    async with opened(valkey.url) as told:
        for one in (ref, other):
            await told.store.revoke_token(of_token(one))
    spoil(valkey.client, how)
    async with following(valkey.url, live=False) as follower:
        await eventually(lambda: follower.feed.live_buckets >= BUCKETS - 1, "the others are live")
        await eventually(lambda: follower.feed.subscribed, "subscribed")
        new = token_ref(bucket=3)
        await revoke(follower, new)
        await follower.hears(new)
        for one in (ref, other):
            assert isinstance(await follower.find(one), Revoked)
        syncs = follower.feed.figures.syncs
        await asyncio.sleep(1.0)  # it isn't read again and again
        assert follower.feed.figures.syncs - syncs <= 2


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"epoch": "e", "prev": "", "entries": []}',
        (
            b'{"epoch": "e", "prev": "", "entries": [{"id": "x", "seq": "1", "kind": "token", '
            b'"user": "U", "token": "T", "before": "", "expires": "1"}]}'
        ),
        (
            b'{"epoch": "e", "prev": "", "entries": [{"id": "1-1", "seq": "1", "kind": "token", '
            b'"user": ["U"], "token": {}, "before": "", "expires": "1e999"}]}'
        ),
    ],
    ids=["no text", "too deep", "empty", "an id that is none", "types that are none"],
)
async def test_a_message_that_is_no_push_is_counted_and_the_next_one_heard(
    valkey: ValkeyServer, message: bytes
) -> None:
    async with following(valkey.url) as follower:
        valkey.command("PUBLISH", feed_key(BUCKET), message)
        await eventually(lambda: follower.feed.subscription.unreadable == 1, "counted")
        ref = token_ref(bucket=BUCKET)
        await revoke(follower, ref)
        await follower.hears(ref)
        assert follower.feed.figures.entries["pushed"] == 1
        assert follower.feed.subscription.started == 1


async def test_keys_that_a_look_up_would_refuse_are_found_by_the_feed_too(
    valkey: ValkeyServer,
) -> None:
    """One without an end, and a cut-off that can't be read: someone meant to revoke something."""
    endless, unreadable = token_ref(bucket=BUCKET), token_ref(bucket=BUCKET)
    async with opened(valkey.url) as told:
        await told.store.revoke_token(of_token(token_ref(bucket=BUCKET)))
    valkey.client.set(blacklist_key(BUCKET, endless.user, endless.token), "{}")
    valkey.client.set(not_before_key(BUCKET, unreadable.user), "soon", ex=86_400 + 60 + 5)
    valkey.client.delete(feed_key(BUCKET))  # so that the keys are read
    async with following(valkey.url) as follower:
        assert isinstance(await follower.find(endless), Revoked)
        assert isinstance(await follower.find(unreadable), Revoked)


async def test_what_a_wrong_clock_left_out_is_read_again_once_it_is_right(
    cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set right in the middle of the first reading, as after a boot without a clock."""
    refs = [token_ref(bucket=BUCKET) for _ in range(5)]
    async with opened(cluster.url) as told:
        for ref in refs:
            await told.store.revoke_token(of_token(ref))
    async with following(cluster.url, live=False) as follower:
        ahead = 8 * 3600.0
        monkeypatch.setattr(follower.feed._reader, "_clock", lambda: time.time() + ahead)
        monkeypatch.setattr(follower.feed, "_clock", lambda: time.time() + ahead)
        await follower.is_live()
        ahead = 0.0
        for ref in refs:
            await eventually(lambda: follower.knows(ref), "known")  # noqa: B023  called at once
