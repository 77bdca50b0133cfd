"""Proofs of possession, judged by RFC 9449 section 4.3."""

import json
from typing import Any

import pytest
from check.fakes import NOW, SECRET
from hypothesis import given
from hypothesis import strategies as st

from authz.check.nonce import Nonces
from authz.check.proof import MAX_PROOF_BYTES, BadProof, Expected, Proof, ProofVerifier
from authz.check.verdict import PROOF_ALGORITHMS, Reason
from support.dpop import ProofKey
from support.jwks import b64, ec_key, ed25519_key, jwk, rsa_key, sign

URL = "https://api.example/a"
TOKEN = "the.access.token"
MAX_AGE, LEEWAY = 60.0, 5.0

KEY = ProofKey()
KEYS = {
    "ES256": KEY,
    "ES384": ProofKey(ec_key("a client's", "P-384")),
    "EdDSA": ProofKey(ed25519_key("a client's")),
    "PS256": ProofKey(rsa_key("a client's"), "PS256"),
    "RS256": ProofKey(rsa_key("a client's")),
}


def verifier(nonces: Nonces | None = None) -> ProofVerifier:
    return ProofVerifier(max_age=MAX_AGE, leeway=LEEWAY, nonces=nonces)


def judge(
    proof: str,
    *,
    method: str = "GET",
    url: str = URL,
    token: str | None = TOKEN,
    jkt: str | None = KEY.jkt,
    now: float = NOW,
    by: ProofVerifier | None = None,
) -> Proof | BadProof:
    return (by or verifier()).verify(proof, Expected(method, [url], token, jkt), now)


def good(key: ProofKey = KEY, **changes: Any) -> str:
    return key.prove("GET", URL, TOKEN, now=NOW, **changes)


def invalid(detail: str) -> BadProof:
    return BadProof(Reason.PROOF_INVALID, detail)


# What is good


@pytest.mark.parametrize("algorithm", PROOF_ALGORITHMS)
def test_a_good_proof_says_whose_it_is_and_how_long_it_counts(algorithm: str) -> None:
    key = KEYS[algorithm]
    found = judge(good(key), jkt=key.jkt)
    assert isinstance(found, Proof)
    assert (found.jkt, found.until) == (key.jkt, NOW + MAX_AGE + LEEWAY)
    assert len(found.name) == 43


def test_the_example_of_the_rfc_is_good() -> None:
    """Section 7.1, figure 12, made by somebody else; its key is that of section 6.1."""
    proof = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0"
        "VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10"
        "NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjo"
        "iR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI"
        "6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2o"
        "W9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    )
    found = judge(
        proof,
        url="https://resource.example.org/protectedresource",
        token="Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
        jkt="0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
        now=1562262618,
    )
    assert isinstance(found, Proof)


def test_a_key_that_is_known_is_no_easier_to_forge() -> None:
    """Its header is remembered, not what it signed."""
    by = verifier()
    one, other = good(), good()
    assert isinstance(judge(one, by=by), Proof)
    assert isinstance(judge(other, by=by), Proof)
    stolen = one.rpartition(".")[2]
    assert judge(f"{other.rpartition('.')[0]}.{stolen}", by=by) == invalid("signature")


def test_the_key_of_a_header_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would be a fifth of what a proof costs."""
    by = verifier()
    assert isinstance(judge(good(), by=by), Proof)
    monkeypatch.delattr("authz.check.proof.read_key")
    assert isinstance(judge(good(), by=by), Proof)


def test_names_differ_by_key_and_by_jti() -> None:
    names = {
        judged.name
        for key in (KEY, KEYS["EdDSA"])
        for jti in ("a", "b")
        if isinstance(judged := judge(good(key, jti=jti), jkt=key.jkt), Proof)
    }
    assert len(names) == 4


def test_without_a_token_any_key_may_prove() -> None:
    """As at the token endpoint, where the key is only made known."""
    proof = KEY.prove("POST", URL, now=NOW)
    found = judge(proof, method="POST", token=None, jkt=None)
    assert isinstance(found, Proof)
    assert found.jkt == KEY.jkt


# What it is for


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"htm": "POST"}, "htm"),
        ({"htm": "get"}, "htm"),
        ({"htm": ...}, "htm"),
        ({"htm": ["GET"]}, "htm"),
        ({"htu": "https://api.example/b"}, "htu"),
        ({"htu": "http://api.example/a"}, "htu"),
        ({"htu": "https://other.example/a"}, "htu"),
        ({"htu": "https://api.example/a/"}, "htu"),
        ({"htu": ...}, "htu"),
        ({"htu": [URL]}, "htu"),
        ({"htu": "no url"}, "htu"),
        ({"ath": b64(b"x" * 32)}, "ath"),
        ({"ath": ...}, "ath"),
        ({"ath": None}, "ath"),
        ({"jti": ...}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": "\ud800"}, "jti"),
        ({"htm": "\ud800"}, "htm"),
        ({"htu": "https://api.example/\ud800"}, "htu"),
        ({"ath": "\ud800"}, "ath"),
        ({"iat": "\ud800"}, "iat"),
        ({"jti": 7}, "jti"),
        ({"iat": ...}, "iat"),
        ({"iat": "now"}, "iat"),
        ({"iat": True}, "iat"),
    ],
)
def test_a_proof_for_something_else_is_refused(changes: dict[str, Any], detail: str) -> None:
    assert judge(good(**changes)) == invalid(detail)


@pytest.mark.parametrize("url", ["HTTPS://API.example:443/a", "https://api.example/b/../%61?q=1#f"])
def test_another_spelling_of_the_same_url_is_good(url: str) -> None:
    assert isinstance(judge(good(htu=url)), Proof)


@pytest.mark.parametrize("age", [-LEEWAY, 0, MAX_AGE, MAX_AGE + LEEWAY - 1])
def test_within_its_window_a_proof_is_good(age: float) -> None:
    assert isinstance(judge(good(iat=int(NOW - age))), Proof)


@pytest.mark.parametrize("age", [-LEEWAY - 1, MAX_AGE + LEEWAY, 10**9, -(2**40)])
def test_outside_its_window_a_proof_is_refused(age: float) -> None:
    assert judge(good(iat=int(NOW - age))) == invalid("iat")


# The header


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"typ": "JWT"}, "typ"),
        ({"typ": "at+jwt"}, "typ"),
        ({"typ": ...}, "typ"),
        ({"jwk": ...}, "jwk"),
        ({"jwk": "text"}, "jwk"),
        ({"jwk": {"kty": "oct", "k": b64(SECRET)}}, "jwk"),
        ({"jwk": jwk(ec_key("other", "P-521"))}, "jwk"),
        ({"jwk": {**KEY.jwk, "use": "enc"}}, "jwk"),
        ({"jwk": {**KEY.jwk, "y": KEY.jwk["x"]}}, "jwk"),
        ({"jwk": jwk(rsa_key("weak", 1024))}, "jwk"),
        ({"alg": "none"}, "alg"),
        ({"alg": "HS256"}, "alg"),
        ({"alg": "ES512"}, "alg"),
        ({"alg": "RS256"}, "jwk"),
        ({"alg": 7}, "not a signed JWT"),
        ({"crit": ["b64"], "b64": False}, "not a signed JWT"),
    ],
)
def test_a_header_that_is_not_one_of_a_proof_is_refused(
    headers: dict[str, Any], detail: str
) -> None:
    assert judge(good(headers=headers)) == invalid(detail)


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_key_that_comes_with_a_private_member_is_refused(member: str) -> None:
    """Section 4.3 number 7: who does that has given the key away."""
    assert judge(good(headers={"jwk": {**KEY.jwk, member: "AA"}})) == invalid("jwk")


def test_a_secret_that_is_everybodys_public_key_proves_nothing() -> None:
    """HS256 keyed with what stands in the header."""
    secret = json.dumps(KEY.jwk).encode()
    proof = sign(
        {"jti": "1", "htm": "GET", "htu": URL, "iat": NOW},
        secret,
        headers={"typ": "dpop+jwt", "jwk": KEY.jwk},
    )
    assert judge(proof) == invalid("alg")


def test_a_proof_by_another_key_is_not_the_holders() -> None:
    """Before its signature is paid for."""
    assert judge(good(KEYS["EdDSA"])) == invalid("key")


def test_a_proof_signed_by_another_key_than_it_shows_is_refused() -> None:
    thief = ProofKey(ec_key("a thief's"))
    assert judge(good(thief, headers={"jwk": KEY.jwk})) == invalid("signature")


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_proof_that_was_changed_anywhere_is_refused(position: int, change: int) -> None:
    """Of any character. The last one of a signature has bits that mean nothing."""
    proof = GOOD
    position %= len(proof) - 1
    other = chr(ord(proof[position]) ^ change)
    changed = proof[:position] + other + proof[position + 1 :]
    assert isinstance(judge(changed), BadProof)


GOOD = good()


# Any text


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "a" * (MAX_PROOF_BYTES + 1)])
def test_what_is_no_proof_is_refused(text: str) -> None:
    found = judge(text)
    assert isinstance(found, BadProof)
    assert found.reason is Reason.PROOF_INVALID


TEXTS = st.text() | st.text("a\u00e9 \x00\ud800", min_size=1, max_size=5)
"""With lone surrogates, which JSON can say by escapes and no encoding can write."""


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, st.lists, max_leaves=3))
def test_no_value_of_a_claim_or_of_the_key_raises(value: Any) -> None:
    """In a proof that is good in all else."""
    for name in ("jti", "htm", "htu", "iat", "ath"):
        judge(good(**{name: value}))
    judge(good(nonce=value), by=verifier(NONCES))
    for name in ("kty", "crv", "x", "y", "kid", "alg", "use", "key_ops"):
        judge(good(headers={"jwk": {**KEY.jwk, name: value}}))


# Nonces

NONCES = Nonces(SECRET, 300)


def test_where_nonces_are_asked_for_one_must_be_there() -> None:
    by = verifier(NONCES)
    for nonce in (..., "", 7, "x" * 30, Nonces(b"other" * 8, 300).make(NOW)):
        assert judge(good(nonce=nonce), by=by) == BadProof(Reason.NONCE_REQUIRED)
    fresh = by.fresh_nonce(NOW)
    assert isinstance(judge(good(nonce=fresh), by=by), Proof)
    assert judge(good(nonce=fresh), by=by, now=NOW + 300) == BadProof(Reason.NONCE_REQUIRED)


def test_with_a_nonce_the_clock_of_the_client_does_not_matter() -> None:
    """Section 11.1: ours is told by the nonce. Many a phone is minutes late."""
    found = judge(good(nonce=NONCES.make(NOW), iat=NOW - 86_400), by=verifier(NONCES))
    assert isinstance(found, Proof)
    assert NOW < found.until <= NOW + 300


def test_where_none_are_asked_for_a_nonce_is_ignored() -> None:
    assert verifier().fresh_nonce(NOW) is None
    assert isinstance(judge(good(nonce="anything")), Proof)
