"""Encrypted tokens: what opens, what is refused before anything is decrypted, and what a token is
to the rest of authz once it is open.
"""

import json
import warnings
from typing import Any

import pytest
from check.fakes import (
    KID,
    NOW,
    FakeKeys,
    accepted,
    claims,
    issuer_settings,
    public_keys,
    reason,
    token,
)
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe as joserfc_jwe

from authz.check.jose import BadTokenError
from authz.check.jwe import MAX_ENCRYPTED_BYTES, MAX_HEADER_CHARACTERS, read_header
from authz.check.verdict import Reason
from authz.check.verifier import Verifier
from authz.keys.encryption import parse_decryption_keys
from authz.keys.keyset import KeySet
from authz.settings import ENCRYPTION_ALGORITHMS, IssuerSettings
from support.jwe import DecryptionKey, encrypt, private_jwk
from support.jwks import AUDIENCE, ISSUER, b64, ec_key, jwk, rsa_key, sign

RSA, EC, EC384 = rsa_key("enc"), ec_key("enc"), ec_key("enc", "P-384")
KEYS: dict[str, DecryptionKey] = {"rsa": RSA, "ec": EC, "ec384": EC384}
"""Keys of the sidecar by their `kid`."""

OTHER = "https://other.example"


def opening(*kids: str, algorithms: tuple[str, ...] = ENCRYPTION_ALGORITHMS) -> KeySet:
    document = {"keys": [private_jwk(KEYS[kid], kid) for kid in kids]}
    return parse_decryption_keys(json.dumps(document).encode(), algorithms).keys


def trusting(issuer: str = ISSUER, *, required: bool = False, **changes: Any) -> IssuerSettings:
    decryption = {"key_file": "/unread", "required": required}
    return issuer_settings(issuer, **{"decryption": decryption, **changes})


def verifier_of(decryption: dict[str, FakeKeys], *issuers: IssuerSettings) -> Verifier:
    signing = FakeKeys(public_keys((rsa_key(), KID)))
    trusted = issuers or (trusting(),)
    return Verifier(
        trusted,
        {one.issuer: signing for one in trusted},
        leeway=5.0,
        buckets=16,
        cache_size=100,
        decryption=decryption,
    )


@pytest.fixture
def keys() -> FakeKeys:
    return FakeKeys(opening(*KEYS))


@pytest.fixture
def verifier(keys: FakeKeys) -> Verifier:
    return verifier_of({ISSUER: keys})


# What opens


@pytest.mark.parametrize("kid", KEYS)
def test_a_token_inside_is_the_same_token(verifier: Verifier, kid: str) -> None:
    """To everything behind the verifier: identity, and what a revocation names."""
    text = token()
    opened = accepted(verifier, encrypt(text, KEYS[kid], kid=kid))
    assert opened.identity == accepted(verifier, text).identity


def test_a_token_without_jti_is_known_by_what_was_signed_however_often_it_is_encrypted(
    verifier: Verifier,
) -> None:
    text = token(jti=...)
    plain = accepted(verifier, text).identity.ref
    wrapped = [encrypt(text, KEYS[kid], kid=kid) for kid in ("rsa", "rsa", "ec")]
    assert len(set(wrapped)) == 3
    assert {accepted(verifier, one).identity.ref for one in wrapped} == {plain}


@pytest.mark.parametrize(
    "headers",
    [
        {"cty": "jwt"},
        {"typ": "JWT"},
        {"iss": ISSUER, "aud": AUDIENCE},  # RFC 7519 section 5.3: replicated, and not believed
        {"x-of-someone": {"a": 1}},
        {"jku": "http://127.0.0.1:1/jwks.json"},
    ],
)
def test_parameters_that_nobody_has_to_understand_are_ignored(
    verifier: Verifier, headers: dict[str, Any]
) -> None:
    assert reason(verifier, encrypt(token(), RSA, kid="rsa", headers=headers)) is None


# Refused before a key is touched


@pytest.fixture
def keyless() -> Verifier:
    """Decryption keys that raise when they are looked at."""

    class Untouchable(FakeKeys):
        @property
        def keys(self) -> KeySet | None:
            raise AssertionError("a key was looked for")

        @keys.setter
        def keys(self, keys: KeySet | None) -> None:
            del keys

    return verifier_of({ISSUER: Untouchable(None)})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"zip": "DEF"}, Reason.HEADER_UNSUPPORTED),
        ({"zip": ""}, Reason.HEADER_UNSUPPORTED),
        ({"crit": ["exp"], "exp": 1}, Reason.HEADER_UNSUPPORTED),
        ({"crit": []}, Reason.HEADER_UNSUPPORTED),
        ({"cty": None}, Reason.TOKEN_MALFORMED),
        ({"cty": "text/plain"}, Reason.TOKEN_MALFORMED),
        ({"cty": 7}, Reason.TOKEN_MALFORMED),
        ({"alg": None}, Reason.TOKEN_MALFORMED),
        ({"alg": ["RSA-OAEP-256"]}, Reason.TOKEN_MALFORMED),
        ({"enc": None}, Reason.TOKEN_MALFORMED),
        ({"alg": "RSA1_5"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"alg": "RSA-OAEP"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"alg": "dir"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"alg": "PBES2-HS256+A128KW", "p2c": 2**31}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"alg": "ECDH-ES+A256KW"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"alg": "none"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"enc": "A128CBC-HS256"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"enc": "A128GCM"}, Reason.ENCRYPTION_NOT_ALLOWED),
        ({"kid": None}, Reason.DECRYPTION_KEY_UNKNOWN),
        ({"kid": 7}, Reason.DECRYPTION_KEY_UNKNOWN),
    ],
    ids=str,
)
def test_a_header_is_refused_before_any_key_is_looked_for(
    keyless: Verifier, headers: dict[str, Any], expected: Reason
) -> None:
    assert reason(keyless, encrypt(token(), RSA, kid="rsa", headers=headers)) is expected


def test_a_token_that_is_too_large_is_refused_by_its_length(keyless: Verifier) -> None:
    text = encrypt("a" * MAX_ENCRYPTED_BYTES, RSA, kid="rsa")
    assert reason(keyless, text) is Reason.TOKEN_TOO_LARGE


def test_the_size_is_looked_at_by_whoever_reads_a_header() -> None:
    """`authz explain` and `authz revoke` do so before there is a verifier."""
    with pytest.raises(BadTokenError, match="token_too_large"):
        read_header(encrypt("a" * MAX_ENCRYPTED_BYTES, RSA, kid="rsa"))


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: ["", *parts[1:]],
        lambda parts: ["a" * (MAX_HEADER_CHARACTERS + 1), *parts[1:]],
        lambda parts: [parts[0], "a" * 684, *parts[2:]],
        lambda parts: [*parts[:2], parts[2][:-1], *parts[3:]],  # 12 bytes of IV, no more, no less
        lambda parts: [*parts[:2], parts[2] + "AA", *parts[3:]],
        lambda parts: [*parts[:3], "", parts[4]],
        lambda parts: [*parts[:4], parts[4][:-6]],  # 16 of tag: short ones are guessed
        lambda parts: [*parts[:4], ""],
        lambda parts: [*parts[:3], parts[3] + "=", parts[4]],
        lambda parts: ["e30", *parts[1:]],
        lambda parts: [b64(b'{"alg":"dir","alg":"RSA-OAEP-256"}'), *parts[1:]],
        lambda parts: [b64(b"[" * 600), *parts[1:]],
    ],
)
def test_what_has_not_the_form_is_malformed(keyless: Verifier, change: Any) -> None:
    text = ".".join(change(encrypt(token(), RSA, kid="rsa").split(".")))
    assert reason(keyless, text) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("kid", ["another", "", "../../etc/passwd", "rsa\x00", "RSA", "ec"])
def test_kid_is_a_name_in_the_set_and_nothing_else(verifier: Verifier, kid: str) -> None:
    """`ec` is there, but no key for RSA-OAEP-256."""
    assert reason(verifier, encrypt(token(), RSA, kid=kid)) is Reason.DECRYPTION_KEY_UNKNOWN


# Refused by decrypting


def test_a_token_encrypted_to_another_key_does_not_open(verifier: Verifier) -> None:
    for kid, stranger in (("rsa", rsa_key("stranger")), ("ec", ec_key("stranger"))):
        text = encrypt(token(), stranger, kid=kid)
        assert reason(verifier, text) is Reason.DECRYPTION_FAILED


@pytest.mark.parametrize("kid", KEYS)
@pytest.mark.parametrize("segment", range(5))
def test_one_changed_bit_is_seen_wherever_it_is(verifier: Verifier, kid: str, segment: int) -> None:
    """The header too is under the tag (RFC 7516 section 5.1, step 14)."""
    parts = encrypt(token(), KEYS[kid], kid=kid, headers={"x": "aaaaaaaa"}).split(".")
    if not parts[segment]:
        return  # ECDH-ES wraps no key
    if segment == 0:
        parts[0] = b64(_decoded(parts[0]).replace(b"aaaaaaaa", b"aaaaaaab"))
    else:
        raw = bytearray(_decoded(parts[segment]))
        raw[len(raw) // 2] ^= 1
        parts[segment] = b64(bytes(raw))
    assert reason(verifier, ".".join(parts)) is Reason.DECRYPTION_FAILED


def _decoded(segment: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def oaep(data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    return RSA.public_key().encrypt(data, padding.OAEP(padding.MGF1(algorithm), algorithm, None))


@pytest.mark.parametrize(
    "wrapped",
    [
        b"",
        bytes(256),
        b"\xff" * 256,
        oaep(bytes(32), hashes.SHA1()),
        oaep(bytes(16), hashes.SHA256()),  # a key for A128GCM
        oaep(b"", hashes.SHA256()),
        RSA.public_key().encrypt(bytes(32), padding.PKCS1v15()),
    ],
    ids=range(7),
)
def test_a_key_that_does_not_unwrap_is_told_like_a_wrong_tag(
    verifier: Verifier, wrapped: bytes
) -> None:
    """RFC 7516 section 11.5: who could tell the one from the other would have an oracle."""
    text = encrypt(token(), RSA, kid="rsa", wrapped=wrapped)
    assert reason(verifier, text) is Reason.DECRYPTION_FAILED


OFF_CURVE = {"kty": "EC", "crv": "P-256", "x": b64(b"\x01" * 32), "y": b64(b"\x01" * 32)}


@pytest.mark.parametrize(
    "epk",
    [
        None,
        "text",
        {},
        OFF_CURVE,
        {**OFF_CURVE, "x": b64(bytes(32)), "y": b64(bytes(32))},
        {**OFF_CURVE, "x": 1},
        {**OFF_CURVE, "x": ""},
        {**OFF_CURVE, "x": "%"},
        {**OFF_CURVE, "x": b64(b"\xff" * 200)},
        jwk(ec_key("enc", "P-384"), use=None),
        jwk(ec_key("enc", "P-521"), use=None),
        {"kty": "OKP", "crv": "X25519", "x": b64(bytes(32))},
        {"kty": "oct", "k": b64(bytes(32))},
    ],
)
def test_a_point_that_is_not_on_the_keys_curve_does_not_open(verifier: Verifier, epk: Any) -> None:
    """CVE-2017-16007 was a library that multiplied with it all the same, and told its key."""
    text = encrypt(token(), EC, kid="ec", headers={"epk": epk})
    assert reason(verifier, text) is Reason.DECRYPTION_FAILED


def test_a_wrapped_key_where_none_belongs_does_not_open(verifier: Verifier) -> None:
    """RFC 7516 section 5.2, step 10."""
    text = encrypt(token(), EC, kid="ec", wrapped=b"x" * 40)
    assert reason(verifier, text) is Reason.DECRYPTION_FAILED


@pytest.mark.parametrize("headers", [{"apu": "%"}, {"apv": 7}, {"apu": "A"}, {"apv": "QQ"}])
def test_odd_parameters_of_the_agreement_do_not_open(
    verifier: Verifier, headers: dict[str, Any]
) -> None:
    """They are part of the key (RFC 7518 section 4.6.2), which here was made without."""
    text = encrypt(token(), EC, kid="ec", headers=headers)
    assert reason(verifier, text) is Reason.DECRYPTION_FAILED


@pytest.mark.parametrize(
    ("kid", "options"),
    [
        ("rsa", {"wrapped": bytes(255)}),
        ("rsa", {"wrapped": bytes(257)}),
        ("rsa", {"wrapped": b""}),
        ("ec", {"wrapped": bytes(32)}),
        ("ec", {"headers": {"epk": None}}),
        ("ec", {"headers": {"epk": jwk(EC384, use=None)}}),
        ("ec", {"headers": {"epk": {**jwk(EC, use=None), "kty": "OKP"}}}),
    ],
    ids=range(7),
)
def test_what_can_not_open_costs_no_private_operation(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch, kid: str, options: dict[str, Any]
) -> None:
    tried: list[str] = []
    decrypt = joserfc_jwe.decrypt_compact

    def counting(text: str, *key: Any, **options: Any) -> Any:
        tried.append(text)
        return decrypt(text, *key, **options)

    monkeypatch.setattr(joserfc_jwe, "decrypt_compact", counting)
    text = encrypt(token(), KEYS[kid], kid=kid, **options)
    assert reason(verifier, text) is Reason.DECRYPTION_FAILED
    assert tried == []
    accepted(verifier, encrypt(token(), KEYS[kid], kid=kid))
    assert len(tried) == 1, "it would have been seen"


# What is inside


@pytest.mark.parametrize(
    "inside",
    [b"", b"no token", b"a.b", "für.alle.da".encode(), b"\xff\xfe\xfd", b"{}", b"e30.e30."],
)
def test_what_is_inside_must_be_a_signed_token(verifier: Verifier, inside: bytes) -> None:
    assert reason(verifier, encrypt(inside, RSA, kid="rsa")) is Reason.TOKEN_MALFORMED


def test_a_second_envelope_inside_the_first_is_not_opened(verifier: Verifier) -> None:
    """One level of nesting, so that one token costs one private operation."""
    once = encrypt(token(), EC, kid="ec")
    assert reason(verifier, once) is None
    assert reason(verifier, encrypt(once, EC, kid="ec")) is Reason.TOKEN_MALFORMED


def test_to_encrypt_a_token_vouches_for_nothing(verifier: Verifier) -> None:
    """The key is public: what is inside is judged like any other token."""
    for inside, expected in {
        sign(claims(), rsa_key("attacker"), kid=KID): Reason.SIGNATURE_INVALID,
        sign(claims(), b"", alg="none"): Reason.ALGORITHM_NOT_ALLOWED,
        token(exp=NOW - 6): Reason.TOKEN_EXPIRED,
        token(aud="other"): Reason.AUDIENCE_MISMATCH,
        token(iss="https://unknown.example"): Reason.ISSUER_UNKNOWN,
    }.items():
        assert reason(verifier, encrypt(inside, RSA, kid="rsa")) is expected


# Whose keys


def test_a_key_opens_tokens_of_the_issuer_it_is_configured_for_and_of_no_other() -> None:
    decryption = {ISSUER: FakeKeys(opening("rsa")), OTHER: FakeKeys(opening("ec"))}
    verifier = verifier_of(decryption, trusting(), trusting(OTHER))
    own, others = token(), token(iss=OTHER)
    assert reason(verifier, encrypt(own, RSA, kid="rsa")) is None
    assert reason(verifier, encrypt(others, EC, kid="ec")) is None
    assert reason(verifier, encrypt(own, EC, kid="ec")) is Reason.ENCRYPTION_NOT_ALLOWED
    assert reason(verifier, encrypt(others, RSA, kid="rsa")) is Reason.ENCRYPTION_NOT_ALLOWED


def test_one_key_may_be_that_of_several_issuers() -> None:
    decryption = {ISSUER: FakeKeys(opening("rsa")), OTHER: FakeKeys(opening("rsa", "ec"))}
    verifier = verifier_of(decryption, trusting(), trusting(OTHER))
    for issuer in (ISSUER, OTHER):
        assert reason(verifier, encrypt(token(iss=issuer), RSA, kid="rsa")) is None


def test_keys_of_two_issuers_that_share_a_name_are_told_apart_by_what_opens() -> None:
    named = json.dumps({"keys": [private_jwk(rsa_key("namesake"), "rsa")]}).encode()
    namesake = parse_decryption_keys(named, ENCRYPTION_ALGORITHMS).keys
    decryption = {ISSUER: FakeKeys(opening("rsa")), OTHER: FakeKeys(namesake)}
    verifier = verifier_of(decryption, trusting(), trusting(OTHER))
    assert reason(verifier, encrypt(token(), RSA, kid="rsa")) is None
    assert reason(verifier, encrypt(token(iss=OTHER), rsa_key("namesake"), kid="rsa")) is None
    crossed = encrypt(token(iss=OTHER), RSA, kid="rsa")
    assert reason(verifier, crossed) is Reason.ENCRYPTION_NOT_ALLOWED


def test_an_issuers_allow_list_of_algorithms_holds() -> None:
    """Also where another issuer of the same sidecar allows more."""
    narrow = FakeKeys(opening("rsa", "ec", algorithms=("ECDH-ES",)))
    decryption = {ISSUER: narrow, OTHER: FakeKeys(opening("rsa", "ec"))}
    verifier = verifier_of(decryption, trusting(), trusting(OTHER))
    assert reason(verifier, encrypt(token(), EC, kid="ec")) is None
    assert reason(verifier, encrypt(token(), RSA, kid="rsa")) is Reason.ENCRYPTION_NOT_ALLOWED
    assert reason(verifier_of({ISSUER: narrow}), encrypt(token(), RSA, kid="rsa")) is (
        Reason.DECRYPTION_KEY_UNKNOWN
    )


def test_an_issuer_without_decryption_keys_has_no_encrypted_tokens() -> None:
    decryption = {OTHER: FakeKeys(opening("rsa"))}
    verifier = verifier_of(decryption, issuer_settings(), trusting(OTHER))
    assert reason(verifier, encrypt(token(), RSA, kid="rsa")) is Reason.ENCRYPTION_NOT_ALLOWED
    nobody = verifier_of({}, issuer_settings())
    assert reason(nobody, encrypt(token(), RSA, kid="rsa")) is Reason.TOKEN_MALFORMED


def test_where_encryption_is_required_a_token_in_the_clear_is_refused(keys: FakeKeys) -> None:
    decryption = {ISSUER: keys, OTHER: keys}
    verifier = verifier_of(decryption, trusting(required=True), trusting(OTHER))
    assert reason(verifier, encrypt(token(), RSA, kid="rsa")) is None
    assert reason(verifier, token()) is Reason.ENCRYPTION_REQUIRED
    assert reason(verifier, token(iss=OTHER)) is None


# What is remembered


def test_a_token_seen_before_is_not_decrypted_again(verifier: Verifier) -> None:
    text = encrypt(token(), RSA, kid="rsa")
    first = accepted(verifier, text)
    assert accepted(verifier, text) is first
    assert (verifier.hits, verifier.misses) == (1, 1)


def test_a_decryption_key_taken_out_takes_its_tokens_with_it(
    verifier: Verifier, keys: FakeKeys
) -> None:
    """Known ones too. Those of other keys, and those in the clear, stay as they are."""
    plain = token()
    of_rsa, of_ec = encrypt(plain, RSA, kid="rsa"), encrypt(plain, EC, kid="ec")
    for text in (plain, of_rsa, of_ec):
        accepted(verifier, text)
    keys.keys = opening("ec")
    assert reason(verifier, of_rsa) is Reason.DECRYPTION_KEY_UNKNOWN
    assert reason(verifier, of_ec) is None
    assert reason(verifier, plain) is None
    assert (verifier.hits, verifier.misses) == (2, 3)
    keys.keys = opening("rsa", "ec")
    assert reason(verifier, of_rsa) is None


# Anything at all


@given(st.text(st.characters(codec="ascii"), max_size=40), st.integers(0, 4))
def test_no_text_raises(text: str, segment: int) -> None:
    parts = GOOD[len(text) % 2].split(".")
    parts[segment] = text.replace(".", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = reason(VERIFIER, ".".join(parts))
    assert found is not None or ".".join(parts) in GOOD


@given(st.dictionaries(
    st.sampled_from(["alg", "enc", "kid", "cty", "epk", "apu", "apv", "iv", "typ", "jwk", "x5c"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) |
        st.sampled_from(["RSA-OAEP-256", "ECDH-ES", "A256GCM", "JWT", "ec", "rsa", "EC", "P-256"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "d", "use", "key_ops", "n", "e"]), inner,
            max_size=5,
        ),
        max_leaves=6,
    ),
    max_size=5,
))  # fmt: skip
def test_no_header_raises(headers: dict[str, Any]) -> None:
    for kid in ("rsa", "ec"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reason(VERIFIER, encrypt(token(), KEYS[kid], kid=kid, headers=headers))


VERIFIER = verifier_of({ISSUER: FakeKeys(opening(*KEYS))})
GOOD = (encrypt(token(), RSA, kid="rsa"), encrypt(token(), EC, kid="ec"))


def test_the_sizes_of_the_largest_tokens_are_within_the_limits() -> None:
    """The key that RSA-4096 wraps, the header that P-384 needs: each with 4 KiB inside."""
    for key, options in ((RSA, {"wrapped": bytes(512)}), (EC384, {})):
        headers = {"apu": "A" * 44, "apv": "A" * 44}
        text = encrypt("a" * 4096, key, kid="k" * 43, headers=headers, **options)
        assert read_header(text).kid == "k" * 43
