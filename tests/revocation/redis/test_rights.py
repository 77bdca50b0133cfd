"""The rights in the store that a sidecar and a revoker need: all that are documented, no others."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import StartCluster

from authz.revocation.feed.feed import Feed
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import Clear, Revoked, Unavailable
from authz.revocation.store import StoreError
from authz.settings import FeedSettings
from authz.uses.record import FIRST, Use
from support.cluster import Node, ValkeyCluster
from support.revocations import BUCKETS, Opened, of_token, of_user, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

CHECKING = (
    "resetchannels &jwt:* %R~jwt:* %W~jwt:*:used:* +set +mget +get +hmget +xrange +scan "
    "+pexpiretime +subscribe +asking +ping +client|setname +cluster|slots"
)
REVOKING = (
    "resetchannels &jwt:* ~jwt:* +evalsha +eval +get +set +pexpiretime +xadd +xrange +hmget +hset "
    "+time +publish +wait +info +client|setname +cluster|slots"
)
"""The smallest that work, as in authz/revocation/README.md."""

NEEDED_ELSEWHERE = {"+info"}
"""Asked on a single server only, about its replicas."""

README = Path(__file__).parents[3] / "authz/revocation/README.md"

MOVING = 3
"""The bucket whose slot is half moved, so that GET and ASKING are needed, too."""
UNSTREAMED = 5
"""The bucket without a stream, so that the feed has to look for its keys."""


def test_the_readme_has_them() -> None:
    for rules in (CHECKING, REVOKING):
        assert rules in README.read_text()


async def test_the_smallest_rights_to_check_and_to_revoke(start_cluster: StartCluster) -> None:
    """A sidecar needs none to write but what was used, and nobody any beyond the keys `jwt:*`."""
    cluster = start_cluster(
        users={"checking": f"on >pw {CHECKING}", "revoking": f"on >pw {REVOKING}"}
    )
    refs = [token_ref(bucket=bucket) for bucket in range(BUCKETS)]
    await half_move(cluster)
    async with (
        opened(cluster.url_for("checking", "pw")) as checks,
        opened(cluster.url_for("revoking", "pw"), start=False) as revokes,
    ):
        assert set(await asyncio.gather(*map(checks.find, refs))) == {Clear()}
        assert (await revokes.store.revoke_token(of_token(refs[0]))).replicas == 1
        await revokes.store.revoke_user(of_user(refs[1], time.time() + 1))
        assert isinstance(await checks.find(refs[0]), Revoked)
        assert isinstance(await checks.find(refs[1]), Revoked)
        assert await use(checks, MOVING) == FIRST
        started = time.monotonic()
        with pytest.raises(StoreError, match="the store refused: NoPermissionError"):
            await checks.store.revoke_token(of_token(refs[2]))
        assert time.monotonic() - started < 2  # at once, not after `write_timeout`


async def test_the_smallest_rights_on_a_single_server(tmp_path: Path) -> None:
    users = {"checking": f"on >pw {CHECKING}", "revoking": f"on >pw {REVOKING}"}
    ref = token_ref()
    with ValkeyServer(tmp_path / "valkey", users=users) as server:
        async with (
            opened(server.url_for("checking", "pw")) as checks,
            following(checks) as feed,
            opened(server.url_for("revoking", "pw"), start=False) as revokes,
        ):
            assert await follows(feed, revokes)
            await revokes.store.revoke_token(of_token(ref))
            assert isinstance(await checks.find(ref), Revoked)
            assert await use(checks, 0) == FIRST


async def test_none_of_the_rights_to_revoke_can_be_spared(start_cluster: StartCluster) -> None:
    """Each taken away in turn makes a revocation fail."""
    cluster = start_cluster()

    async def works() -> bool:
        ref = token_ref()
        for node in cluster.nodes:
            node.command("SCRIPT", "FLUSH")
        try:
            async with opened(url, start=False, write_timeout=0.5) as told:
                await told.store.revoke_token(of_token(ref))
                await told.store.revoke_token(of_token(ref))
        except StoreError:
            return False
        return True

    url = cluster.url_for("someone", "pw")
    words = REVOKING.split()
    allow(cluster, words)
    assert await works()
    for word in rights(words):
        if word not in NEEDED_ELSEWHERE:
            allow(cluster, without(word, words))
            assert not await works(), f"{word} is not needed"


async def test_none_of_the_rights_to_check_can_be_spared(start_cluster: StartCluster) -> None:
    """Each taken away in turn makes a look-up fail, or the feed: it isn't live, or hears nothing
    that is pushed.
    """
    cluster = start_cluster()
    async with opened(cluster.url, start=False) as revokes:
        for bucket in range(BUCKETS):
            await revokes.store.revoke_token(of_token(token_ref(bucket=bucket)))
        cluster.master_of(UNSTREAMED).client.delete(f"jwt:{{{UNSTREAMED}}}:feed")
        await half_move(cluster)

        async def works() -> bool:
            async with opened(cluster.url_for("someone", "pw"), connected=False) as told:
                if not await told.store.connect():
                    return False
                if await told.find(token_ref(bucket=MOVING)) != Clear():
                    return False
                if await use(told, MOVING) != FIRST:
                    return False
                async with following(told) as feed:
                    return await follows(feed, revokes)

        words = CHECKING.split()
        allow(cluster, words)
        assert await works()
        for word in rights(words):
            allow(cluster, without(word, words))
            assert not await works(), f"{word} is not needed"


@asynccontextmanager
async def following(told: Opened) -> AsyncIterator[Feed]:
    """A feed of this store, as a sidecar has it."""
    knowledge = Knowledge(revocations=100, negative_ttl=1.0, false_positives=1e-6, buckets=BUCKETS)
    feed = told.store.follow(
        FeedSettings(),
        knowledge,
        clock=time.time,
        monotonic=time.monotonic,
        observe_lag=lambda _: None,
    )
    feed.start()
    try:
        yield feed
    finally:
        await feed.aclose()


async def follows(feed: Feed, revokes: Opened) -> bool:
    """Whether the feed becomes live and is told of a revocation by a push; False as soon as the
    store refuses it something.
    """

    def refused() -> bool:
        return "NoPermission" in f"{feed.status()['error']} {feed.subscription.error}"

    def live() -> bool:
        return feed.subscribed and feed.live_buckets == BUCKETS

    await eventually(lambda: refused() or live(), f"live: {feed.status()}")
    if refused():
        return False
    pushed = feed.figures.entries["pushed"]
    await revokes.store.revoke_token(of_token(token_ref(bucket=0)))
    await eventually(lambda: refused() or feed.figures.entries["pushed"] > pushed, "a push")
    return not refused()


async def use(told: Opened, bucket: int) -> Use:
    """Use a thing that was never used."""
    name = token_ref().token
    answer = told.store.use(bucket, name, time.time() + 60)
    return answer if isinstance(answer, Unavailable) else await answer


async def half_move(cluster: ValkeyCluster) -> None:
    await asyncio.to_thread(cluster.move_slot, MOVING, other_master(cluster, MOVING), finish=False)


def other_master(cluster: ValkeyCluster, bucket: int) -> Node:
    return next(node for node in cluster.masters if node is not cluster.master_of(bucket))


def allow(cluster: ValkeyCluster, words: Sequence[str]) -> None:
    """Give the user `someone` these rights only."""
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "someone", "reset", "on", ">pw", *words)


def rights(words: Sequence[str]) -> list[str]:
    return [word for word in words if word[0] in "+~&%"]


def without(word: str, words: Sequence[str]) -> list[str]:
    return [other for other in words if other != word]
