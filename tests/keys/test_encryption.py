"""Keys that tokens are encrypted to: what is one, what is weak, and what is for something else."""

import json
from typing import Any

import pytest

from authz.keys.encryption import encryption_key, parse_decryption_keys
from authz.keys.errors import KeySourceError
from authz.keys.generate import generate_key, generate_like
from authz.keys.jwk import ParsedKeys, public_part
from authz.settings import ENCRYPTION_ALGORITHMS
from support.jwe import private_jwk
from support.jwks import b64, ec_key, ed25519_key, jwk, rsa_key

RSA = private_jwk(rsa_key("enc"), "rsa")
EC = private_jwk(ec_key("enc"), "ec")


def parse(*entries: Any, algorithms: tuple[str, ...] = ENCRYPTION_ALGORITHMS) -> ParsedKeys:
    return parse_decryption_keys(json.dumps({"keys": entries}).encode(), algorithms)


def test_keys_of_both_types_are_read_by_name() -> None:
    parsed = parse(RSA, EC, private_jwk(ec_key("enc", "P-384"), "ec384"))
    assert parsed.warnings == ()
    found = {key.kid: key.algorithms for key in parsed.keys}
    assert found == {"rsa": {"RSA-OAEP-256"}, "ec": {"ECDH-ES"}, "ec384": {"ECDH-ES"}}


@pytest.mark.parametrize("member", ["use", "alg"])
def test_a_key_needs_not_say_what_it_is_for(member: str) -> None:
    assert len(parse({name: value for name, value in RSA.items() if name != member}).keys) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"use": "sig"}, "its use is not enc"),
        ({"use": ["enc"]}, "its use is not enc"),
        ({"alg": {}}, "its alg is not RSA-OAEP-256"),
        ({"alg": "RS256"}, "its alg is not RSA-OAEP-256"),
        ({"alg": "RSA-OAEP"}, "its alg is not RSA-OAEP-256"),
        ({"key_ops": ["sign"]}, "its key_ops name nothing that encrypts"),
        ({"kty": "OKP"}, "its kty is neither RSA nor EC"),
        ({"kty": "oct"}, "its kty is neither RSA nor EC"),
    ],
)
def test_a_key_for_something_else_is_left_out_and_told(
    change: dict[str, Any], problem: str
) -> None:
    parsed = parse({**RSA, **change}, EC)
    assert parsed.keys.kids == ("ec",)
    assert parsed.warnings == (f"key 'rsa' is left out: {problem}",)


def test_a_key_of_an_algorithm_that_is_not_allowed_is_left_out() -> None:
    assert parse(RSA, EC, algorithms=("ECDH-ES",)).keys.kids == ("ec",)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (private_jwk(rsa_key("enc"), None), "has no kid"),
        (jwk(rsa_key("enc"), "rsa", use="enc"), "has no private part"),
        (jwk(ec_key("enc"), "ec", use="enc"), "has no private part"),
        ({**EC, "d": private_jwk(ec_key("other"), "ec")["d"]}, "private"),
        ({**EC, "d": "%"}, "not a valid private key"),
        (private_jwk(rsa_key("weak", 1024), "rsa"), "1024 bits"),
        (private_jwk(ec_key("enc", "P-521"), "ec"), "curve 'P-521' is not supported"),
        ({**RSA, "key_ops": "decrypt"}, "key_ops is not a list"),
        ("text", "is not a JSON object"),
        (None, "is not a JSON object"),
    ],
    ids=range(10),
)
def test_a_key_that_cannot_be_used_stops_the_reading(entry: Any, problem: str) -> None:
    with pytest.raises(KeySourceError, match=problem):
        parse(EC, entry)


def test_a_key_so_large_that_it_would_stop_the_loop_is_refused() -> None:
    huge = b64((1 << 4103 | 1).to_bytes(513, "big"))  # no real one: they take seconds to make
    with pytest.raises(KeySourceError, match="4104 bits; 4096 at most decrypt"):
        parse({**RSA, "n": huge})


def test_two_keys_of_one_name_are_refused_and_one_key_twice_is_not() -> None:
    assert len(parse(EC, EC).keys) == 1
    with pytest.raises(KeySourceError, match="stands for different keys"):
        parse(EC, private_jwk(ec_key("other"), "ec"))


def test_no_private_member_shows() -> None:
    (key,) = parse(EC).keys
    assert EC["d"] not in repr(key)


# Those that are generated


@pytest.mark.parametrize("arguments", [("rsa", {}), ("ec", {}), ("ec", {"curve": "P-384"})])
def test_a_generated_pair_encrypts_and_opens(arguments: tuple[Any, dict[str, Any]]) -> None:
    key_type, options = arguments
    made = generate_key(key_type, use="enc", **options)
    assert made["use"] == "enc"
    (opens,) = parse(made).keys
    encrypts = encryption_key(public_part(made))
    assert opens == encrypts, "equal but for the half"
    successor = generate_like(made)
    assert (successor["use"], successor["alg"]) == (made["use"], made["alg"])
    assert successor["kid"] != made["kid"]


def test_an_ed25519_key_is_not_encrypted_to() -> None:
    with pytest.raises(ValueError, match="only signs"):
        generate_key("ed25519", use="enc")
    with pytest.raises(KeySourceError, match="neither RSA nor EC"):
        encryption_key(jwk(ed25519_key(), "ed", use="enc"))
