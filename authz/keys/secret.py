"""HMAC secrets: bytes in, one verification key out."""

import hashlib
import hmac
import os
from collections.abc import Collection

import jwt

from authz.keys.errors import KeySourceError
from authz.keys.keyset import KeySet, VerificationKey

MIN_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518 section 3.2: a key of the size of the hash output or larger MUST be used."""

MAX_SECRET_BYTES = 64 * 1024
"""Far above any secret, far below what a wrong path might name."""

_DIGEST_KEY = os.urandom(32)
"""Secrets are told apart by a digest that can't be used to guess at them elsewhere."""


def check_secret(data: bytes, algorithms: Collection[str]) -> bytes:
    """The secret in `data`: all of it less one trailing newline.

    KeySourceError: too short for one of the algorithms, too large, or really a key pair's half, a
    certificate or a JWK, which may be public.
    """
    secret = data.removesuffix(b"\n")
    if secret != data:
        secret = secret.removesuffix(b"\r")
    if len(secret) > MAX_SECRET_BYTES:
        raise KeySourceError(f"is larger than {MAX_SECRET_BYTES} bytes")
    if not secret:
        raise KeySourceError("is empty")
    for algorithm in sorted(algorithms):
        needed = MIN_BYTES[algorithm]
        if len(secret) < needed:
            raise KeySourceError(
                f"the secret has {len(secret)} bytes; {algorithm} needs at least {needed}"
            )
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise KeySourceError(
            "looks like a key or a certificate, which others may know; use random bytes"
        ) from None
    return secret


def parse_secret(data: bytes, algorithms: Collection[str]) -> KeySet:
    """The set of one key without `kid`. KeySourceError as `check_secret`."""
    secret = check_secret(data, algorithms)
    digest = hmac.digest(_DIGEST_KEY, secret, hashlib.sha256).hex()
    return KeySet([VerificationKey(None, frozenset(algorithms), digest, secret)])
