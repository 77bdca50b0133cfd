"""Between clusters: failovers, slots on the move, and the smallest rights."""

import asyncio
import re
import time
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import StartCluster
from relay.conftest import StartRelay

from authz.revocation.record import (
    Answer,
    Revoked,
    TokenRef,
    Unavailable,
    blacklist_key,
    feed_key,
    tip_key,
)
from support.cluster import ValkeyCluster
from support.relay import RelayProcess, revoke
from support.revocations import BUCKETS, Opened, of_token, of_user, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

README = Path(__file__).parents[2] / "authz/revocation/README.md"


def rights(user: str) -> str:
    """As authz/revocation/README.md gives them."""
    (found,) = re.findall(
        rf"^ +ACL SETUSER {user} on >PASSWORD (.*)$", README.read_text(), re.MULTILINE
    )
    return str(found)


def revoked_keys(cluster: ValkeyCluster) -> list[bytes]:
    keys = cluster.keys()
    return [key for key in keys if re.search(rb":(blacklist|not-before):", key)]


async def test_a_target_that_fails_over_gets_everything(
    cluster: ValkeyCluster, tmp_path: Path, start_relay: StartRelay
) -> None:
    """A master is killed (-9) while entries are copied. What was revoked is refused there."""
    refs = [token_ref(bucket=number % BUCKETS) for number in range(200)]
    with ValkeyServer(tmp_path / "east") as east_server:
        relay = await asyncio.to_thread(start_relay, east_server.url, cluster.url)
        async with opened(east_server.url) as east, opened(cluster.url) as west:
            await eventually(relay.is_level, "level")
            for number, ref in enumerate(refs):
                await east.store.revoke_token(of_token(ref))
                if number == 50:
                    old = cluster.master_of(3)
                    cluster.kill(old)
            await asyncio.to_thread(cluster.wait_failover, old)
            await eventually(
                lambda: relay.is_level() and len(revoked_keys(cluster)) == len(refs),
                "level again",
                timeout=30,
            )
            found: dict[TokenRef, Answer] = {}
            for ref in refs:
                await eventually(partial(answers, west, ref, found), "an answer")
            assert {type(answer) for answer in found.values()} == {Revoked}


async def answers(store: Opened, ref: TokenRef, found: dict[TokenRef, Answer]) -> bool:
    """Whether the store does: connections to the dead node fail first."""
    found[ref] = await store.find(ref)
    return not isinstance(found[ref], Unavailable)


async def test_slots_may_move_on_both_sides(
    cluster: ValkeyCluster, start_cluster: StartCluster, start_relay: StartRelay
) -> None:
    """While a slot is half on its way, and when it has arrived."""
    other = await asyncio.to_thread(start_cluster, replicas=0)
    relay = await asyncio.to_thread(start_relay, cluster.url, other.url)
    async with opened(cluster.url) as source:
        await revoke(source, 48)
        await eventually(lambda: relay.has_copied(48), "level")
        moves = []
        for one in (cluster, other):
            to = next(node for node in one.masters if node is not one.master_of(3))
            slot = await asyncio.to_thread(one.move_slot, 3, to, finish=False)
            moves.append((one, slot, to))
        for bucket in set(range(BUCKETS)) - {3}:
            await source.store.revoke_token(of_token(token_ref(bucket=bucket)))
        await eventually(lambda: len(revoked_keys(other)) == 48 + 15, "the other buckets go on")
        for one, slot, to in moves:
            await asyncio.to_thread(one.finish_move, slot, to)
        await source.store.revoke_token(of_token(token_ref(bucket=3)))
        await eventually(lambda: relay.has_copied(48 + 16), "level again", timeout=20)
    assert revoked_keys(other) == revoked_keys(cluster)


BRIEF = {"write_timeout": "500ms", "connect_timeout": "500ms"}


async def test_the_smallest_rights_suffice(
    start_cluster: StartCluster, start_relay: StartRelay
) -> None:
    """On clusters, with a slot on the move in the source, streams and keys to be read."""
    source = await asyncio.to_thread(
        start_cluster, replicas=0, users={"reading": f"on >pw {rights('relay-from')}"}
    )
    target = await asyncio.to_thread(
        start_cluster, replicas=0, users={"writing": f"on >pw {rights('relay-to')}"}
    )
    relay = await asyncio.to_thread(
        start_relay, source.url_for("reading", "pw"), target.url_for("writing", "pw")
    )
    async with opened(source.url) as store:
        await revoke(store, 20)
        await store.store.revoke_user(of_user(token_ref(), time.time()))
        await eventually(lambda: relay.has_copied(21), "level")
        subscription = relay.status()["subscription"]
        assert subscription["node"], subscription
    assert revoked_keys(target) == revoked_keys(source)


@pytest.mark.parametrize("side", ["relay-from", "relay-to"])
async def test_none_of_the_rights_can_be_spared(
    tmp_path: Path, start_relay: StartRelay, side: str
) -> None:
    """Each taken away in turn makes something fail, on a single server."""
    words = rights(side).split()
    spared = []
    with ValkeyServer(tmp_path / "east") as east, ValkeyServer(tmp_path / "west") as west:
        async with opened(east.url) as store:
            await revoke(store, 1)
            await store.store.revoke_user(of_user(token_ref(), time.time()))
        for bucket in range(BUCKETS):
            east.command("DEL", feed_key(bucket), tip_key(bucket))
        async with opened(east.url) as store:
            ref = token_ref(bucket=3)
            await store.store.revoke_token(of_token(ref))
        ref_key = blacklist_key(3, ref.user, ref.token)
        limited, other = (east, west) if side == "relay-from" else (west, east)
        for word in [None, *(one for one in words if one not in CLUSTER_ONLY | {"resetchannels"})]:
            rest = [one for one in words if one != word]
            limited.command("ACL", "SETUSER", "x", "reset", "on", ">pw", *rest)
            limited.command("SCRIPT", "FLUSH")
            west.command("FLUSHALL")
            west.client.set(ref_key, "there already", px=600_000)
            urls = {limited: limited.url_for("x", "pw"), other: other.url}
            relay = await asyncio.to_thread(
                start_relay, urls[east], urls[west], settings={"store": BRIEF}
            )
            try:
                await eventually(
                    partial(is_well, relay),
                    "well",
                    timeout=1.0 if word else 10,
                )
                spared.append(word)
            except TimeoutError:
                pass
            relay.process.kill()
    assert spared == [None]


CLUSTER_ONLY = {"+asking", "+cluster|slots", "+wait"}
"""The last where there are replicas."""


def is_well(relay: RelayProcess) -> bool:
    status = relay.status()
    connected = all(side["store"]["connected"] for side in status["sides"].values())
    return bool(status["level"] and status["subscription"]["node"] and connected)


async def test_a_dead_shard_holds_up_none_but_its_own_buckets(
    start_cluster: StartCluster, tmp_path: Path, start_relay: StartRelay
) -> None:
    """On either side, from the start on; the relay says that the side isn't well."""
    options = {"cluster-require-full-coverage": "no"}
    with ValkeyServer(tmp_path / "west") as west:
        cluster = await asyncio.to_thread(start_cluster, replicas=0, options=options)
        dead = cluster.master_of(3)
        living = [b for b in range(BUCKETS) if cluster.master_of(b) is not dead]
        cluster.kill(dead)
        async with opened(cluster.url, connected=False) as east, opened(west.url) as at_west:

            def revoke_in_living(store: Opened) -> list[Awaitable[Any]]:
                refs = [token_ref(bucket=bucket) for bucket in living]
                return [store.store.revoke_token(of_token(ref)) for ref in refs]

            await asyncio.gather(*revoke_in_living(east))
            await asyncio.gather(*revoke_in_living(at_west))
            there = await asyncio.to_thread(start_relay, cluster.url, west.url)
            back = await asyncio.to_thread(start_relay, west.url, cluster.url)
            await eventually(
                lambda: there.entries("written") == back.entries("written") == len(living),
                "the others are copied",
            )
            assert there.metric("authz_relay_up", side="from") == 0
            assert back.metric("authz_relay_up", side="to") == 0
            assert not there.is_level()
            await asyncio.to_thread(cluster.restart, dead)
            await eventually(lambda: there.is_level() and back.is_level(), "level", timeout=20)
