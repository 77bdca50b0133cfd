"""Rotation of refresh tokens, and what a token that was used before brings about."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

from authz.tokens.encryption import MixedAudiencesError
from authz.tokens.grant import Issued, RefreshRefused, Refusal, Revoked
from authz.tokens.refresh import RefreshToken
from support.cluster import ValkeyCluster
from support.tokens import CLIENT, claims_of, serving

CNF = {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}
OTHER = {"jkt": "another"}


async def test_each_refresh_gives_a_new_access_token_and_a_new_refresh_token(
    cluster: ValkeyCluster,
) -> None:
    """Of the same session and grant; the access tokens before stay good until they expire."""
    now = time.time()
    async with serving(cluster.url) as service:
        first = await service.log_in("alice", now=now - 100, auth_time=int(now) - 100)
        second = await service.refreshed(first, now=now - 50)
        third = await service.refreshed(second, now=now)
        assert len({one.refresh_token for one in (first, second, third)}) == 3
        assert len({one.jti for one in (first, second, third)}) == 3
        assert {one.sid for one in (first, second, third)} == {first.sid}
        assert await service.is_good(first, second, third) == [True] * 3
    same = ("sub", "client_id", "scope", "aud", "auth_time", "sid")
    claims = [claims_of(one) for one in (first, third)]
    assert len({str({name: one[name] for name in same}) for one in claims}) == 1
    assert claims[1]["iat"] == int(now)


async def test_a_refresh_token_that_is_used_again_ends_the_session(cluster: ValkeyCluster) -> None:
    """RFC 9700 section 4.14.2: its successors and all living access tokens with it, at once. The
    user's other sessions go on.
    """
    now = time.time()
    async with serving(cluster.url) as service:
        other = await service.log_in("alice", now=now - 100)
        first = await service.log_in("alice", now=now - 100)
        second = await service.refreshed(first, now=now - 90)
        third = await service.refreshed(second, now=now - 70)
        result = await service.refresh(first, now=now)
        assert result == RefreshRefused(Refusal.REUSED, first.sid)
        assert await service.is_good(first, second, third, other) == [False, False, False, True]
        assert await service.refusal(third) is Refusal.UNKNOWN
        assert [one.sid for one in await service.issuer.sessions("alice", now)] == [other.sid]
        await service.refreshed(other)
        figures = service.issuer.figures
        assert (figures.reused, figures.refused, figures.refreshed) == (1, 2, 3)


async def test_the_token_before_ends_the_session_once_its_grace_is_over(
    cluster: ValkeyCluster,
) -> None:
    now = time.time()
    async with serving(cluster.url, refresh_grace=10) as service:
        first = await service.log_in(now=now)
        second = await service.refreshed(first, now=now)
        again = await service.refreshed(first, now=now + 9.9)
        assert again.refresh_token == second.refresh_token
        assert await service.refusal(first, now=now + 10.1) is Refusal.REUSED
        assert await service.is_good(first, second, again) == [False] * 3


async def test_without_grace_a_second_use_ends_the_session_at_once(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url, refresh_grace=0) as service:
        first = await service.log_in()
        await service.refreshed(first)
        assert await service.refusal(first) is Refusal.REUSED


async def test_tabs_that_race_all_get_the_same_refresh_token_and_stay_logged_in(
    cluster: ValkeyCluster,
) -> None:
    """Twenty at once, by two processes of the service; each has an access token of its own."""
    async with serving(cluster.url) as one, serving(cluster.url) as two:
        first = await one.log_in("alice")
        tabs = await asyncio.gather(*(s.refreshed(first) for s in (one, two) for _ in range(10)))
        assert len({tab.refresh_token for tab in tabs}) == 1
        assert len({tab.jti for tab in tabs}) == 20
        assert await one.is_good(*tabs) == [True] * 20
        assert one.issuer.figures.raced + two.issuer.figures.raced == 19
        (shown,) = await two.issuer.sessions("alice", time.time())
        assert shown.tokens == 21
        await two.refreshed(tabs[0])


async def test_tabs_of_one_process_take_turns_and_nothing_is_signed_in_vain(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url) as service:
        first = await service.log_in()
        await asyncio.gather(*(service.refreshed(first) for _ in range(10)))
        assert service.issuer.figures.conflicts == 0
        assert service.keys.signed == 11


async def test_a_thief_and_a_victim_in_the_same_grace_do_not_both_go_on_unseen(
    cluster: ValkeyCluster,
) -> None:
    """They have the same successor, so the second of them to use it later is found out."""
    now = time.time()
    async with serving(cluster.url, refresh_grace=10) as service:
        first = await service.log_in(now=now)
        victim = await service.refreshed(first, now=now)
        thief = await service.refreshed(first, now=now + 5)
        next_of_thief = await service.refreshed(thief, now=now + 100)
        assert await service.refusal(victim, now=now + 900) is Refusal.REUSED
        assert await service.refusal(next_of_thief, now=now + 901) is Refusal.UNKNOWN


async def test_who_knows_a_session_but_has_had_no_refresh_token_of_it_can_not_end_it(
    cluster: ValkeyCluster,
) -> None:
    """The session's id stands in every access token, and its place can be worked out."""
    async with serving(cluster.url) as service:
        first = await service.log_in("alice")
        genuine = RefreshToken.read(first.refresh_token or "")
        assert genuine is not None
        made_up = replace(genuine, family=secrets.token_bytes(16), secret=secrets.token_bytes(32))
        moved = replace(genuine, bucket=(genuine.bucket + 1) % 16)
        far = replace(genuine, bucket=65_535)
        for token in (made_up.dump(), moved.dump(), far.dump(), "", "rt1_", first.access_token):
            assert await service.refusal(token) is Refusal.UNKNOWN
        await service.refreshed(first)


async def test_a_session_of_another_issuer_in_the_same_store_is_unknown(
    cluster: ValkeyCluster,
) -> None:
    """Or its token would name this issuer, and a revocation the other one."""
    async with (
        serving(cluster.url) as ours,
        serving(cluster.url, issuer="https://another.example") as theirs,
    ):
        first = await theirs.log_in("alice")
        assert await ours.refusal(first) is Refusal.UNKNOWN
        text, now = first.refresh_token or "", time.time()
        assert await ours.issuer.revoke(text, CLIENT, now) is Revoked.NOTHING
        assert await ours.issuer.introspect(text, now) == {"active": False}
        await theirs.refreshed(first)


async def test_audiences_that_can_no_longer_share_a_token_end_in_a_refusal(
    cluster: ValkeyCluster,
) -> None:
    """The settings have changed. Nothing is used up, should they change back."""

    def mixed(text: str, audiences: Sequence[str]) -> str:
        raise MixedAudiencesError

    async with serving(cluster.url) as service:
        first = await service.log_in()
        service.issuer._mint._encrypt = mixed
        assert await service.refusal(first) is Refusal.UNSHARED
        service.issuer._mint._encrypt = None
        await service.refreshed(first)


async def test_another_client_gets_nothing_for_a_refresh_token(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service:
        first = await service.log_in()
        assert await service.refusal(first, client_id="another") is Refusal.OTHER_CLIENT
        await service.refreshed(first)


async def test_a_refresh_may_narrow_the_scope_and_never_widen_it(cluster: ValkeyCluster) -> None:
    """RFC 6749 section 6: what is left out this time can be had the next time."""
    async with serving(cluster.url) as service:
        first = await service.log_in(scopes=("read", "write"))
        assert await service.refusal(first, scopes=("admin",)) is Refusal.SCOPE_TOO_WIDE
        narrow = await service.refreshed(first, scopes=("read",))
        assert (narrow.scope, claims_of(narrow)["scope"]) == ("read", "read")
        assert (await service.refreshed(first, scopes=("read",) * 9)).scope == "read"
        nothing = await service.refreshed(narrow, scopes=())
        assert "scope" not in claims_of(nothing)
        wide = await service.refreshed(nothing)
        assert wide.scope == "read write"


async def test_a_bound_refresh_token_asks_for_the_same_key(cluster: ValkeyCluster) -> None:
    """Of a public client (RFC 9449 section 5). A refused try uses up nothing."""
    async with serving(cluster.url) as service:
        first = await service.log_in(cnf=CNF, bind_refresh=True)
        assert await service.refusal(first) is Refusal.UNPROVEN
        assert await service.refusal(first, cnf=OTHER) is Refusal.UNPROVEN
        second = await service.refreshed(first, cnf=CNF)
        assert (second.token_type, claims_of(second)["cnf"]) == ("DPoP", CNF)


async def test_a_client_that_authenticates_itself_may_change_its_key_but_not_go_without(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url) as service:
        first = await service.log_in(cnf=CNF)
        assert await service.refusal(first) is Refusal.UNPROVEN
        second = await service.refreshed(first, cnf=OTHER)
        assert claims_of(second)["cnf"] == OTHER


async def test_a_session_that_is_not_refreshed_is_over_after_its_time(
    cluster: ValkeyCluster,
) -> None:
    now = time.time()
    async with serving(cluster.url, refresh_lifetime=2000, session_lifetime=5000) as service:
        first = await service.log_in("alice", now=now)
        second = await service.refreshed(first, now=now + 1999)
        third = await service.refreshed(second, now=now + 3998)
        assert await service.refusal(third, now=now + 5001) is Refusal.UNKNOWN
        assert await service.issuer.sessions("alice", now + 5001) == []


async def test_no_token_outlives_the_end_of_its_session(cluster: ValkeyCluster) -> None:
    now = time.time()
    async with serving(cluster.url, refresh_lifetime=1000, session_lifetime=1000) as service:
        first = await service.log_in(now=now)
        late = await service.refreshed(first, now=now + 700)
        assert claims_of(late)["exp"] <= now + 1000


async def test_the_lifetime_of_a_client_holds_for_its_refreshed_tokens(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url) as service:
        first = await service.log_in(lifetime=60)
        assert (await service.refreshed(first)).expires_in in {59, 60}


async def test_sessions_of_several_users_do_not_wait_for_each_other(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url) as service:
        issued = await asyncio.gather(*(service.log_in() for _ in range(30)))
        refreshed = await asyncio.gather(*map(service.refreshed, issued))
        assert all(isinstance(one, Issued) for one in refreshed)
        assert service.issuer.figures.conflicts == 0
