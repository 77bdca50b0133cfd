"""Signatures and claims: what is accepted, what is refused and why, and what is remembered."""

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.utils import der_to_raw_signature, raw_to_der_signature

from authz.check.verdict import Reason
from authz.check.verifier import Refused, Verified, Verifier
from authz.keys.jwk import parse_jwks
from authz.keys.keyset import KeySet
from authz.settings import ALGORITHMS
from check.fakes import (
    KID,
    NOW,
    FakeKeys,
    issuer_settings,
    make_verifier,
    public_keys,
    secret_keys,
)
from support import jwks
from support.jwks import (
    AUDIENCE,
    ISSUER,
    PrivateKey,
    b64,
    ec_key,
    ed25519_key,
    public_pem,
    rsa_key,
    sign,
    signature,
)

SECRET = b"\x5a" * 64
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

KEYS: dict[str, PrivateKey | bytes] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), rsa_key()),
    "ES256": ec_key(),
    "ES384": ec_key(curve="P-384"),
    "EdDSA": ed25519_key(),
    **dict.fromkeys(("HS256", "HS384", "HS512"), SECRET),
}
"""A key for every algorithm."""


def claims(**changes: Any) -> dict[str, Any]:
    return jwks.claims(now=NOW, **changes)


def keys_for(algorithm: str) -> FakeKeys:
    key = KEYS[algorithm]
    return FakeKeys(secret_keys(key) if isinstance(key, bytes) else public_keys((key, KID)))


def verifier_for(algorithm: str) -> Verifier:
    settings = {"algorithms": [algorithm]}
    if algorithm.startswith("HS"):
        settings["keys"] = {"secret_file": "/unread"}  # type: ignore[assignment]
    return make_verifier(keys_for(algorithm), issuer_settings(**settings))


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys(public_keys((rsa_key(), KID)))


@pytest.fixture
def verifier(keys: FakeKeys) -> Verifier:
    return make_verifier(keys)


def token(key: PrivateKey | bytes | None = None, **changes: Any) -> str:
    return sign(claims(**changes), key or rsa_key(), kid=KID)


def reason(verifier: Verifier, text: str, now: float = NOW) -> Reason | None:
    """Why it is refused; None where it isn't."""
    found = verifier.verify(text, now)
    return found.reason if isinstance(found, Refused) else None


def accepted(verifier: Verifier, text: str, now: float = NOW) -> Verified:
    found = verifier.verify(text, now)
    assert isinstance(found, Verified), found
    return found


# Signatures


def test_there_is_a_key_for_every_algorithm() -> None:
    assert set(KEYS) == set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token_of_every_algorithm_is_accepted(algorithm: str) -> None:
    text = sign(claims(), KEYS[algorithm], kid=KID, alg=algorithm)
    assert accepted(verifier_for(algorithm), text).identity.subject == "alice"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_changed_bit_of_a_signature_is_seen(algorithm: str) -> None:
    head, _, text = sign(claims(), KEYS[algorithm], kid=KID, alg=algorithm).rpartition(".")
    raw = bytearray(signature(head.encode(), KEYS[algorithm], algorithm))
    assert len(b64(bytes(raw))) == len(text)
    raw[len(raw) // 2] ^= 1
    verifier = verifier_for(algorithm)
    assert reason(verifier, f"{head}.{b64(bytes(raw))}") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{head}.{b64(bytes(raw[:-1]))}") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{head}.{b64(bytes(raw) + b'x')}") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{head}.") is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("used", ALGORITHMS)
@pytest.mark.parametrize("claimed", ALGORITHMS)
def test_no_algorithm_is_taken_for_another(used: str, claimed: str) -> None:
    """Whatever the header says, against a verifier that allows what it says."""
    if used == claimed:
        return
    text = sign(claims(), KEYS[used], kid=KID, alg=used, headers={"alg": claimed})
    assert reason(verifier_for(claimed), text) is Reason.SIGNATURE_INVALID
    assert reason(verifier_for(used), text) is Reason.ALGORITHM_NOT_ALLOWED


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "none ", ""])
def test_none_is_no_algorithm_in_any_spelling(verifier: Verifier, algorithm: str) -> None:
    text = sign(claims(), b"", alg="none", headers={"alg": algorithm})
    assert reason(verifier, text) is Reason.ALGORITHM_NOT_ALLOWED
    signed = sign(claims(), rsa_key(), kid=KID, headers={"alg": algorithm})
    assert reason(verifier, signed) is Reason.ALGORITHM_NOT_ALLOWED


@pytest.mark.parametrize("algorithm", ["rs256", "RS256 ", "ES256K", "ES512", "RSA-OAEP", "HS1"])
def test_what_we_dont_implement_is_not_allowed(verifier: Verifier, algorithm: str) -> None:
    text = sign(claims(), rsa_key(), kid=KID, headers={"alg": algorithm})
    assert reason(verifier, text) is Reason.ALGORITHM_NOT_ALLOWED


def der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("secret", [public_pem(rsa_key()), der(rsa_key()), b"", b"\x00"])
def test_a_public_key_is_no_hmac_secret(verifier: Verifier, algorithm: str, secret: bytes) -> None:
    text = sign(claims(), secret, kid=KID, alg=algorithm)
    assert reason(verifier, text) is Reason.ALGORITHM_NOT_ALLOWED


@pytest.mark.parametrize(
    "raw",
    [
        bytes(64),  # r = s = 0, CVE-2022-21449
        P256_ORDER.to_bytes(32, "big") * 2,
        bytes(32) + P256_ORDER.to_bytes(32, "big"),
        b"\x00" * 31 + b"\x01" + bytes(32),
        b"\xff" * 64,
        b"",
        b"\x00" * 63,
        b"\x30\x06\x02\x01\x00\x02\x01\x00",  # the same zeros in DER
    ],
)
def test_an_empty_ecdsa_signature_is_refused(raw: bytes) -> None:
    head = sign(claims(), ec_key(), kid=KID).rpartition(".")[0]
    assert reason(verifier_for("ES256"), f"{head}.{b64(raw)}") is Reason.SIGNATURE_INVALID


def test_a_der_signature_is_no_jws_signature() -> None:
    head = sign(claims(), ec_key(), kid=KID).rpartition(".")[0]
    raw = signature(head.encode(), ec_key(), "ES256")
    text = f"{head}.{b64(raw_to_der_signature(raw, ec_key().curve))}"
    assert reason(verifier_for("ES256"), text) is Reason.SIGNATURE_INVALID


def test_an_ecdsa_signature_written_otherwise_is_the_same_token_to_revocation() -> None:
    """(r, n-s) verifies as (r, s) does: revoking one must take the other with it."""
    text = sign(claims(jti=...), ec_key(), kid=KID)
    head = text.rpartition(".")[0]
    r, s = decode_dss_signature(
        raw_to_der_signature(signature(head.encode(), ec_key(), "ES256"), ec_key().curve)
    )
    other = der_to_raw_signature(encode_dss_signature(r, P256_ORDER - s), ec_key().curve)
    twin = f"{head}.{b64(other)}"
    verifier = verifier_for("ES256")
    assert twin != text
    assert accepted(verifier, twin).identity == accepted(verifier, text).identity


def test_unused_bits_of_base64_make_no_other_token_to_revocation(verifier: Verifier) -> None:
    """The last character of an RS256 signature has four of them."""
    text = token(jti=...)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(text[-1])
    twin = text[:-1] + alphabet[last ^ 1]
    assert accepted(verifier, twin).identity.ref == accepted(verifier, text).identity.ref


def test_a_token_signed_with_another_key_is_refused(verifier: Verifier) -> None:
    assert reason(verifier, token(rsa_key("another"))) is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize("kid", ["another", "", "../../etc/passwd", "' OR 1=1", "key-1\x00", "😀"])
def test_kid_is_a_name_in_the_set_and_nothing_else(keys: FakeKeys, kid: str) -> None:
    text = sign(claims(), rsa_key(), headers={"kid": kid})
    found = make_verifier(keys).verify(text, NOW)
    assert isinstance(found, Refused)
    assert (found.reason, found.ring) == (Reason.KEY_UNKNOWN, keys)


def test_a_token_without_kid_is_tried_with_the_keys_that_fit() -> None:
    keys = public_keys((rsa_key("old"), "old"), (ec_key(), "ec"), (rsa_key(), KID))
    verifier = make_verifier(FakeKeys(keys))
    assert reason(verifier, sign(claims(), rsa_key())) is None
    assert reason(verifier, sign(claims(), rsa_key("third"))) is Reason.SIGNATURE_INVALID


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": jwks.jwk(rsa_key("attacker"), "evil")},
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "http://127.0.0.1:1/cert.pem"},
        {"x5c": [b64(der(rsa_key("attacker")))]},
    ],
)
def test_a_key_that_a_token_brings_along_is_not_used(
    verifier: Verifier, header: dict[str, Any]
) -> None:
    forged = sign(claims(), rsa_key("attacker"), headers={"kid": "evil", **header})
    assert reason(verifier, forged) is Reason.KEY_UNKNOWN
    named = sign(claims(), rsa_key("attacker"), kid=KID, headers=header)
    assert reason(verifier, named) is Reason.SIGNATURE_INVALID
    # Beside a good signature it is ignored: nobody reads it.
    assert reason(verifier, sign(claims(), rsa_key(), kid=KID, headers=header)) is None


# Claims


@pytest.mark.parametrize("issuer", [..., None, "", "https://issuer.example/", 7, [ISSUER], {}])
def test_an_issuer_that_is_not_configured_is_unknown(verifier: Verifier, issuer: object) -> None:
    assert reason(verifier, token(iss=issuer)) is Reason.ISSUER_UNKNOWN


def test_one_issuers_key_does_not_vouch_for_another() -> None:
    other = "https://other.example"
    verifier = make_verifier(
        {
            ISSUER: FakeKeys(public_keys((rsa_key(), KID))),
            other: FakeKeys(public_keys((rsa_key("other"), KID))),
        },
        issuer_settings(),
        issuer_settings(other, algorithms=["PS256"]),
    )
    assert reason(verifier, token()) is None
    assert reason(verifier, sign(claims(iss=other), rsa_key("other"), kid=KID, alg="PS256")) is None
    forged = sign(claims(iss=other), rsa_key(), kid=KID, alg="PS256")
    assert reason(verifier, forged) is Reason.SIGNATURE_INVALID
    wrong_list = sign(claims(iss=other), rsa_key("other"), kid=KID, alg="RS256")
    assert reason(verifier, wrong_list) is Reason.ALGORITHM_NOT_ALLOWED


@pytest.mark.parametrize("audience", [..., [], "apis", "API", ["other"], "api ", ""])
def test_a_token_for_another_audience_is_refused(verifier: Verifier, audience: object) -> None:
    assert reason(verifier, token(aud=audience)) is Reason.AUDIENCE_MISMATCH


def test_one_audience_of_many_is_enough(verifier: Verifier) -> None:
    assert reason(verifier, token(aud=["other", AUDIENCE])) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": ...}, Reason.CLAIM_INVALID),
        ({"exp": str(NOW + 600)}, Reason.CLAIM_INVALID),
        ({"exp": NOW + 600.5}, Reason.CLAIM_INVALID),
        ({"exp": True}, Reason.CLAIM_INVALID),
        ({"exp": 10**30}, Reason.CLAIM_INVALID),
        ({"exp": 2**53}, Reason.LIFETIME_TOO_LONG),
        ({"iat": ...}, Reason.CLAIM_INVALID),
        ({"iat": "now"}, Reason.CLAIM_INVALID),
        ({"iat": -1}, Reason.CLAIM_INVALID),
        ({"nbf": "now"}, Reason.CLAIM_INVALID),
        ({"nbf": None}, Reason.CLAIM_INVALID),
        ({"sub": ...}, Reason.SUBJECT_MISSING),
        ({"sub": ""}, Reason.SUBJECT_MISSING),
        ({"sub": {"id": 1}}, Reason.CLAIM_INVALID),
        ({"jti": ""}, Reason.CLAIM_INVALID),
        ({"scope": 7}, Reason.CLAIM_INVALID),
        ({"exp": NOW - 6}, Reason.TOKEN_EXPIRED),
        ({"iat": NOW + 6, "exp": NOW + 60}, Reason.TOKEN_NOT_YET_VALID),
        ({"nbf": NOW + 6}, Reason.TOKEN_NOT_YET_VALID),
        ({"exp": NOW + 86_401}, Reason.LIFETIME_TOO_LONG),
    ],
)
def test_claims_are_read_strictly(
    verifier: Verifier, changes: dict[str, Any], expected: Reason
) -> None:
    assert reason(verifier, token(**changes)) is expected


def test_the_lifetime_limit_is_the_issuers() -> None:
    verifier = make_verifier(
        FakeKeys(public_keys((rsa_key(), KID))), issuer_settings(max_lifetime="10m")
    )
    assert reason(verifier, token(exp=NOW + 600)) is None
    assert reason(verifier, token(exp=NOW + 601)) is Reason.LIFETIME_TOO_LONG


def test_leeway_is_allowed_at_both_ends_and_no_more(keys: FakeKeys) -> None:
    verifier = make_verifier(keys, leeway=5.0)
    text = token()
    assert reason(verifier, text, NOW - 5) is None
    assert reason(verifier, text, NOW - 5.01) is Reason.TOKEN_NOT_YET_VALID
    assert reason(verifier, text, NOW + 604.99) is None
    assert reason(verifier, text, NOW + 605) is Reason.TOKEN_EXPIRED


def test_without_leeway_a_token_ends_with_its_second(keys: FakeKeys) -> None:
    verifier = make_verifier(keys, leeway=0.0)
    text = token()
    assert reason(verifier, text, NOW) is None
    assert reason(verifier, text, NOW + 600) is Reason.TOKEN_EXPIRED


def test_an_expired_token_costs_no_signature_and_asks_for_no_key(keys: FakeKeys) -> None:
    found = make_verifier(keys).verify(
        sign(claims(exp=NOW - 60), rsa_key("attacker"), headers={"kid": "unknown"}), NOW
    )
    assert found == Refused(Reason.TOKEN_EXPIRED)


# Memory


def test_a_token_is_verified_once(verifier: Verifier) -> None:
    text = token()
    first = accepted(verifier, text)
    assert accepted(verifier, text) is first
    assert (verifier.hits, verifier.misses, verifier.size) == (1, 1, 1)


def test_refusals_are_not_remembered(verifier: Verifier) -> None:
    for text in (token(rsa_key("attacker")), token(aud="other"), "a.b.c"):
        for _ in range(2):
            assert reason(verifier, text) is not None
    assert (verifier.size, verifier.hits) == (0, 0)


def test_another_signature_on_a_remembered_token_misses(verifier: Verifier) -> None:
    text = token()
    accepted(verifier, text)
    head = text.rpartition(".")[0]
    assert reason(verifier, f"{head}.{b64(bytes(256))}") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{head}.") is Reason.SIGNATURE_INVALID
    assert reason(verifier, f"{text}A") is not None
    assert verifier.hits == 0


def test_other_claims_under_a_remembered_signature_miss(verifier: Verifier) -> None:
    text = token()
    accepted(verifier, text)
    head, _, tail = text.split(".")
    forged = f"{head}.{token(sub='root').split('.')[1]}.{tail}"
    assert reason(verifier, forged) is Reason.SIGNATURE_INVALID


def test_a_remembered_token_still_expires(verifier: Verifier) -> None:
    text = token()
    accepted(verifier, text)
    assert reason(verifier, text, NOW + 605) is Reason.TOKEN_EXPIRED
    assert reason(verifier, text, NOW - 100) is Reason.TOKEN_NOT_YET_VALID
    accepted(verifier, text)


def test_a_key_that_was_removed_takes_its_remembered_tokens_along(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = public_keys((rsa_key("next"), "next"))
    assert reason(verifier, text) is Reason.KEY_UNKNOWN
    keys.keys = KeySet()
    assert reason(verifier, text) is Reason.KEY_UNKNOWN
    assert verifier.size == 0


def test_a_key_replaced_under_its_kid_takes_its_remembered_tokens_along(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = public_keys((rsa_key("next"), KID))
    assert reason(verifier, text) is Reason.SIGNATURE_INVALID


def test_a_key_that_lost_its_algorithm_takes_its_remembered_tokens_along(keys: FakeKeys) -> None:
    verifier = make_verifier(keys)
    text = token()
    accepted(verifier, text)
    document = jwks.jwks(jwks.jwk(rsa_key(), KID, alg="PS256"))
    keys.keys = parse_jwks(document.encode(), ALGORITHMS, strict=True).keys
    assert reason(verifier, text) is Reason.KEY_UNKNOWN


def test_keys_that_were_lost_altogether_refuse_what_is_remembered(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = None
    found = verifier.verify(text, NOW)
    assert isinstance(found, Refused)
    assert (found.reason, found.ring) == (Reason.KEYS_UNAVAILABLE, keys)


def test_a_rotation_that_keeps_the_key_costs_no_signature(
    verifier: Verifier, keys: FakeKeys
) -> None:
    text = token()
    accepted(verifier, text)
    keys.keys = public_keys((rsa_key("next"), "next"), (rsa_key(), KID))
    accepted(verifier, text)
    accepted(verifier, text)
    assert (verifier.hits, verifier.misses) == (2, 1)


def test_no_more_tokens_are_remembered_than_allowed(keys: FakeKeys) -> None:
    verifier = make_verifier(keys, cache_size=3)
    texts = [token() for _ in range(5)]
    for text in texts:
        accepted(verifier, text)
    assert verifier.size == 3
    accepted(verifier, texts[4])
    assert verifier.hits == 1
    accepted(verifier, texts[0])  # pushed out, verified again
    assert (verifier.hits, verifier.misses, verifier.size) == (1, 6, 3)


# Whatever is thrown at it

ANY_KEYS = {
    ISSUER: FakeKeys(
        public_keys(
            (rsa_key(), KID),
            (ec_key(), "ec"),
            (ec_key(curve="P-384"), "ec384"),
            (ed25519_key(), "ed"),
        )
    )
}

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
CLAIM_NAMES = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "scope", "scp"]
HEADER_NAMES = ["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "cty"]
algorithms = st.sampled_from([*ALGORITHMS, "none", "ES512"])


@given(st.text(max_size=100) | st.from_regex(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"))
def test_no_text_is_accepted_or_raises(text: str) -> None:
    assert isinstance(make_verifier(ANY_KEYS).verify(text, NOW), Refused)


@given(
    st.dictionaries(st.sampled_from(HEADER_NAMES), json_values),
    st.dictionaries(st.sampled_from(CLAIM_NAMES), json_values),
    st.binary(max_size=100),
    algorithms,
    st.sampled_from([KID, "ec", "ec384", "ed", None]),
)
def test_no_header_claims_or_signature_raise(
    header: dict[str, Any], changes: dict[str, Any], raw: bytes, algorithm: str, kid: str | None
) -> None:
    """And without a signature none is accepted."""
    values = {"alg": algorithm, "kid": kid, **header}
    text = sign(claims(**changes), b"", alg="none", headers=values) + b64(raw)
    assert isinstance(make_verifier(ANY_KEYS).verify(text, NOW), Refused)


SIGNERS = {"RS256": KID, "PS384": KID, "ES256": "ec", "ES384": "ec384", "EdDSA": "ed"}


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(SIGNERS)),
    st.dictionaries(st.sampled_from(HEADER_NAMES[2:]), json_values, max_size=2),
    st.dictionaries(st.sampled_from(CLAIM_NAMES), json_values, max_size=2)
    | st.dictionaries(st.sampled_from(["exp", "iat", "nbf"]), st.integers(-700, 700)),
    st.booleans(),
)
def test_pyjwt_accepts_every_token_that_is_accepted(
    algorithm: str, header: dict[str, Any], changes: dict[str, Any], named: bool
) -> None:
    """`jwt.decode` with the same key, audience, issuer and leeway is the oracle. Ours may be the
    stricter, never the laxer.
    """
    now = time.time()
    values = {
        name: int(now) + value if name in {"exp", "iat", "nbf"} and type(value) is int else value
        for name, value in changes.items()
    }
    key = KEYS[algorithm]
    assert not isinstance(key, bytes)
    kid = SIGNERS[algorithm] if named else None
    text = sign(jwks.claims(**values), key, kid=kid, alg=algorithm, headers=header)
    found = make_verifier(ANY_KEYS).verify(text, now)
    if isinstance(found, Refused):
        return
    read = jwt.decode(
        text,
        key.public_key(),
        algorithms=[algorithm],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=6,  # a second more, since its clock goes on
        options={"require": ["exp", "iat", "sub"]},
    )
    assert read["sub"] == found.identity.subject
    assert read.get("jti", found.identity.ref.token) == found.identity.token_id


GOOD = {
    algorithm: sign(claims(), KEYS[algorithm], kid=kid, alg=algorithm)
    for algorithm, kid in SIGNERS.items()
}


@settings(max_examples=200)
@given(st.sampled_from(sorted(SIGNERS)), st.integers(0, 2000), st.sampled_from("A_.z-0 ,\n"))
def test_no_token_with_one_character_changed_is_another_token(
    algorithm: str, position: int, character: str
) -> None:
    """It is refused, or it is one that only spells its signature otherwise."""
    text = GOOD[algorithm]
    position %= len(text)
    changed = text[:position] + character + text[position + 1 :]
    verifier = make_verifier(ANY_KEYS)
    original = accepted(verifier, text).identity
    found = verifier.verify(changed, NOW)
    if isinstance(found, Verified):
        assert found.identity == original
        assert changed.rpartition(".")[0] == text.rpartition(".")[0]
