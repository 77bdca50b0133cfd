"""New keys, and tokens signed with them, judged by PyJWT alone."""

from pathlib import Path
from typing import Any

import jwt
import pytest

from authz.keys.errors import KeySourceError
from authz.keys.generate import generate_key, generate_like
from authz.keys.jwk import parse_jwks, public_part, thumbprint
from authz.keys.keyfile import dump, write_keys
from authz.keys.rotation import SIGNS_FROM, STAGED
from authz.keys.signing import load_signing_key, secret_signing_key, sign, signing_key
from authz.settings import ALGORITHMS
from support.jwks import ec_key, jwk

MADE = {
    "RS256": generate_key("rsa"),
    "ES256": generate_key("ec"),
    "ES384": generate_key("ec", curve="P-384"),
    "EdDSA": generate_key("ed25519"),
}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi"}
CLAIMS = {"iss": "https://issuer.example", "sub": "alice", "aud": "api"}


@pytest.mark.parametrize("algorithm", MADE)
def test_a_new_key_signs_what_its_public_part_verifies(algorithm: str) -> None:
    key = MADE[algorithm]
    token = sign(CLAIMS, signing_key(key))
    header = jwt.get_unverified_header(token)
    assert header == {"alg": algorithm, "kid": key["kid"], "typ": "JWT"}
    public = jwt.PyJWK(public_part(key))
    assert jwt.decode(token, public, algorithms=[algorithm], audience="api") == CLAIMS


@pytest.mark.parametrize("algorithm", MADE)
def test_a_new_key_says_what_it_is_and_keeps_its_private_part(algorithm: str) -> None:
    key = MADE[algorithm]
    assert key["kid"] == thumbprint(key)
    assert (key["use"], key["alg"]) == ("sig", algorithm)
    assert "key_ops" not in key
    assert not PRIVATE & public_part(key).keys()
    (read,) = parse_jwks(dump([public_part(key)]).encode(), ALGORITHMS, strict=True).keys
    assert read.kid == key["kid"]
    assert read.algorithms == {algorithm}


@pytest.mark.parametrize("algorithm", MADE)
def test_a_key_like_another_is_another_of_the_same_kind(algorithm: str) -> None:
    new = generate_like(MADE[algorithm])
    assert new["alg"] == algorithm
    assert new["kid"] != MADE[algorithm]["kid"]


def test_a_key_like_a_larger_one_is_as_large_and_for_the_same_algorithm() -> None:
    large = {**generate_key("rsa", bits=3072), "alg": "PS256"}
    new = generate_like(large)
    assert len(new["n"]) == len(large["n"])
    assert new["alg"] == "PS256"
    assert jwt.get_unverified_header(sign(CLAIMS, signing_key(new)))["alg"] == "PS256"


@pytest.mark.parametrize("bits", [1024, 2047, 4097])
def test_rsa_keys_have_a_bounded_size(bits: int) -> None:
    with pytest.raises(ValueError, match="an RSA key here has 2048 to 4096"):
        generate_key("rsa", bits=bits)


def test_the_first_key_of_a_file_signs(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", [MADE["ES256"], MADE["EdDSA"]], replace=False)
    assert load_signing_key(tmp_path / "keys", 0).kid == MADE["ES256"]["kid"]


def test_of_a_file_that_the_token_service_keeps_the_key_signs_whose_time_has_come(
    tmp_path: Path,
) -> None:
    keys = [
        {**MADE["ES256"], SIGNS_FROM: 1000},
        {**MADE["EdDSA"], SIGNS_FROM: 2000},
        {**MADE["ES384"], STAGED: True},
    ]
    write_keys(tmp_path / "keys", keys, replace=False)
    signing = [load_signing_key(tmp_path / "keys", now).algorithm for now in (0, 1999, 2000, 9e9)]
    assert signing == ["ES256", "ES256", "EdDSA", "EdDSA"]


def test_a_key_without_alg_signs_with_the_usual_one() -> None:
    for algorithm, key in MADE.items():
        bare = {name: value for name, value in key.items() if name != "alg"}
        assert signing_key(bare).algorithm == algorithm


def test_a_secret_signs_without_a_kid() -> None:
    secret = b"x" * 32
    token = sign(CLAIMS, secret_signing_key(secret + b"\n"))
    assert "kid" not in jwt.get_unverified_header(token)
    assert jwt.decode(token, secret, algorithms=["HS256"], audience="api") == CLAIMS
    with pytest.raises(KeySourceError, match="HS512 needs at least 64"):
        secret_signing_key(secret, "HS512")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (jwk(ec_key(), "a"), "has no private part"),
        ({**MADE["EdDSA"], "d": generate_key("ed25519")["d"]}, "not a valid private key"),
        ({**MADE["ES256"], "d": generate_key("ec")["d"]}, "not a valid private key"),
        ({**MADE["RS256"], "d": "AQAB"}, "not a valid private key"),
        ({**MADE["RS256"], "p": "%%%"}, "not a valid private key"),
        ({**MADE["RS256"], "d": 7}, "not a valid private key"),
        ({"kty": "oct", "k": "AAAA"}, "is a secret"),
    ],
)
def test_what_is_no_sound_private_key_does_not_sign(key: dict[str, Any], problem: str) -> None:
    with pytest.raises(KeySourceError, match=problem):
        signing_key(key)


def test_a_signing_key_does_not_show_its_private_part() -> None:
    assert "PrivateKey" not in repr(signing_key(MADE["ES256"]))
    assert "xxxx" not in repr(secret_signing_key(b"x" * 32))
