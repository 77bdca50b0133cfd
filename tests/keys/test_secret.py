"""Which bytes may be an HMAC secret."""

import os

import pytest

from authz.keys.errors import KeySourceError
from authz.keys.secret import MAX_SECRET_BYTES, parse_secret
from support.jwks import ec_key, jwk, jwks, public_pem, rsa_key

SECRET = b"0123456789abcdef" * 2


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_one_trailing_newline_is_not_part_of_the_secret(ending: bytes) -> None:
    (key,) = parse_secret(SECRET + ending, ["HS256"])
    assert key.key == SECRET


@pytest.mark.parametrize("ending", [b"\n\n", b"\r", b" ", b"\n "])
def test_other_bytes_at_the_end_are_part_of_it(ending: bytes) -> None:
    (key,) = parse_secret(SECRET + ending, ["HS256"])
    assert key.key == (SECRET + ending).removesuffix(b"\n")


@pytest.mark.parametrize(
    ("length", "algorithms", "problem"),
    [
        (31, ["HS256"], "has 31 bytes; HS256 needs at least 32"),
        (47, ["HS256", "HS384"], "has 47 bytes; HS384 needs at least 48"),
        (63, ["HS512"], "has 63 bytes; HS512 needs at least 64"),
        (0, ["HS256"], "is empty"),
        (MAX_SECRET_BYTES + 1, ["HS256"], "is larger than"),
    ],
)
def test_a_secret_has_the_size_of_its_hash_at_least(
    length: int, algorithms: list[str], problem: str
) -> None:
    """RFC 7518 section 3.2."""
    with pytest.raises(KeySourceError, match=problem):
        parse_secret(b"k" * length, algorithms)


def test_the_smallest_secret_is_taken_for_each_algorithm() -> None:
    for algorithm, size in {"HS256": 32, "HS384": 48, "HS512": 64}.items():
        (key,) = parse_secret(os.urandom(size - 1) + b"k", [algorithm])
        assert key.algorithms == {algorithm}
        assert key.kid is None


@pytest.mark.parametrize(
    "data",
    [public_pem(rsa_key()), public_pem(ec_key()), jwks(jwk(rsa_key(), "a")).encode()],
    ids=["rsa pem", "ec pem", "jwks"],
)
def test_a_public_key_is_no_secret(data: bytes) -> None:
    """What everybody can read would sign for everybody."""
    with pytest.raises(KeySourceError, match="looks like a key") as caught:
        parse_secret(data, ["HS256"])
    assert "BEGIN" not in str(caught.value)


def test_equal_secrets_make_equal_sets_and_others_do_not() -> None:
    assert parse_secret(SECRET, ["HS256"]) == parse_secret(SECRET + b"\n", ["HS256"])
    assert parse_secret(SECRET, ["HS256"]) != parse_secret(b"x" + SECRET, ["HS256"])


def test_a_secrets_digest_can_not_be_made_elsewhere() -> None:
    """A plain hash of a memorable secret in a log would be a way to find the secret."""
    import hashlib

    (key,) = parse_secret(SECRET, ["HS256"])
    assert key.thumbprint != hashlib.sha256(SECRET).hexdigest()
    assert SECRET.decode() not in repr(key)
