"""Whom to ask, while slots move, masters die and nodes hang; on a real cluster."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from authz.revocation.record import Clear, Revoked, TokenRef, Unavailable
from authz.revocation.redis.outage import State
from authz.revocation.redis.topology import Topology
from authz.revocation.store import StoreError
from support.cluster import Node, ValkeyCluster, slot_of
from support.ports import LOOPBACK, free_port
from support.revocations import BUCKETS, Opened, of_token, of_user, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually

TIMEOUT = 0.05
SCHEDULING = 0.3


def other_master(cluster: ValkeyCluster, bucket: int) -> Node:
    return next(node for node in cluster.masters if node is not cluster.master_of(bucket))


def buckets_of(cluster: ValkeyCluster, node: Node) -> set[int]:
    return {bucket for bucket in range(BUCKETS) if cluster.master_of(bucket) is node}


def state_of(told: Opened, node: Node) -> State:
    return told.store.breakers()[f"{LOOPBACK}:{node.port}"].state


# Slots that move


async def test_a_slot_that_moved_is_followed_without_a_failed_look_up(
    cluster: ValkeyCluster,
) -> None:
    revoked, clear = token_ref(bucket=3), token_ref(bucket=3)
    async with opened(cluster.url) as told:
        await told.store.revoke_token(of_token(revoked))
        target = other_master(cluster, 3)
        await asyncio.to_thread(cluster.move_slot, 3, target)
        assert isinstance(await told.find(revoked), Revoked)
        assert await told.find(clear) == Clear()
        cluster.reset_counts()
        assert await told.find(clear) == Clear()
        assert target.command_counts() == {"mget": 1}  # no detour the second time
        await told.store.revoke_token(of_token(clear))
        assert isinstance(await told.find(clear), Revoked)


async def test_a_write_follows_a_slot_that_moved(cluster: ValkeyCluster) -> None:
    ref = token_ref(bucket=3)
    async with opened(cluster.url) as told:
        await asyncio.to_thread(cluster.move_slot, 3, other_master(cluster, 3))
        assert (await told.store.revoke_token(of_token(ref))).replicas == 1
    assert cluster.master_of(3).client.exists(f"jwt:{{3}}:blacklist:{ref.user}:{ref.token}")


async def test_on_either_side_of_a_half_moved_slot_revocations_are_found(
    cluster: ValkeyCluster,
) -> None:
    """Keys that went get ASK, keys on both sides get TRYAGAIN; a wrong `clear` would be a hole."""
    source, target = cluster.master_of(3), other_master(cluster, 3)
    now = time.time()
    refs = [token_ref(bucket=3, issued_at=now - 10) for _ in range(6)]
    gone, stayed, user_gone, both, both_reversed, _ = refs
    async with opened(cluster.url) as told:
        await told.store.revoke_token(of_token(gone))
        await told.store.revoke_user(of_user(user_gone, now))
        await told.store.revoke_user(of_user(both, now - 100))  # too early for this token
        await told.store.revoke_token(of_token(both_reversed))
        await asyncio.to_thread(cluster.move_slot, 3, target, finish=False)
        # A node takes no key into a slot it is leaving, so put keys there while it isn't.
        source.command("CLUSTER", "SETSLOT", slot_of(3), "STABLE")
        await told.store.revoke_token(of_token(stayed))
        await told.store.revoke_token(of_token(both))
        await told.store.revoke_user(of_user(both_reversed, now - 100))
        source.command("CLUSTER", "SETSLOT", slot_of(3), "MIGRATING", target.id)
        found = await asyncio.gather(*map(told.find, refs))
        assert [isinstance(one, Revoked) for one in found] == [True] * 5 + [False]
        assert found[-1] == Clear()
        assert state_of(told, source) is State.CLOSED


async def test_a_revocation_waits_for_the_end_of_a_move(cluster: ValkeyCluster) -> None:
    """And is refused, clearly and without a lie, where that does not come in time."""
    ref = token_ref(bucket=3)
    target = other_master(cluster, 3)
    slot = await asyncio.to_thread(cluster.move_slot, 3, target, finish=False)
    async with opened(cluster.url, write_timeout=0.5) as told:
        with pytest.raises(StoreError, match=r"not acknowledged.*Repeating it is safe"):
            await told.store.revoke_token(of_token(ref))
    async with opened(cluster.url, write_timeout=10) as told:
        writing = asyncio.create_task(told.store.revoke_token(of_token(ref)))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(cluster.finish_move, slot, target)
        assert (await writing).replicas == 1
        assert isinstance(await told.find(ref), Revoked)


# Masters that die


async def test_after_a_failover_the_new_master_is_found_and_remembers(
    cluster: ValkeyCluster,
) -> None:
    old = cluster.master_of(3)
    revoked = [token_ref(bucket=bucket) for bucket in sorted(buckets_of(cluster, old))]
    async with opened(cluster.url, timeout=TIMEOUT, write_timeout=20) as told:
        for ref in revoked:
            await told.store.revoke_token(of_token(ref))
        cluster.kill(old)
        writing = asyncio.create_task(told.store.revoke_token(of_token(token_ref(bucket=3))))
        while state_of(told, old) is State.CLOSED:
            await told.find(token_ref(bucket=3))
        new = await asyncio.to_thread(cluster.wait_failover, old)
        await writing
        for ref in revoked:

            async def is_found(ref: TokenRef = ref) -> bool:
                finding = await told.find(ref)
                assert finding != Clear(), "a known revocation was forgotten"
                return isinstance(finding, Revoked)

            await eventually(is_found, "asked the new master")
        assert state_of(told, new) is State.CLOSED
        assert f"{LOOPBACK}:{old.port}" not in told.store.breakers()
        await eventually(lambda: told.store.status()["connected"], "all in reach")
        # The dead node has an open breaker that nobody probes. That must not keep us busy.
        refreshes = told.store.topology_refreshes
        await asyncio.sleep(1)
        assert told.store.topology_refreshes - refreshes <= 2


async def test_a_master_that_hangs_does_not_touch_the_other_shards(
    cluster: ValkeyCluster,
) -> None:
    frozen = cluster.master_of(3)
    sick = buckets_of(cluster, frozen)
    healthy = sorted(set(range(BUCKETS)) - sick)
    revoked = {bucket: token_ref(bucket=bucket) for bucket in range(BUCKETS)}
    patient = 0.25  # seconds; a healthy node of a busy machine may take more than `TIMEOUT`
    async with opened(cluster.url, timeout=patient) as told:
        for ref in revoked.values():
            await told.store.revoke_token(of_token(ref))
        cluster.freeze(frozen)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            finding, waited = await told.timed_find(revoked[min(sick)])
            assert isinstance(finding, Unavailable | Revoked)
            assert waited < patient + SCHEDULING
            for bucket in healthy:
                assert isinstance(await told.find(revoked[bucket]), Revoked)
                assert await told.find(token_ref(bucket=bucket)) == Clear()
        for bucket in healthy:
            assert state_of(told, cluster.master_of(bucket)) is State.CLOSED


# The map


async def test_any_configured_node_will_do(cluster: ValkeyCluster) -> None:
    """The first is nobody, the second hangs."""
    hanging, good = cluster.nodes[3], cluster.nodes[4]
    cluster.freeze(hanging)
    url = ",".join(f"{LOOPBACK}:{port}" for port in (free_port(), hanging.port, good.port))
    async with opened(f"redis+cluster://{url}") as told:
        assert await told.find(token_ref()) == Clear()


async def test_closing_does_not_wait_for_a_node_that_hangs_while_the_map_is_read(
    cluster: ValkeyCluster,
) -> None:
    """Every node hangs, so the reading of the map is under way when the end comes. Closing once
    hung for ever here: the task swallowed its own cancellation.
    """
    for node in cluster.nodes:
        cluster.freeze(node)
    for moment in (0.0, 0.01, 0.1, 0.3):
        async with opened(cluster.url, connected=False, connect_timeout=2) as told:
            await asyncio.sleep(moment)
            started = time.monotonic()
            await told.store.aclose()
            assert time.monotonic() - started < 1


async def test_closing_while_some_nodes_hang_and_others_answered(cluster: ValkeyCluster) -> None:
    cluster.freeze(cluster.nodes[4])
    for moment in (0.0, 0.005, 0.02, 0.06):
        async with opened(cluster.url, connected=False) as told:
            await asyncio.sleep(moment)
            async with asyncio.timeout(5):
                await told.store.aclose()


async def test_closing_leaves_no_task_behind(cluster: ValkeyCluster) -> None:
    before = asyncio.all_tasks()
    async with opened(cluster.url) as told:
        cluster.freeze(cluster.nodes[0])
        await asyncio.gather(*(told.find(token_ref()) for _ in range(20)))
    await eventually(lambda: asyncio.all_tasks() <= before, "no task of the store")


async def test_reading_the_map_does_not_cost_the_connections(cluster: ValkeyCluster) -> None:
    """Each node is asked, the first answer counts; the others may finish what they say."""
    async with opened(cluster.url) as told:
        await asyncio.gather(*(told.find(token_ref(bucket=b)) for b in range(BUCKETS)))
        connections = [node.client.info("stats")["total_connections_received"]
                       for node in cluster.masters]  # fmt: skip
        for _ in range(5):
            await told.store._nodes.topology.refresh(told.store._nodes.client, 1.0)
        assert connections == [node.client.info("stats")["total_connections_received"]
                               for node in cluster.masters]  # fmt: skip


async def test_a_single_server_under_a_cluster_url_is_told_apart(valkey: ValkeyServer) -> None:
    url = f"redis+cluster://{LOOPBACK}:{valkey.port}"
    async with opened(url, connected=False, write_timeout=0.3) as told:
        await eventually(
            lambda: "cluster support disabled" in str(told.store.status()["error"]), "an error"
        )
        assert await told.find(token_ref()) == Unavailable("connection")
        with pytest.raises(StoreError, match="cluster support disabled"):
            await told.store.revoke_token(of_token(token_ref()))


@asynccontextmanager
async def liar(reply: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A server that says OK to everything and `reply` to CLUSTER SLOTS; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(reply(data) if b"SLOTS" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"*0\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n*2\r\n:0\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*0\r\n",
        b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\n\xff\r\n:1\r\n",
        b"-ERR \xff\xfe\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
async def test_a_reply_that_makes_no_sense_is_lived_through(
    cluster: ValkeyCluster, reply: bytes
) -> None:
    """From one node: the others' word counts. From all: unavailable, and it goes on asking."""
    answers = [reply]
    async with liar(lambda _: answers[0]) as port:
        good = cluster.nodes[0]
        async with opened(f"redis+cluster://{LOOPBACK}:{port},{LOOPBACK}:{good.port}") as told:
            assert await told.find(token_ref()) == Clear()
        async with opened(f"redis+cluster://{LOOPBACK}:{port}", connected=False) as told:
            await eventually(
                lambda: told.store.status()["error"] != "not connected yet", "an error"
            )
            assert isinstance(await told.find(token_ref()), Unavailable)
            slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port
            answers[0] = slots
            await eventually(lambda: told.store.status()["connected"], "the map was read")


def test_a_null_or_empty_host_is_the_node_that_was_asked() -> None:
    """CLUSTER SLOTS, "the preferred endpoint": NULL means the one the command was sent to."""
    topology = Topology([("seed", 1)], 1, cluster=True)
    for host in (None, b""):
        shards = topology._read([[0, 16_383, [host, 7001], [b"other", 7002]]], ("asked", 1))
        assert shards[0].primary == ("asked", 7001)
        assert shards[0].replicas == (("other", 7002),)
