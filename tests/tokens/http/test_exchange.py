"""Token exchange (RFC 8693): whose word is taken for who the user is, and whose isn't."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from tokens.conftest import PROVIDER, PROVIDER_KID, World

from authz.revocation.record import bucket_of, user_digest
from authz.tokens.clients.client import CLIENT_CREDENTIALS, TOKEN_EXCHANGE, Client
from support import jwks
from support.dpop import ProofKey
from support.revocations import BUCKETS, of_user, opened, token_ref
from support.token_service import (
    ISSUER,
    SECRET,
    assertion,
    claims_of,
    login_key,
    login_service,
    new_client,
)

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def refusal(world: World, token: str, client: Client | None = None, **form: Any) -> str:
    """`error_description` of a refused exchange; the error is RFC 8693's."""
    client = client or world.login
    answer = world.server.exchange(client.id, token, None if client.public else SECRET, **form)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "invalid_request"
    return str(answer.json()["error_description"])


# assertions of a login service


def test_an_assertion_is_good_once(world: World) -> None:
    said = assertion(world.login, "ann")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: world.server.exchange(world.login.id, said), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    assert "used before" in refusal(world, said)


TIMES = ("iat", "exp")
"""Claims that are given as seconds from now."""


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"aud": "https://elsewhere.example"}, "audience"),
        ({"aud": None}, "audience"),
        ({"iat": -200, "exp": -100}, "expired"),
        ({"exp": 600}, "lifetime"),
        ({"iat": 60, "exp": 100}, "not valid yet"),
        ({"jti": None}, "jti"),
        ({"jti": 7}, "jti"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"azp": "somebody"}, "azp"),
        ({"azp": None, "iss": "nobody"}, "not trusted"),
        ({"iss": "\ud800"}, "iss"),
        ({"iss": ""}, "iss"),
        ({"azp": "\ud800"}, "azp"),
        ({"jti": "\ud800"}, "jti"),
    ],
)
def test_an_assertion_that_is_not_for_us_now_is_refused(
    world: World, claims: dict[str, Any], says: str
) -> None:
    now = int(time.time())
    claims = {name: now + one if name in TIMES else one for name, one in claims.items()}
    assert says in refusal(world, assertion(world.login, "ann", **claims))


@pytest.mark.parametrize("issuer", [["a"], {}, None, 7])
def test_an_issuer_that_is_no_text_is_refused(world: World, issuer: object) -> None:
    said = {**claims_of(assertion(world.login, "ann")), "iss": issuer}
    assert "iss" in refusal(world, jwks.sign(said, login_key(), kid="login-1"))


def test_a_bound_token_is_exchanged_with_its_proof_only(world: World) -> None:
    """RFC 9449 section 7: or whoever stole it could change it for one that is bound to nothing."""
    key, other = ProofKey(jwks.ec_key("holder")), ProofKey(jwks.ec_key("thief"))
    url = f"{ISSUER}/oauth2/token"

    def exchange(cnf: dict[str, str], proof: str | None) -> httpx.Response:
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "client_id": world.login.id,
            "client_secret": SECRET,
            "subject_token": assertion(world.login, "ann", cnf=cnf),
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        headers = {} if proof is None else {"dpop": proof}
        return world.server.http.post("/oauth2/token", data=form, headers=headers)

    for proof in (None, other.prove("POST", url)):
        refused = exchange(key.cnf, proof)
        assert refused.json()["error"] == "invalid_request"
        assert "bound" in refused.json()["error_description"]
    assert exchange({"x5t#S256": "A" * 43}, None).status_code == 400
    good = exchange(key.cnf, key.prove("POST", url)).json()
    assert claims_of(good["access_token"])["cnf"] == key.cnf


def test_an_assertion_with_another_key_is_refused(world: World) -> None:
    good = assertion(world.login, "ann")
    forged = jwt.encode(
        claims_of(good), jwks.pem(jwks.ec_key("thief")), "ES256", {"kid": "login-1"}
    )
    assert "signature" in refusal(world, forged)
    shared = jwt.encode(claims_of(good), SECRET, "HS256", {"kid": "login-1"})
    assert "algorithm" in refusal(world, shared)
    assert "subject_token" in refusal(world, "no token at all")
    assert "subject_token" in refusal(world, good.rpartition(".")[0] + ".")


def test_a_client_without_the_right_to_vouch_is_not_believed(world: World) -> None:
    """Also not where it signs with a key that is good for somebody else."""
    plain = new_client("plain", TOKEN_EXCHANGE)
    world.server.add(plain)
    assert "not trusted" in refusal(world, assertion(plain, "ann"), plain)


def test_a_disabled_login_service_is_not_believed(world: World) -> None:
    gone = login_service("gone", disabled=True)
    world.server.add(gone)
    assert "not trusted" in refusal(world, assertion(gone, "ann", azp=world.app.id), world.app)


def test_an_app_can_not_use_what_is_meant_for_another(world: World) -> None:
    assert "azp" in refusal(world, assertion(world.login, "ann"), world.app)
    assert "azp" in refusal(world, assertion(world.login, "ann", azp=world.page.id), world.app)


def test_no_user_has_the_name_of_a_client(world: World) -> None:
    """RFC 9068 section 5: or a user's token would be taken for the client's."""
    assert "name of a client" in refusal(world, assertion(world.login, world.machine.id))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, "subject_token_type"),
        ({"subject_token_type": ""}, "subject_token_type"),
        ({"actor_token": "x"}, "actor_token"),
        ({"requested_token_type": ID_TOKEN}, "requested_token_type"),
        ({"address": "nowhere"}, "address"),
    ],
)
def test_what_is_not_supported_is_said_so(world: World, form: dict[str, Any], says: str) -> None:
    assert says in refusal(world, assertion(world.login, "ann"), **form)


def test_what_was_vouched_for_before_a_log_out_everywhere_is_worth_nothing(world: World) -> None:
    """Or a thief who holds an assertion, or a provider's token, outlives the log-out."""
    user = f"user-{uuid4().hex[:8]}"
    form = {"grant_type": CLIENT_CREDENTIALS, "scope": "sessions:all"}
    token = world.server.token(world.machine.id, **form).json()["access_token"]
    now = int(time.time())
    old = assertion(world.login, user, iat=now - 10, exp=now + 60)
    theirs = provided(sub=user, iat=now - 10)
    for name in (user, f"idp:{user}"):
        headers = {"authorization": f"Bearer {token}"}
        assert world.server.http.delete(f"/users/{name}/sessions", headers=headers).is_success
    assert "logged out" in refusal(world, old)
    assert "logged out" in exchange(world, theirs).json()["error_description"]
    assert world.server.exchange(world.login.id, assertion(world.login, user)).is_success


@pytest.mark.parametrize("auth_time", ["noon", -1, 1.5, True, 4_000_000_000, 10**30])
def test_a_time_that_is_none_is_left_out(world: World, auth_time: object) -> None:
    answer = world.server.exchange(
        world.login.id, assertion(world.login, "ann", auth_time=auth_time)
    )
    assert "auth_time" not in claims_of(answer.json()["access_token"])


def test_a_refused_request_does_not_use_the_assertion_up(world: World) -> None:
    said = assertion(world.login, "ann")
    answer = world.server.exchange(world.login.id, said, scope="admin")
    assert answer.json()["error"] == "invalid_scope"
    assert world.server.exchange(world.login.id, said, scope="read").status_code == 200


# tokens of a trusted issuer


def exchange(
    world: World, token: str, kind: str = ID_TOKEN, client: Client | None = None
) -> httpx.Response:
    client = client or world.login
    return world.server.exchange(client.id, token, subject_token_type=kind)


def provided(typ: str = "JWT", **claims: Any) -> str:
    """An ID token of PROVIDER."""
    now = int(time.time())
    said = {"iss": PROVIDER, "sub": "alice", "aud": "login", "iat": now, "exp": now + 300, **claims}
    key = jwks.pem(jwks.rsa_key("provider"))
    return jwt.encode(said, key, "RS256", {"kid": PROVIDER_KID, "typ": typ})


def test_a_user_of_a_trusted_issuer_has_its_prefix(world: World) -> None:
    """So that two providers' users can't be one."""
    answer = exchange(world, provided(auth_time=1_700_000_000))
    claims = claims_of(answer.json()["access_token"])
    assert (claims["sub"], claims["iss"]) == ("idp:alice", ISSUER)
    assert claims["auth_time"] == 1_700_000_000


def test_an_access_token_is_no_id_token(world: World) -> None:
    token = provided("at+jwt")
    assert exchange(world, token, ID_TOKEN).status_code == 400
    assert exchange(world, token, ACCESS_TOKEN).status_code == 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: provided(aud="another"),
        lambda: provided(exp=int(time.time()) - 60),
        lambda: provided(iss="https://other.example"),
        lambda: provided(iss=ISSUER),
    ],
    ids=["audience", "expired", "issuer", "our own"],
)
def test_a_token_that_the_sidecar_would_refuse_is_refused(
    world: World, make: Callable[[], str]
) -> None:
    answer = exchange(world, make())
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_revoked_token_of_a_trusted_issuer_is_refused(world: World) -> None:
    theirs = replace(
        token_ref("bob"),
        user=user_digest(PROVIDER, "bob"),
        bucket=bucket_of(PROVIDER, "bob", BUCKETS),
    )
    async with opened(world.valkey.url) as told:
        await told.store.revoke_user(of_user(theirs, time.time()))
    before = int(time.time()) - 10
    answer = exchange(world, provided(sub="bob", iat=before, exp=before + 300))
    assert "revoked" in answer.json()["error_description"]


def test_a_client_may_only_exchange_what_it_was_trusted_with(world: World) -> None:
    plain = new_client("plain", TOKEN_EXCHANGE)
    world.server.add(plain)
    answer = exchange(world, provided(), client=plain)
    assert answer.json()["error"] == "unauthorized_client"
