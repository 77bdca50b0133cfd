"""Signatures and claims: what is accepted, what is refused and why, and what is remembered."""

from typing import Any

import pytest
from check.fakes import (
    KEYS,
    KID,
    NOW,
    FakeKeys,
    accepted,
    claims,
    issuer_settings,
    make_verifier,
    public_keys,
    reason,
    secret_keys,
    token,
)
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from jwt.utils import der_to_raw_signature, raw_to_der_signature

from authz.check.verdict import Reason
from authz.check.verifier import Refused, Verifier
from authz.settings import ALGORITHMS
from support import jwks
from support.jwks import (
    AUDIENCE,
    ISSUER,
    PrivateKey,
    b64,
    ec_key,
    public_pem,
    rsa_key,
    sign,
    signature,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def keys_for(algorithm: str) -> FakeKeys:
    key = KEYS[algorithm]
    return FakeKeys(secret_keys(key) if isinstance(key, bytes) else public_keys((key, KID)))


def verifier_for(algorithm: str) -> Verifier:
    kind = "secret_file" if algorithm.startswith("HS") else "jwks_file"
    trusted = issuer_settings(algorithms=[algorithm], keys={kind: "/unread"})
    return make_verifier(keys_for(algorithm), trusted)


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys(public_keys((rsa_key(), KID)))


@pytest.fixture
def verifier(keys: FakeKeys) -> Verifier:
    return make_verifier(keys)


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
    text = token(exp=NOW + 600)
    assert reason(verifier, text, NOW - 5) is None
    assert reason(verifier, text, NOW - 5.01) is Reason.TOKEN_NOT_YET_VALID
    assert reason(verifier, text, NOW + 604.99) is None
    assert reason(verifier, text, NOW + 605) is Reason.TOKEN_EXPIRED


def test_without_leeway_a_token_ends_with_its_second(keys: FakeKeys) -> None:
    verifier = make_verifier(keys, leeway=0.0)
    text = token(exp=NOW + 600)
    assert reason(verifier, text, NOW) is None
    assert reason(verifier, text, NOW + 600) is Reason.TOKEN_EXPIRED


def test_an_expired_token_costs_no_signature_and_asks_for_no_key(keys: FakeKeys) -> None:
    found = make_verifier(keys).verify(
        sign(claims(exp=NOW - 60), rsa_key("attacker"), headers={"kid": "unknown"}), NOW
    )
    assert found == Refused(Reason.TOKEN_EXPIRED)
