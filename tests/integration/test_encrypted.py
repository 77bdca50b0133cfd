"""Encrypted tokens through the real Envoy, on both transports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from integration.conftest import PATIENT_STORE, Deploy, Deployment

from support.cluster import ValkeyCluster
from support.dpop import ProofKey
from support.jwe import encrypt, private_jwk
from support.jwks import AUDIENCE, ISSUER, claims, ec_key, jwk, jwks, rsa_key, sign
from support.sidecar import KID
from support.waiting import wait_until

RSA, EC, STRANGER = rsa_key("enc"), ec_key("enc"), ec_key("stranger")
CONFIDENTIAL = "https://confidential.example"
"""An issuer whose tokens must be encrypted."""


def token(**changes: Any) -> str:
    return sign(claims(**changes), rsa_key(), kid=KID)


def write_keys(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({"keys": [private_jwk(key, kid) for kid, key in keys.items()]}))


@pytest.fixture(scope="module", params=["native", "grpcio"])
def encrypted(
    request: pytest.FixtureRequest,
    deploy: Deploy,
    _shared_cluster: ValkeyCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Deployment:
    """ISSUER's tokens may be encrypted, CONFIDENTIAL's have to be."""
    folder = tmp_path_factory.mktemp("encrypted")
    (folder / "jwks.json").write_text(jwks(jwk(rsa_key(), KID)))
    write_keys(folder / "decryption.json", rsa=RSA, ec=EC)
    opening = {"key_file": str(folder / "decryption.json")}
    common = {
        "audiences": [AUDIENCE],
        "algorithms": ["RS256"],
        "keys": {"jwks_file": str(folder / "jwks.json")},
    }
    return deploy(
        {
            "transport": request.param,
            "store": {"url": _shared_cluster.url, **PATIENT_STORE},
            "issuers": [
                {"issuer": ISSUER, **common, "decryption": opening},
                {
                    "issuer": CONFIDENTIAL,
                    **common,
                    "decryption": {**opening, "algorithms": ["ECDH-ES"], "required": True},
                },
            ],
        }
    )


def answer(deployment: Deployment, text: str, path: str = "/") -> tuple[int, str]:
    """Status, and the reason of a denial."""
    response = deployment.get(path, token=text)
    return response.status, "" if response.status == 200 else str(response.json()["reason"])


def test_an_encrypted_token_is_the_token_inside(encrypted: Deployment) -> None:
    """In the header or in the cookie, and again when it is known."""
    text = token(jti="inside", scope="read")
    for wrapped in (encrypt(text, RSA, kid="rsa"), encrypt(text, EC, kid="ec")):
        for _ in range(2):
            response = encrypted.get("/", token=wrapped)
            assert response.status == 200, response.body
            received = dict(response.json()["headers"])
            assert received["x-authz-subject"] == "alice"
            assert received["x-authz-token-id"] == "inside"
            assert received["x-authz-scopes"] == "read"
        cookie = encrypted.get("/", headers=[("cookie", f"__Host-access={wrapped}")])
        assert cookie.status == 200, cookie.body
    assert answer(encrypted, encrypt(text, RSA, kid="rsa"), "/read") == (403, "insufficient_scope")


def test_bad_ones_are_told_apart_as_far_as_that_helps_nobody(encrypted: Deployment) -> None:
    good, confidential = token(), token(iss=CONFIDENTIAL)
    expected = {
        encrypt(good, STRANGER, kid="ec"): (401, "decryption_failed"),
        encrypt(good, STRANGER, kid="stranger"): (401, "decryption_key_unknown"),
        encrypt(good, RSA, kid="rsa", headers={"zip": "DEF"}): (401, "header_unsupported"),
        encrypt(good, RSA, kid="rsa", headers={"enc": "A128GCM"}): (401, "encryption_not_allowed"),
        encrypt(encrypt(good, EC, kid="ec"), EC, kid="ec"): (401, "token_malformed"),
        encrypt(token(exp=1_700_000_000, iat=1_699_999_000), EC, kid="ec"): (401, "token_expired"),
        encrypt("x" * 8000, EC, kid="ec"): (401, "token_too_large"),
        confidential: (401, "encryption_required"),
        encrypt(confidential, EC, kid="ec"): (200, ""),
        encrypt(confidential, RSA, kid="rsa"): (401, "encryption_not_allowed"),
        good: (200, ""),
    }
    assert {text: answer(encrypted, text) for text in expected} == expected


def test_a_revoked_token_stays_revoked_in_whatever_envelope(encrypted: Deployment) -> None:
    """Revoked by one envelope; then it comes in another, by another key, and in the clear."""
    text = token(jti=..., sub=f"mallory-{encrypted.envoy.port}")
    known = encrypt(text, EC, kid="ec")
    assert answer(encrypted, known) == (200, "")
    command = [sys.executable, "-m", "authz", "revoke", "--config", str(encrypted.sidecar.config)]
    subprocess.run(
        [*command, "--token", encrypt(text, RSA, kid="rsa")], check=True, capture_output=True
    )
    wait_until(lambda: answer(encrypted, known)[0] == 401, "the revocation has come")
    for again in (known, encrypt(text, EC, kid="ec"), encrypt(text, RSA, kid="rsa"), text):
        assert answer(encrypted, again) == (401, "token_revoked")


def test_a_proof_of_possession_is_of_the_text_that_is_sent(encrypted: Deployment) -> None:
    """RFC 9449 section 4.3: `ath` is of the access token as it came, here the encrypted one. What
    it is bound to stands inside.
    """
    key = ProofKey()
    inside = token(cnf=key.cnf)
    wrapped = encrypt(inside, EC, kid="ec")

    def get(proof: str, scheme: str = "DPoP") -> tuple[int, str]:
        headers = [("authorization", f"{scheme} {wrapped}"), ("dpop", proof)]
        response = encrypted.get("/", headers=headers, host="app.example")
        return response.status, str(response.json().get("reason", ""))

    url = "http://app.example/"
    assert get(key.prove("GET", url, wrapped)) == (200, "")
    assert get(key.prove("GET", url, inside)) == (401, "proof_invalid")
    assert get(key.prove("GET", url, wrapped), "Bearer") == (401, "scheme_mismatch")


def test_decryption_keys_are_followed_and_take_their_tokens_along(encrypted: Deployment) -> None:
    """Rotated: the new one opens, then the old one is gone. A damaged file changes nothing."""
    path = Path(encrypted.sidecar.settings["issuers"][0]["decryption"]["key_file"])
    text = token()
    old, new = encrypt(text, EC, kid="ec"), encrypt(text, STRANGER, kid="new")
    assert answer(encrypted, old) == (200, "")
    try:
        write_keys(path, new=STRANGER, ec=EC)
        wait_until(lambda: answer(encrypted, new)[0] == 200, "the new key opens")
        assert answer(encrypted, old) == (200, "")
        write_keys(path, new=STRANGER)
        wait_until(lambda: answer(encrypted, old)[0] == 401, "the old key is gone")
        assert answer(encrypted, old) == (401, "decryption_key_unknown")
        path.write_text("{")
        failing = {"issuer": ISSUER, "use": "enc"}
        wait_until(
            lambda: encrypted.sidecar.metric("authz_key_set_failing", **failing) == 1, "it is told"
        )
        assert answer(encrypted, new) == (200, "")
        assert encrypted.sidecar.status()["keys"][ISSUER]["decryption"]["kids"] == ["new"]
    finally:
        write_keys(path, rsa=RSA, ec=EC)
        wait_until(lambda: answer(encrypted, old)[0] == 200, "as before")


def test_no_key_and_no_token_is_in_the_log(encrypted: Deployment) -> None:
    wrapped = encrypt(token(), EC, kid="ec")
    assert answer(encrypted, wrapped) == (200, "")
    told = encrypted.sidecar.log_text() + json.dumps(encrypted.sidecar.status())
    for secret in (private_jwk(EC, "ec")["d"], private_jwk(RSA, "rsa")["d"], wrapped[-40:]):
        assert secret not in told
