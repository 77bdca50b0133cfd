"""Signing tokens with a private JWK or an HMAC secret."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

from authz.keys.jwk import default_algorithm, private_key, read_key
from authz.keys.keyfile import read_keys
from authz.keys.rotation import arranged
from authz.keys.secret import check_secret
from authz.settings import ALGORITHMS


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str | None
    algorithm: str
    key: object = field(repr=False, compare=False)
    """What PyJWT's `Algorithm.sign` takes: a private key of `cryptography`, or a secret's bytes."""


def signing_key(jwk: Mapping[str, Any]) -> SigningKey:
    """A private JWK made ready. KeySourceError: it is none, weak, or two halves."""
    public = read_key(jwk, ALGORITHMS)
    key = private_key(jwk, public.thumbprint)
    # Without an `alg` of its own several may go with it.
    narrowed = len(public.algorithms) == 1
    algorithm = next(iter(public.algorithms)) if narrowed else default_algorithm(jwk)
    return SigningKey(public.kid, algorithm, key)


def load_signing_key(path: Path, now: float) -> SigningKey:
    """The key of a private JWK Set that signs at `now`, seconds since 1970.

    KeySourceError: the file or the key can't be used.
    """
    return signing_key(arranged(read_keys(path, private=True), now)[0])


def secret_signing_key(secret: bytes, algorithm: str = "HS256") -> SigningKey:
    """An HMAC secret as it stands in its file. KeySourceError: too short for the algorithm."""
    return SigningKey(None, algorithm, check_secret(secret, [algorithm]))


def sign(claims: Mapping[str, Any], key: SigningKey) -> str:
    """A JWT in compact form with these claims, none added. TypeError: they are not JSON."""
    header = {} if key.kid is None else {"kid": key.kid}
    signer: Any = key.key
    return jwt.encode(dict(claims), signer, algorithm=key.algorithm, headers=header)
