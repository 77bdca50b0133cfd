"""Keys and tokens for tests, made with cryptography and PyJWT, never with `authz.keys`."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://issuer.example"
AUDIENCE = "api"
SUBJECT = "alice"

SECRET = b"a test secret of at least thirty-two bytes"
"""For HS256; 64 bytes and more are needed for HS512."""

_numbers = count(time.time_ns())  # unique between runs too, in case they share a store

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache  # generation takes up to half a second
def rsa_key(name: str = "rsa", bits: int = 2048) -> rsa.RSAPrivateKey:
    """The RSA key of this name, the same throughout a test run."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str = "ec", curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    """`curve`: P-256, P-384, P-521 or secp256k1."""
    del name
    curves: dict[str, Callable[[], ec.EllipticCurve]] = {
        "P-256": ec.SECP256R1,
        "P-384": ec.SECP384R1,
        "P-521": ec.SECP521R1,
        "secp256k1": ec.SECP256K1,
    }
    return ec.generate_private_key(curves[curve]())


@cache
def ed25519_key(name: str = "ed25519") -> ed25519.Ed25519PrivateKey:
    del name
    return ed25519.Ed25519PrivateKey.generate()


def jwk(key: PrivateKey, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """The public half as a JWK (RFC 7517). `members` are added; those set to None are left out."""
    algorithm = get_default_algorithms()[default_algorithm(key)]
    members = {"kid": kid, "use": "sig", **members}
    value = {**algorithm.to_jwk(key.public_key(), as_dict=True), **members}
    value.pop("key_ops", None)
    return {name: member for name, member in value.items() if member is not None}


def jwks(*keys: Mapping[str, Any]) -> str:
    """A JWK Set as text."""
    return json.dumps({"keys": list(keys)})


def pem(key: PrivateKey) -> bytes:
    """The private key as PKCS 8."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def default_algorithm(key: PrivateKey | bytes) -> str:
    """The algorithm a key is usually used with: RS256, ES256, ES384, EdDSA, HS256, …"""
    match key:
        case bytes():
            return "HS256"
        case rsa.RSAPrivateKey():
            return "RS256"
        case ec.EllipticCurvePrivateKey():
            return {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}.get(
                key.curve.name, "ES256K"
            )
        case _:
            return "EdDSA"


def claims(*, now: float | None = None, lifetime: int = 7200, **overrides: Any) -> dict[str, Any]:
    """A good claim set, issued `now` (default: this second) and good for `lifetime` seconds: longer
    than all tests take, for some are made when a module is imported.

    `jti` is different each time. Overrides replace members; those set to `...` are left out.
    """
    issued = int(time.time() if now is None else now)
    values: dict[str, Any] = {
        "iss": ISSUER,
        "sub": SUBJECT,
        "aud": AUDIENCE,
        "iat": issued,
        "exp": issued + lifetime,
        "jti": f"jti-{next(_numbers)}",
        "scope": "read write",
        **overrides,
    }
    return {name: value for name, value in values.items() if value is not ...}


def sign(
    claims: Mapping[str, Any] | bytes,
    key: PrivateKey | bytes,
    *,
    kid: str | None = None,
    alg: str | None = None,
    headers: Mapping[str, Any] | None = None,
) -> str:
    """A JWS in compact form (RFC 7515), signed with whatever `key` and `alg` say.

    Unlike a library's `encode`, it signs anything: `claims` may be any bytes, `headers` may replace
    `alg` or hold members of any kind, and an HMAC may be keyed with a public key's PEM. The
    signature is always right for `alg` (default: the key's usual one); `headers` is only text.
    """
    alg = alg or default_algorithm(key)
    header: dict[str, Any] = {"alg": alg, "typ": "JWT", "kid": kid, **(headers or {})}
    header = {name: value for name, value in header.items() if value is not None}
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signing_input = f"{b64(json.dumps(header).encode())}.{b64(payload)}"
    return f"{signing_input}.{b64(signature(signing_input.encode(), key, alg))}"


def signature(signing_input: bytes, key: PrivateKey | bytes, alg: str) -> bytes:
    """The signature's bytes as JWS has them (RFC 7518 section 3). `none` gives no bytes."""
    if alg.lower() == "none":
        return b""
    if isinstance(key, bytes):  # PyJWT would refuse a PEM as a secret; an attacker doesn't
        return hmac.digest(key, signing_input, f"sha{alg.removeprefix('HS')}")
    algorithm = jwt.get_algorithm_by_name(alg)
    return algorithm.sign(signing_input, key)


def b64(data: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()
