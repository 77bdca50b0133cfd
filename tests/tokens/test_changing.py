"""Several who change the same sessions at once, and changes whose answer is lost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from authz.revocation.record import feed_key, sessions_key, tip_key
from authz.revocation.redis.script import ScriptRunner
from authz.revocation.store import SlotMovingError, StoreError
from authz.tokens.book import Change
from authz.tokens.grant import Refusal
from authz.tokens.sessions import NAMES_KEPT, Owner, Sessions
from support.cluster import Node, ValkeyCluster
from support.jwks import ISSUER
from support.revocations import BUCKETS, new_subject, of_user, opened
from support.tokens import Service, a_note, ref_of, serving

NOTE = a_note()


@asynccontextmanager
async def kept(service: Service) -> AsyncIterator[tuple[Sessions, Owner, Change]]:
    """Where a user's sessions are kept, and a change to them: a session that is new."""
    issued = await service.log_in(subject := new_subject())
    owner = Owner.of(ISSUER, subject, BUCKETS)
    sessions = Sessions(service.told.store.scripts, BUCKETS)
    (one,) = (await sessions.read(owner)).book.sessions.values()
    assert one.sid == issued.sid
    yield sessions, owner, Change(kept=(replace(one, sid="NEW"),))


async def test_a_change_is_not_written_when_another_came_first(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service, kept(service) as (sessions, owner, change):
        read = await sessions.read(owner)
        revoking = Change(gone=("NEW",), revoked={"TID": int(time.time()) + 60})
        assert await sessions.change(owner, read, change, name="first-change", note=NOTE)
        before = cluster.keys()
        assert not await sessions.change(owner, read, revoking, name="other-change", note=NOTE)
        assert "NEW" in (await sessions.read(owner)).book.sessions
        assert cluster.keys() == before


async def test_a_change_is_not_written_when_a_cut_off_came_first(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service, kept(service) as (sessions, owner, change):
        read = await sessions.read(owner)
        ref = replace(ref_of(await service.log_in()), user=owner.user, bucket=owner.bucket)
        await service.told.store.revoke_user(of_user(ref, time.time() - 500))
        assert not await sessions.change(owner, read, change, name="first-change", note=NOTE)


async def test_a_change_that_is_repeated_is_known_for_done(cluster: ValkeyCluster) -> None:
    """Also where others came in between, and nothing is done twice. It writes all the same, so that
    WAIT speaks of it.
    """
    async with serving(cluster.url) as service, kept(service) as (sessions, owner, change):
        read = await sessions.read(owner)
        assert await sessions.change(owner, read, change, name="first-change", note=NOTE)
        for number in range(NAMES_KEPT - 1):
            now = await sessions.read(owner)
            gone = Change(gone=("NEW",))
            name = f"other-{number:06}"
            assert await sessions.change(owner, now, gone, name=name, note=NOTE)
        offset = cluster.master_of(owner.bucket).role()[1]
        assert await sessions.change(owner, read, change, name="first-change", note=NOTE)
        assert cluster.master_of(owner.bucket).role()[1] > offset
        assert "NEW" not in (await sessions.read(owner)).book.sessions


async def test_revocations_of_one_change_are_one_push(cluster: ValkeyCluster) -> None:
    """And numbered in the bucket's stream, as those of whoever else revokes."""
    async with serving(cluster.url) as service:
        first = await service.log_in("alice")
        await service.refreshed(first)
        await service.refreshed(first)
        cluster.reset_counts()
        await service.issuer.end_session("alice", first.sid or "", NOTE, time.time())
    bucket = ref_of(first).bucket
    client = cluster.master_of(bucket).client
    entries: Any = client.xrange(feed_key(bucket))
    assert [fields[b"seq"] for _, fields in entries] == [b"1", b"2", b"3"]
    note = json.loads(entries[0][1][b"note"])
    assert (note["reason"], note["by"]) == (NOTE.reason, NOTE.by)
    assert client.hget(tip_key(bucket), "buckets") == b"%d" % BUCKETS
    assert cluster.command_counts()["publish"] == 1


async def test_an_answer_that_is_lost_is_no_second_session_and_no_second_use(
    cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script ran and the connection broke: it is tried again, and takes itself for done. With
    no grace at all a second use would end the session.
    """
    real: Any = ScriptRunner._call
    lost: list[Any] = []

    async def lossy(self: ScriptRunner, *args: Any) -> Any:
        reply = await real(self, *args)
        if not lost:
            lost.append(reply)
            raise RedisConnectionError("lost")
        return reply

    async with serving(cluster.url, refresh_grace=0) as service:
        monkeypatch.setattr(ScriptRunner, "_call", lossy)
        first = await service.log_in("alice")
        assert len(lost) == 1
        assert len(await service.issuer.sessions("alice", time.time())) == 1
        lost.clear()
        second = await service.refreshed(first)
        assert len(lost) == 1
        assert service.issuer.figures.conflicts == 0
        third = await service.refreshed(second)
        assert await service.refusal(second) is Refusal.REUSED
        assert await service.is_good(third) == [False]


def another_master(cluster: ValkeyCluster, bucket: int) -> Node:
    return next(node for node in cluster.masters if node is not cluster.master_of(bucket))


async def test_a_slot_that_is_being_moved_leaves_no_half_of_a_change(
    cluster: ValkeyCluster,
) -> None:
    """The sessions are still there, the key of the revocation would have to be made: Redis refuses
    that call before it begins, since all keys were named.
    """
    async with serving(cluster.url, store={"write_timeout": 0.3}) as service:
        subject = new_subject(5)
        first = await service.log_in(subject)
        ref = ref_of(first)
        target = another_master(cluster, 5)
        cluster.half_move_keys(5, target, [])
        with pytest.raises(SlotMovingError, match="being moved"):
            await service.issuer.end_session(subject, first.sid or "", NOTE, time.time())
        assert len(await service.issuer.sessions(subject, time.time())) == 1
        cluster.half_move_keys(5, target, [sessions_key(5, ref.user)])
        with pytest.raises(SlotMovingError, match="being moved"):
            await service.refresh(first)
        cluster.heal()
        async with opened(cluster.url):
            assert await service.is_good(first) == [True]
        await service.refreshed(first)
        assert await service.issuer.end_session(subject, first.sid or "", NOTE, time.time())


async def test_what_no_replica_confirms_is_not_given_out(cluster: ValkeyCluster) -> None:
    """The client may try again with the same refresh token."""
    quick = {"wait_replicas": 1, "wait_timeout": 0.1, "write_timeout": 0.6}
    async with serving(cluster.url, store=quick) as service:
        first = await service.log_in(new_subject(2))
        cluster.freeze(cluster.replica_of(2))
        with pytest.raises(StoreError, match="0 of 1 replicas"):
            await service.refresh(first)
        cluster.heal()
        await service.refreshed(first)


async def test_those_who_wait_for_their_turn_do_not_wait_for_all_before_them(
    cluster: ValkeyCluster,
) -> None:
    """Each change fails after its time. With ten at once the last one would wait for ten times."""
    quick = {"wait_replicas": 1, "wait_timeout": 0.1, "write_timeout": 0.4}
    async with serving(cluster.url, store=quick) as service:
        first = await service.log_in(new_subject(2))
        cluster.freeze(cluster.replica_of(2))
        started = time.monotonic()
        tries = (service.refresh(first) for _ in range(10))
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert time.monotonic() - started < 3 * 0.4 + 0.5
        assert all(isinstance(result, StoreError) for result in results), results
        cluster.heal()
        await service.refreshed(first)


async def test_while_the_store_is_gone_nothing_is_issued_and_the_error_says_so(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url, store={"write_timeout": 0.3}) as service:
        first = await service.log_in(new_subject(2))
        for node in cluster.nodes:
            cluster.freeze(node)
        started = time.monotonic()
        for work in (service.log_in(new_subject(2)), service.refresh(first)):
            with pytest.raises(StoreError, match="the store could not be asked"):
                await work
        assert time.monotonic() - started < 2 * 0.3 + 0.5
        cluster.heal()
        await service.refreshed(first)
