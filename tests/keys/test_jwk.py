"""What is read from a JWK Set, and what is not."""

import json
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.keys.errors import KeySourceError
from authz.keys.jwk import (
    MAX_DOCUMENT_BYTES,
    MAX_KEYS,
    MAX_KID_CHARACTERS,
    MAX_RSA_BITS,
    parse_jwks,
    public_part,
    thumbprint,
)
from authz.keys.keyset import KeySet
from authz.settings import ALGORITHMS
from support.jwks import b64, ec_key, ed25519_key, jwk, jwks, rsa_key

RSA = jwk(rsa_key(), "r")
P256 = jwk(ec_key(), "p256")
P384 = jwk(ec_key("ec384", "P-384"), "p384")
ED25519 = jwk(ed25519_key(), "ed")
RSA_ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


def numbered(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def parse(*keys: Any, algorithms: Any = ALGORITHMS, strict: bool = True) -> Any:
    return parse_jwks(jwks(*keys).encode(), algorithms, strict=strict)


def algorithms_of(*keys: Any) -> set[str]:
    (key,) = parse(*keys).keys
    return set(key.algorithms)


@pytest.mark.parametrize(
    ("key", "expected"),
    [(RSA, RSA_ALGORITHMS), (P256, {"ES256"}), (P384, {"ES384"}), (ED25519, {"EdDSA"})],
    ids=["rsa", "p256", "p384", "ed25519"],
)
def test_a_key_verifies_only_what_its_type_and_curve_allow(
    key: dict[str, Any], expected: set[str]
) -> None:
    assert algorithms_of(key) == expected


def test_a_key_verifies_only_what_the_issuer_may_use() -> None:
    (key,) = parse(RSA, algorithms=["RS256", "ES256"]).keys
    assert key.algorithms == {"RS256"}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"alg": "PS256"}, {"PS256"}),
        ({"use": None}, RSA_ALGORITHMS),
        ({"key_ops": ["verify"]}, RSA_ALGORITHMS),
        ({"key_ops": ["sign", "deriveBits"]}, RSA_ALGORITHMS),
        ({"x5c": ["junk"], "x5u": "http://evil.example", "jku": 1}, RSA_ALGORITHMS),
        ({"crv": ["not", "for", "rsa"]}, RSA_ALGORITHMS),
    ],
)
def test_a_jwk_narrows_what_it_is_for(members: dict[str, Any], expected: set[str]) -> None:
    assert algorithms_of({**jwk(rsa_key(), "r", use=None), **members}) == expected


def test_the_newer_name_of_eddsa_is_understood() -> None:
    """RFC 9864 lets `alg` be Ed25519; the signature is the same."""
    assert algorithms_of({**ED25519, "alg": "Ed25519"}) == {"EdDSA"}


@pytest.mark.parametrize(
    "members",
    [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"key_ops": []}, {"alg": "RSA-OAEP"}],
    ids=str,
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_key_for_another_use_is_left_out_and_named(members: dict[str, Any], strict: bool) -> None:
    parsed = parse({**RSA, **members}, P256, strict=strict)
    assert parsed.keys.kids == ("p256",)
    assert "key 'r' is left out" in parsed.warnings[0]


BAD = {
    "an HMAC secret": ({"kty": "oct", "k": b64(b"x" * 32), "kid": "x"}, "secret_file"),
    "a weak RSA key": (jwk(rsa_key("weak", 1024), "x"), "RSA key of 1024 bits"),
    "P-521": (jwk(ec_key("p521", "P-521"), "x"), "'P-521' is not supported"),
    "secp256k1": (jwk(ec_key("k1", "secp256k1"), "x"), "'secp256k1' is not supported"),
    "Ed448": ({"kty": "OKP", "crv": "Ed448", "x": b64(b"x" * 57), "kid": "x"}, "'Ed448' is not"),
    "X25519": ({"kty": "OKP", "crv": "X25519", "x": b64(b"x" * 32), "kid": "x"}, "use Ed25519"),
    "an unknown type": ({"kty": "LMS", "kid": "x"}, "kty 'LMS' is not supported"),
    "no type": ({"kid": "x"}, "kty is missing"),
    "no curve": ({"kty": "EC", "kid": "x"}, "that is missing"),
    "no modulus": ({"kty": "RSA", "e": "AQAB", "kid": "x"}, "n is missing"),
    "padding": ({**RSA, "kid": "x", "e": "AQAB="}, "e is missing or not base64url"),
    "standard base64": ({**RSA, "kid": "x", "n": "a+/b"}, "n is missing or not base64url"),
    "a length that no bytes have": ({**P256, "kid": "x", "x": "abcde"}, "x is not base64url"),
    "a number for a text": ({**RSA, "kid": "x", "n": 7}, "n is missing or not base64url"),
    "a point off the curve": ({**P256, "kid": "x", "y": P256["x"]}, "not a valid public key"),
    "a short coordinate": ({**P256, "kid": "x", "y": "AAAA"}, "not a valid public key"),
    "a short Ed25519 key": ({**ED25519, "kid": "x", "x": "AAAA"}, "not a valid public key"),
    "an even exponent": ({**RSA, "kid": "x", "e": b64(b"\x02")}, "not a valid public key"),
    "an exponent of one": ({**RSA, "kid": "x", "e": b64(b"\x01")}, "not a valid public key"),
    "a slow exponent": ({**RSA, "kid": "x", "e": numbered(2**258 + 1)}, "e is too large"),
    "a slow modulus": (
        {**RSA, "kid": "x", "n": numbered(2**MAX_RSA_BITS + 1)},
        "RSA key of 8193 bits",
    ),
    "a huge modulus": ({**RSA, "kid": "x", "n": "A" * 300_000}, "n is too large"),
    "alg of another type": ({**RSA, "kid": "x", "alg": "ES256"}, "alg ES256 does not go with"),
    "alg of a secret": ({**RSA, "kid": "x", "alg": "HS256"}, "is left out"),
    "alg not a text": ({**RSA, "kid": "x", "alg": 5}, "alg is not text"),
    "use not a text": ({**RSA, "kid": "x", "use": ["sig"]}, "use is not text"),
    "key_ops not a list": ({**RSA, "kid": "x", "key_ops": "verify"}, "key_ops is not a list"),
}
STRICT_TOLERATES = {"alg of a secret"}  # foreign, not bad: nothing that it is used for here


@pytest.mark.parametrize("case", BAD)
def test_from_a_url_a_bad_key_is_left_out_and_the_good_ones_stay(case: str) -> None:
    key, problem = BAD[case]
    parsed = parse(key, P384, strict=False)
    assert parsed.keys.kids == ("p384",)
    assert len(parsed.warnings) == 1
    assert problem in parsed.warnings[0]
    assert "'x'" in parsed.warnings[0]


@pytest.mark.parametrize("case", sorted(BAD.keys() - STRICT_TOLERATES))
def test_in_a_file_a_bad_key_is_an_error_that_names_it(case: str) -> None:
    key, problem = BAD[case]
    with pytest.raises(KeySourceError) as caught:
        parse(P384, key)
    assert problem in str(caught.value)
    assert "key 'x'" in str(caught.value)


@pytest.mark.parametrize("kid", [7, ["a"], "a\nb", "\ud800", "x" * (MAX_KID_CHARACTERS + 1)])
def test_a_kid_is_printable_text_of_bounded_length(kid: Any) -> None:
    with pytest.raises(KeySourceError, match="kid"):
        parse({**RSA, "kid": kid})
    assert len(parse({**RSA, "kid": kid}, strict=False).keys) == 0


@pytest.mark.parametrize("entry", [None, 1, "text", [], [RSA]])
def test_an_entry_that_is_no_object_is_named_by_its_position(entry: Any) -> None:
    with pytest.raises(KeySourceError, match="key number 2: is not a JSON object"):
        parse(RSA, entry)


def test_a_kid_for_two_different_keys_is_an_error_in_a_file() -> None:
    with pytest.raises(KeySourceError, match="kid 'r' stands for 2 different keys"):
        parse(RSA, jwk(rsa_key("another"), "r"))


def test_a_kid_for_two_different_keys_leaves_both_out_from_a_url() -> None:
    parsed = parse(RSA, jwk(rsa_key("another"), "r"), P256, strict=False)
    assert parsed.keys.kids == ("p256",)
    assert "stands for 2 different keys" in parsed.warnings[0]


def test_one_key_listed_once_for_each_algorithm_is_one_key_for_both() -> None:
    (key,) = parse({**RSA, "alg": "RS256"}, {**RSA, "alg": "PS256"}).keys
    assert key.algorithms == {"RS256", "PS256"}


def test_keys_without_a_kid_may_be_several() -> None:
    assert len(parse(jwk(rsa_key()), jwk(rsa_key("another"))).keys) == 2


def test_a_private_key_is_used_by_its_public_part_and_reported() -> None:
    private = {**RSA, "d": "AAAA", "p": "junk that nobody reads"}
    parsed = parse(private)
    (key,) = parsed.keys
    assert not hasattr(key.key, "private_numbers")
    assert "private part" in parsed.warnings[0]
    assert "AAAA" not in parsed.warnings[0]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b"{}", '"keys" is not a list'),
        (b'{"keys": {}}', '"keys" is not a list'),
        (b'{"keys": NaN}', "is not JSON that can be read"),
        (b"[" * 100_000, "is not JSON that can be read"),
        (b'{"keys": ' + b"9" * 5000 + b"}", "is not JSON that can be read"),
        (json.dumps(RSA).encode(), "is a single key"),
        (b'{"keys": [' + b"{}," * MAX_KEYS + b"{}]}", "holds 129 keys"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "is larger than 524288 bytes"),
        (b"-----BEGIN PUBLIC KEY-----", "is not JSON"),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, bytes) else None,
)
def test_what_is_no_jwk_set_is_an_error_that_says_why(
    document: bytes, problem: str, strict: bool
) -> None:
    with pytest.raises(KeySourceError) as caught:
        parse_jwks(document, ALGORITHMS, strict=strict)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_set_without_keys_is_a_set() -> None:
    assert len(parse().keys) == 0


def test_the_same_key_written_otherwise_is_the_same_key() -> None:
    """Leading zeros of a modulus are against RFC 7518 section 2, and common."""
    padded = {**RSA, "n": b64(b"\x00" * 3 + _bytes(RSA["n"]))}
    assert parse(padded).keys == parse(RSA).keys


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """The example of RFC 7638 section 3.1."""
    example = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tS"
        "oc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YG"
        "jQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-"
        "bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert thumbprint(example) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    (key,) = parse(example).keys
    assert key.thumbprint == thumbprint(example)


def test_only_what_is_known_to_be_public_is_published() -> None:
    secret = {**RSA, "alg": "RS256", "d": "1", "oth": [], "unheard-of": "2"}
    assert public_part(secret) == {**RSA, "alg": "RS256"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
almost_keys = st.builds(
    lambda key, changes: {**key, **changes},
    st.sampled_from([RSA, P256, P384, ED25519, {"kty": "oct", "k": "AAAA"}]),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "n", "e", "x", "y", "d", "alg", "use", "key_ops", "kid"]),
        json_values | st.sampled_from(["AQAB", "AA", "sig", "RS256", "P-256", "Ed25519"]),
        max_size=3,
    ),
)


@given(st.binary())
def test_any_bytes_are_a_set_or_an_error(data: bytes) -> None:
    _set_or_error(data)


@given(json_values | st.fixed_dictionaries({"keys": st.lists(almost_keys | json_values)}))
def test_any_json_is_a_set_or_an_error(document: Any) -> None:
    _set_or_error(json.dumps(document).encode())


def _set_or_error(data: bytes) -> None:
    for strict in (True, False):
        try:
            keys, said = parse_jwks(data, ALGORITHMS, strict=strict)
        except KeySourceError as error:
            keys, said = KeySet(), (str(error),)
        assert all(text.isprintable() for text in said)
        assert all(key.algorithms for key in keys)


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
