"""Tokens and sessions that are taken back, and what is said of them afterwards."""

import math
import time
from typing import Any

import pytest

from authz.keys.signer import SigningUnavailableError
from authz.revocation.store import StoreError
from authz.tokens.grant import Refusal, Revoked
from support.cluster import ValkeyCluster
from support.revocations import of_token, of_user
from support.tokens import CLIENT, a_note, claims_of, ref_of, serving

SOON = 0.2
"""Of a second: far enough from its ends for a test to stay within."""


def in_this_second(part: float) -> float:
    """A moment of the current second."""
    return int(time.time()) + part


async def test_a_session_that_is_ended_takes_its_tokens_with_it(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service:
        now = time.time()
        first, other = [await service.log_in("alice") for _ in range(2)]
        second = await service.refreshed(first)
        assert first.sid is not None
        assert await service.issuer.end_session("alice", first.sid, a_note(), now)
        assert await service.is_good(first, second, other) == [False, False, True]
        assert await service.refusal(second) is Refusal.UNKNOWN
        assert not await service.issuer.end_session("alice", first.sid, a_note(), now)
        assert not await service.issuer.end_session("bob", other.sid or "", a_note(), now)
        await service.refreshed(other)


async def test_a_token_in_its_last_leeway_is_revoked_with_its_session(
    cluster: ValkeyCluster,
) -> None:
    """Sidecars take it for as long as that after its `exp`."""
    async with serving(cluster.url) as service:
        now = time.time()
        first = await service.log_in("alice", now=now - 60, lifetime=60)
        plain = await service.log_in("alice", now=now - 60, lifetime=60, refreshable=False)
        for one in (first, plain):
            assert await service.issuer.end_session("alice", one.sid or "", a_note(), now + 4)
        assert await service.is_good(first, plain) == [False, False]


async def test_log_out_everywhere_ends_all_sessions_and_all_tokens(
    cluster: ValkeyCluster,
) -> None:
    """Those too that this service has not issued, by the user's cut-off."""
    now = time.time()
    async with serving(cluster.url) as service:
        issued = [await service.log_in("alice", now=now - 5 * n) for n in range(3)]
        own = await service.log_in("alice", now=now - 1, session=False, refreshable=False)
        bob = await service.log_in("bob")
        assert await service.issuer.end_all("alice", a_note(), now) == 3
        assert await service.is_good(*issued, own, bob) == [False] * 4 + [True]
        for one in issued:
            assert await service.refusal(one) is Refusal.UNKNOWN
        assert await service.issuer.sessions("alice", now) == []
        assert await service.issuer.end_all("alice", a_note(), now) == 0


@pytest.mark.parametrize("leeway", [0.0, 5.0])
async def test_who_logs_in_again_in_the_second_of_the_log_out_is_logged_in(
    cluster: ValkeyCluster, leeway: float
) -> None:
    """`iat` counts seconds: the token is dated to the next one, or the cut-off would catch it. What
    was issued before the log-out stays revoked.
    """
    async with serving(cluster.url, leeway=leeway) as service:
        before = await service.log_in("alice", now=in_this_second(0.1))
        cut = in_this_second(0.5)
        await service.issuer.end_all("alice", a_note(), cut)
        after = await service.log_in("alice", now=cut + 0.1)
        refreshed = await service.refreshed(after, now=cut + 0.2)
        assert await service.is_good(before, after, refreshed) == [False, True, True]
        assert claims_of(after)["iat"] - cut <= 1
        await service.issuer.end_all("alice", a_note(), cut + 0.3)
        assert await service.is_good(after, refreshed) == [False, False]


async def test_a_session_begun_by_a_clock_that_is_behind_the_log_out_is_one_all_the_same(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url) as service:
        now = time.time()
        await service.issuer.end_all("alice", a_note(), now)
        issued = await service.log_in("alice", now=now - 0.9)
        assert await service.is_good(issued) == [True]
        await service.refreshed(issued, now=now - 0.8)


async def test_while_all_that_is_issued_would_be_revoked_nothing_is(
    cluster: ValkeyCluster,
) -> None:
    """Someone revoked into the future, or has a wrong clock."""
    async with serving(cluster.url) as service:
        now = time.time()
        issued = await service.log_in("alice")
        await service.told.store.revoke_user(of_user(ref_of(issued), now + 60))
        with pytest.raises(StoreError, match="a clock is wrong"):
            await service.log_in("alice", now=now)
        await service.log_in("alice", now=now + 61)


async def test_a_cut_off_by_the_command_line_ends_the_sessions_for_good(
    cluster: ValkeyCluster,
) -> None:
    """Its key is gone after a day, refresh tokens live for weeks. What began later isn't touched,
    nor is anything by an earlier cut-off that comes afterwards.
    """
    async with serving(cluster.url) as service:
        now = time.time()
        old = await service.log_in("alice", now=now - 100)
        new = await service.log_in("alice", now=now - 10)
        ref = ref_of(old)
        await service.told.store.revoke_user(of_user(ref, now - 50))
        await service.told.store.revoke_user(of_user(ref, now - 200))
        client = cluster.master_of(ref.bucket).client
        key = f"jwt:{{{ref.bucket}}}:sessions:{ref.user}"
        assert client.hget(key, "cut") == b"%d" % math.ceil((now - 50) * 1000)
        client.delete(f"jwt:{{{ref.bucket}}}:not-before:{ref.user}")
        assert await service.refusal(old) is Refusal.UNKNOWN
        await service.refreshed(new)


async def test_a_cut_off_that_comes_while_a_session_begins_is_seen(
    cluster: ValkeyCluster,
) -> None:
    """Between its reading and its writing: it begins again, and is dated after it."""
    async with serving(cluster.url) as service:
        now = time.time()
        await service.log_in("alice", now=now - 5)
        cut: list[float] = []
        signed = service.keys.current

        async def cut_off_first() -> Any:
            if not cut:
                cut.append(now + 0.01)
                ref = ref_of(await first())
                await service.told.store.revoke_user(of_user(ref, cut[0]))
            return await signed()

        async def first() -> Any:
            return await service.log_in("alice", session=False, refreshable=False)

        service.keys.current = cut_off_first  # type: ignore[method-assign]
        issued = await service.log_in("alice", now=now)
        assert service.issuer.figures.conflicts == 1
        assert claims_of(issued)["iat"] >= cut[0]
        assert await service.is_good(issued) == [True]


async def test_to_revoke_a_refresh_token_ends_its_session(cluster: ValkeyCluster) -> None:
    """RFC 7009 section 2.1; with any refresh token of the session, also one that was used."""
    async with serving(cluster.url) as service:
        now = time.time()
        first = await service.log_in()
        second = await service.refreshed(first)
        revoke = service.issuer.revoke
        assert await revoke(first.refresh_token or "", "another", now) is Revoked.OTHER_CLIENT
        assert await service.is_good(first, second) == [True, True]
        assert await revoke(first.refresh_token or "", CLIENT, now) is Revoked.DONE
        assert await service.is_good(first, second) == [False, False]
        assert await service.refusal(second) is Refusal.UNKNOWN
        assert await revoke(first.refresh_token or "", CLIENT, now) is Revoked.NOTHING


async def test_to_revoke_an_access_token_takes_no_other(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service:
        now = time.time()
        first = await service.log_in("alice")
        second = await service.refreshed(first)
        plain = await service.log_in("alice", refreshable=False)
        own = await service.log_in("alice", session=False, refreshable=False)
        revoke = service.issuer.revoke
        assert await revoke(first.access_token, "another", now) is Revoked.OTHER_CLIENT
        for one in (first, plain, own):
            assert await revoke(one.access_token, CLIENT, now) is Revoked.DONE
        assert await service.is_good(first, second, plain, own) == [False, True, False, False]
        (left,) = await service.issuer.sessions("alice", now)
        assert (left.sid, left.tokens) == (first.sid, 1)


@pytest.mark.parametrize(
    "text",
    ["", "a.b.c", "rt1_", "é" * 114, "\ud800" * 114, "x" * 20_000],
    ids=["empty", "dots", "prefix", "letters", "surrogates", "long"],
)
async def test_what_is_no_token_of_ours_is_no_error(cluster: ValkeyCluster, text: str) -> None:
    async with serving(cluster.url) as service:
        assert await service.issuer.revoke(text, CLIENT, time.time()) is Revoked.NOTHING
        assert await service.issuer.introspect(text, time.time()) == {"active": False}


async def test_while_no_key_is_known_nobody_is_told_that_a_token_is_none(
    cluster: ValkeyCluster,
) -> None:
    """Vault has been sealed since the start: a token to be revoked must not be taken for a text."""
    async with serving(cluster.url) as service:
        first = await service.log_in()
        service.keys.unknown = True
        for ask in (
            service.issuer.revoke(first.access_token, CLIENT, time.time()),
            service.issuer.introspect(first.access_token, time.time()),
        ):
            with pytest.raises(SigningUnavailableError):
                await ask
        assert await service.issuer.revoke("junk", CLIENT, time.time()) is Revoked.NOTHING


async def test_introspection_shows_a_living_token_and_nothing_of_any_other(
    cluster: ValkeyCluster,
) -> None:
    """RFC 7662 section 2.2, of both kinds of token."""
    async with serving(cluster.url) as service:
        now = time.time()
        first = await service.log_in("alice", now=now, cnf={"jkt": "key"})
        second = await service.refreshed(first, cnf={"jkt": "key"}, now=now)
        look = service.issuer.introspect
        shown = await look(first.access_token, now)
        assert shown == {"active": True, "token_type": "DPoP", **claims_of(first)}
        refresh = await look(second.refresh_token or "", now)
        assert refresh == {
            "active": True, "iss": shown["iss"], "sub": "alice", "client_id": CLIENT,
            "scope": "read write", "sid": first.sid, "iat": int(now), "exp": refresh["exp"],
        }  # fmt: skip
        assert await look(first.refresh_token or "", now) == {"active": False}  # it was used
        assert await look(first.access_token, now + 910) == {"active": False}
        await service.issuer.end_all("alice", a_note(), now)
        for text in (first.access_token, second.access_token, second.refresh_token or ""):
            assert await look(text, now) == {"active": False}


async def test_a_token_that_was_revoked_by_itself_is_not_shown_among_the_living(
    cluster: ValkeyCluster,
) -> None:
    """As by `authz revoke --token`, which knows nothing of sessions."""
    async with serving(cluster.url) as service:
        plain = await service.log_in("alice", refreshable=False)
        first = await service.log_in("alice")
        for one in (plain, first):
            await service.told.store.revoke_token(of_token(ref_of(one)))
        (left,) = await service.issuer.sessions("alice", time.time())
        assert (left.sid, left.tokens) == (first.sid, 0)
