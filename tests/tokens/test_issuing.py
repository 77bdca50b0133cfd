"""Access tokens, and the sessions that are begun with them, in a real cluster."""

import json
import time
from typing import Any

import jwt
import pytest

from authz.check.jose import MAX_TOKEN_BYTES
from authz.check.token import Identity
from authz.check.verifier import Verified, Verifier
from authz.keys.signer import SigningUnavailableError
from authz.revocation.record import blacklist_key
from authz.settings import IssuerSettings
from authz.tokens.encryption import TokenTooLargeError
from authz.tokens.grant import Refusal
from support.cluster import ValkeyCluster
from support.jwks import AUDIENCE, ISSUER, ec_key
from support.revocations import BUCKETS
from support.tokens import CLIENT, KID, Service, a_note, claims_of, ref_of, serving

CNF = {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}


def judged(service: Service, text: str, now: float) -> Any:
    """What a sidecar's verifier says."""

    class Ring:
        keys = service.keys.verification()

        def refetch(self) -> None:
            return None

    settings = IssuerSettings.model_validate(
        {
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "algorithms": ["ES256"],
            "keys": {"jwks_file": "x"},
        }
    )
    verifier = Verifier([settings], {ISSUER: Ring()}, leeway=0, buckets=BUCKETS, cache_size=9)
    return verifier.verify(text, now)


def identity_of(service: Service, text: str, now: float) -> Identity:
    verified = judged(service, text, now)
    assert isinstance(verified, Verified), verified
    return verified.identity


async def test_an_access_token_is_as_rfc_9068_has_it(cluster: ValkeyCluster) -> None:
    """Read by a library that nobody here wrote, and by the sidecar's verifier."""
    now = time.time()
    async with serving(cluster.url) as service:
        issued = await service.log_in("alice", now=now, auth_time=int(now) - 5, cnf=None)
        public: Any = ec_key().public_key()
        claims = jwt.decode(issued.access_token, public, ["ES256"], audience="api", issuer=ISSUER)
        assert jwt.get_unverified_header(issued.access_token) == {
            "alg": "ES256", "typ": "at+jwt", "kid": KID,
        }  # fmt: skip
        assert claims == {
            "iss": ISSUER, "sub": "alice", "aud": "api", "client_id": CLIENT,
            "scope": "read write", "iat": int(now), "exp": int(now) + 900,
            "jti": issued.jti, "sid": issued.sid, "auth_time": int(now) - 5,
        }  # fmt: skip
        assert (issued.token_type, issued.expires_in) == ("Bearer", 900)
        assert issued.scope == "read write"
        identity = identity_of(service, issued.access_token, now)
        assert (identity.subject, identity.scopes) == ("alice", ("read", "write"))
        assert identity.ref == ref_of(issued)
        assert await service.is_good(issued) == [True]


async def test_what_a_token_is_bound_to_stands_in_it(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service:
        by_key = await service.log_in(cnf=CNF)
        by_certificate = await service.log_in(cnf={"x5t#S256": "digest"})
    assert (by_key.token_type, claims_of(by_key)["cnf"]) == ("DPoP", CNF)
    assert by_certificate.token_type == "Bearer"
    assert claims_of(by_certificate)["cnf"] == {"x5t#S256": "digest"}


async def test_no_token_lives_for_longer_than_a_day_or_its_session(cluster: ValkeyCluster) -> None:
    async with serving(
        cluster.url, access_lifetime=100, refresh_lifetime=100, session_lifetime=200
    ) as service:
        long = await service.log_in(lifetime=1e9, refreshable=False)
        short = await service.log_in(lifetime=3.9, refreshable=False)
        within = await service.log_in(lifetime=1e9)
    assert [one.expires_in for one in (long, short)] == [86_400, 3]
    assert within.expires_in in {199, 200}


async def test_a_token_that_no_sidecar_would_take_is_not_issued(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service:
        with pytest.raises(TokenTooLargeError):
            await service.log_in("a" * MAX_TOKEN_BYTES)
    assert cluster.keys() == []


async def test_a_clients_own_token_needs_no_store(cluster: ValkeyCluster) -> None:
    """Nothing is written, and it is issued while no node answers."""
    async with serving(cluster.url) as service:
        for node in cluster.nodes:
            cluster.freeze(node)
        issued = await service.log_in("batch", session=False, refreshable=False)
        assert issued.sid is None
        assert issued.refresh_token is None
        assert "sid" not in claims_of(issued)
        cluster.heal()
        assert cluster.keys() == []
        assert await service.is_good(issued) == [True]


async def test_a_session_is_one_hash_that_lives_as_long_as_it(cluster: ValkeyCluster) -> None:
    """On a replica as well; with no secret in it."""
    now = time.time()
    async with serving(cluster.url) as service:
        issued = await service.log_in("alice", now=now, device="a\nphone", address="192.0.2.7")
    ref = ref_of(issued)
    key = f"jwt:{{{ref.bucket}}}:sessions:{ref.user}"
    assert cluster.keys() == [key.encode()]
    client = cluster.master_of(ref.bucket).client
    assert client.pexpiretime(key) == pytest.approx((now + 14 * 86_400) * 1000, abs=2)
    assert cluster.replica_of(ref.bucket).command("DBSIZE") == 1
    fields: Any = client.hgetall(key)
    assert issued.sid is not None
    assert fields.keys() == {b"v", issued.sid.encode()}
    session = json.loads(fields[issued.sid.encode()])
    assert session["device"] == "a phone"
    assert session["tokens"] == {ref.token: ref.expires_at}
    everything = b" ".join(fields.values()).decode()
    assert issued.refresh_token is not None
    assert issued.access_token not in everything
    assert issued.refresh_token[-43:] not in everything


async def test_where_no_key_can_sign_nothing_is_begun_and_nothing_used_up(
    cluster: ValkeyCluster,
) -> None:
    """Vault is sealed: the refresh token is good again when it is opened."""
    async with serving(cluster.url) as service:
        issued = await service.log_in("alice")
        before = cluster.command_counts()["evalsha"]
        service.keys.sealed = True
        with pytest.raises(SigningUnavailableError, match="sealed"):
            await service.refresh(issued)
        with pytest.raises(SigningUnavailableError, match="sealed"):
            await service.log_in("alice")
        assert cluster.command_counts()["evalsha"] == before
        service.keys.sealed = False
        await service.refreshed(issued)
        assert len(await service.issuer.sessions("alice", time.time())) == 1


async def test_sessions_are_shown_with_what_their_user_knows_them_by(
    cluster: ValkeyCluster,
) -> None:
    now = time.time()
    async with serving(cluster.url) as service:
        phone = await service.log_in("alice", now=now - 60, device="phone", address="192.0.2.1")
        await service.log_in("alice", now=now - 30, device="tv", refreshable=False, lifetime=100)
        await service.log_in("bob")
        await service.refreshed(phone, now=now, address="192.0.2.9")
        tv, shown = await service.issuer.sessions("alice", now)
    assert (shown.sid, shown.client_id, shown.device) == (phone.sid, CLIENT, "phone")
    assert (shown.address, shown.scope) == ("192.0.2.9", "read write")
    assert shown.issued == pytest.approx(now - 60, abs=0.001)
    assert shown.refreshed == pytest.approx(now, abs=0.001)
    assert (shown.refreshable, shown.tokens) == (True, 2)
    assert (tv.device, tv.refreshable, tv.tokens) == ("tv", False, 1)
    assert tv.expires == int(now - 30) + 100


async def test_with_one_session_too_many_the_oldest_is_ended(cluster: ValkeyCluster) -> None:
    """Its refresh token is good for nothing, its access token is refused everywhere."""
    async with serving(cluster.url, max_sessions=3) as service:
        now = time.time()
        issued = [await service.log_in("alice", now=now + n / 100, device=str(n)) for n in range(5)]
        assert await service.is_good(*issued) == [False, False, True, True, True]
        assert await service.refusal(issued[0]) is Refusal.UNKNOWN
        await service.refreshed(issued[2])
        shown = await service.issuer.sessions("alice", now)
        assert [one.device for one in shown] == ["4", "3", "2"]
        assert service.issuer.figures.crowded_out == 2
    left = [name.decode() for name in sorted(cluster.keys())]
    refs = [ref_of(one) for one in issued[:2]]
    revoked = sorted(blacklist_key(ref.bucket, ref.user, ref.token) for ref in refs)
    assert [name for name in left if ":blacklist:" in name] == revoked


async def test_of_too_many_access_tokens_of_one_session_the_oldest_are_revoked(
    cluster: ValkeyCluster,
) -> None:
    async with serving(cluster.url, refresh_grace=60) as service:
        issued = await service.log_in()
        refreshed = [await service.refreshed(issued) for _ in range(33)]
        assert await service.is_good(issued, *refreshed[:3]) == [False, False, True, True]


async def test_what_is_no_session_is_cleared_away_and_harms_none(cluster: ValkeyCluster) -> None:
    async with serving(cluster.url) as service:
        first = await service.log_in("alice")
        ref = ref_of(first)
        key = f"jwt:{{{ref.bucket}}}:sessions:{ref.user}"
        client = cluster.master_of(ref.bucket).client
        client.hset(key, "junk", "{}")
        await service.refreshed(first)
        assert not client.hexists(key, "junk")
        assert await service.issuer.end_all("alice", a_note(), time.time()) == 1
