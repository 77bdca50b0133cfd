"""Encrypted tokens for tests, made step by step with `cryptography`, never with joserfc."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

from support.jwks import b64, jwk

DecryptionKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

CEK_BYTES = 32
IV_BYTES = 12
TAG_BYTES = 16


def private_jwk(key: DecryptionKey, kid: str | None, **members: Any) -> dict[str, Any]:
    """The private key as a JWK (RFC 7518 section 6), with `use` enc and its `alg`."""
    alg = "RSA-OAEP-256" if isinstance(key, rsa.RSAPrivateKey) else "ECDH-ES"
    public = jwk(key, kid, **{"use": "enc", "alg": alg, **members})
    return {**public, **_private_members(key)}


def _private_members(key: DecryptionKey) -> dict[str, str]:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        return {"d": b64(key.private_numbers().private_value.to_bytes(size, "big"))}
    numbers = key.private_numbers()
    named = {
        "d": numbers.d, "p": numbers.p, "q": numbers.q,
        "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp,
    }  # fmt: skip
    return {name: b64(_bytes(value)) for name, value in named.items()}


def _bytes(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def encrypt(
    inside: str | bytes,
    key: DecryptionKey,
    *,
    kid: str | None = None,
    headers: Mapping[str, Any] | None = None,
    wrapped: bytes | None = None,
) -> str:
    """A JWE in compact form (RFC 7516 section 5.1) that `key` opens, whatever `headers` say: they
    replace members, and those set to None are left out. `wrapped` replaces the encrypted key.
    """
    header: dict[str, Any] = {"enc": "A256GCM", "cty": "JWT", "kid": kid}
    if isinstance(key, rsa.RSAPrivateKey):
        header["alg"] = "RSA-OAEP-256"
        cek = secrets.token_bytes(CEK_BYTES)
        encrypted_key = key.public_key().encrypt(
            cek, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        )
    else:
        header["alg"] = "ECDH-ES"
        ephemeral = ec.generate_private_key(key.curve)
        header["epk"] = jwk(ephemeral, use=None)
        cek = _agreed(ephemeral.exchange(ec.ECDH(), key.public_key()))
        encrypted_key = b""
    header = {n: value for n, value in {**header, **(headers or {})}.items() if value is not None}
    protected = b64(json.dumps(header).encode())
    iv = secrets.token_bytes(IV_BYTES)
    plaintext = inside.encode() if isinstance(inside, str) else inside
    sealed = AESGCM(cek).encrypt(iv, plaintext, protected.encode())
    parts = (
        encrypted_key if wrapped is None else wrapped, iv, sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    )  # fmt: skip
    return ".".join([protected, *map(b64, parts)])


def _agreed(shared: bytes) -> bytes:
    """RFC 7518 section 4.6.2 for A256GCM without `apu` and `apv`."""
    algorithm = b"A256GCM"
    info = len(algorithm).to_bytes(4, "big") + algorithm + bytes(4) + bytes(4)
    info += (CEK_BYTES * 8).to_bytes(4, "big")
    return ConcatKDFHash(hashes.SHA256(), CEK_BYTES, info).derive(shared)
