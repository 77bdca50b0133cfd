"""DPoP at the endpoints (RFC 9449 section 5): tokens are bound to the key that asked."""

import time
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from starlette.requests import Request
from tokens.conftest import World

from authz.check.nonce import Nonces
from authz.check.proof import ProofVerifier
from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE, Client
from authz.tokens.http.errors import OAuthError
from authz.tokens.http.proofs import Proofs
from authz.uses.ledger import Ledger
from support.dpop import ProofKey
from support.jwks import ec_key
from support.token_service import ISSUER, SECRET, assertion, claims_of

URL = f"{ISSUER}/oauth2/token"
KEY, OTHER = ProofKey(ec_key("dpop one")), ProofKey(ec_key("dpop two"))


def ask(world: World, proof: str | None, client: Client, **form: Any) -> httpx.Response:
    who = {"client_id": client.id} | ({} if client.public else {"client_secret": SECRET})
    headers = {} if proof is None else {"dpop": proof}
    return world.server.http.post("/oauth2/token", data={**who, **form}, headers=headers)


def log_in(world: World, proof: str | None, client: Client, user: str) -> httpx.Response:
    return ask(
        world,
        proof,
        client,
        grant_type=TOKEN_EXCHANGE,
        subject_token=assertion(world.login, user, azp=client.id),
        subject_token_type="urn:ietf:params:oauth:token-type:jwt",
    )


def refresh(world: World, proof: str | None, client: Client, token: str) -> httpx.Response:
    return ask(world, proof, client, grant_type=REFRESH_TOKEN, refresh_token=token)


def proof(key: ProofKey = KEY, **changes: Any) -> str:
    return key.prove("POST", URL, **changes)


def test_a_token_is_bound_to_the_key_that_asked(world: World) -> None:
    answer = ask(world, proof(), world.machine, grant_type=CLIENT_CREDENTIALS).json()
    assert answer["token_type"] == "DPoP"
    assert claims_of(answer["access_token"])["cnf"] == {"jkt": KEY.jkt}
    plain = ask(world, None, world.machine, grant_type=CLIENT_CREDENTIALS).json()
    assert plain["token_type"] == "Bearer"
    assert "cnf" not in claims_of(plain["access_token"])


def test_an_app_s_refresh_token_works_with_its_key_alone(world: World) -> None:
    """RFC 9449 section 5: for a client without a secret the key is all there is."""
    first = log_in(world, proof(), world.app, "ann").json()
    for wrong in (None, proof(OTHER)):
        answer = refresh(world, wrong, world.app, first["refresh_token"])
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    second = refresh(world, proof(), world.app, first["refresh_token"]).json()
    assert claims_of(second["access_token"])["cnf"] == {"jkt": KEY.jkt}


@pytest.mark.parametrize(
    "bad",
    [
        lambda: "no proof",
        lambda: KEY.prove("GET", URL),
        lambda: KEY.prove("POST", f"{ISSUER}/oauth2/revoke"),
        lambda: KEY.prove("POST", "http://127.0.0.1/oauth2/token"),
        lambda: proof(iat=1_500_000_000),
        lambda: proof()[:-4] + "AAAA",
    ],
    ids=["none", "method", "path", "host", "old", "signature"],
)
def test_a_proof_that_is_not_for_this_request_is_refused(world: World, bad: Any) -> None:
    answer = ask(world, bad(), world.machine, grant_type=CLIENT_CREDENTIALS)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")


def test_a_proof_works_once(world: World) -> None:
    once = proof()
    assert ask(world, once, world.machine, grant_type=CLIENT_CREDENTIALS).is_success
    answer = ask(world, once, world.machine, grant_type=CLIENT_CREDENTIALS)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")


def test_sessions_are_shown_to_whoever_proves_the_key(world: World) -> None:
    user = f"idp|{uuid4().hex[:8]} é"
    token = log_in(world, proof(), world.app, user).json()["access_token"]
    path = f"/users/{quote(user)}/sessions"

    def get(scheme: str, **headers: str) -> httpx.Response:
        given = {"authorization": f"{scheme} {token}", **headers}
        return world.server.http.get(path, headers=given)

    assert get("Bearer").status_code == 401
    assert get("DPoP").status_code == 401
    stranger = OTHER.prove("GET", f"{ISSUER}{path}", token)
    assert get("DPoP", dpop=stranger).status_code == 401
    for bad in ("no proof", KEY.prove("DELETE", f"{ISSUER}{path}", token), proof()):
        answer = get("DPoP", dpop=bad)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_dpop_proof")
        assert answer.headers["www-authenticate"].startswith("DPoP ")
    own = KEY.prove("GET", f"{ISSUER}{path}", token)
    assert len(get("DPoP", dpop=own).json()["sessions"]) == 1


async def test_a_nonce_is_given_to_whoever_lacks_one() -> None:
    """RFC 9449 section 8: with it the proof is good."""
    verifier = ProofVerifier(max_age=60, leeway=5, nonces=Nonces(b"n" * 32, 300))
    proofs = Proofs(verifier, Ledger(None), 16)

    def request(text: str) -> Request:
        headers = [(b"dpop", text.encode())]
        return Request({"type": "http", "method": "POST", "headers": headers})

    with pytest.raises(OAuthError) as refused:
        await proofs.of(request(proof()), URL, time.time())
    assert (refused.value.status, refused.value.error) == (400, "use_dpop_nonce")
    good = proof(nonce=refused.value.headers["dpop-nonce"])
    proven = await proofs.of(request(good), URL, time.time())
    assert proven is not None
    assert proven.cnf == {"jkt": KEY.jkt}
