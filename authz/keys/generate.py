"""New keys to sign with, or to encrypt to, as private JWKs."""

from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authz.keys.encryption import encryption_algorithm, is_for_encryption
from authz.keys.jwk import codec, default_algorithm, thumbprint

KeyType = Literal["rsa", "ec", "ed25519"]
Curve = Literal["P-256", "P-384"]
Use = Literal["sig", "enc"]
"""RFC 7517 section 4.2."""

DEFAULT_RSA_BITS = 2048
"""112 bits of strength, good until 2030 by NIST SP 800-57 part 1; a signing key lives for weeks.
Each check of a new token pays for the size: 3072 bits take twice the time."""

RSA_BITS = (2048, 4096)
"""The smallest that RFC 7518 section 3.3 allows; beyond the largest tokens only get slower."""


def generate_key(
    key_type: KeyType = "rsa",
    *,
    bits: int = DEFAULT_RSA_BITS,
    curve: Curve = "P-256",
    use: Use = "sig",
) -> dict[str, Any]:
    """A new private JWK with `kid` (its RFC 7638 thumbprint), `use` and `alg`.

    `bits` counts for RSA, `curve` for EC. ValueError: `bits` out of range, or a key of this type
    can't be encrypted to.
    """
    if use == "enc" and key_type == "ed25519":
        msg = "an Ed25519 key only signs; tokens are encrypted to rsa and ec"
        raise ValueError(msg)
    key: Any
    if key_type == "rsa":
        if not RSA_BITS[0] <= bits <= RSA_BITS[1]:
            msg = f"{bits} bits: an RSA key here has {RSA_BITS[0]} to {RSA_BITS[1]}"
            raise ValueError(msg)
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        algorithm = "RS256"
    elif key_type == "ec":
        key = ec.generate_private_key(ec.SECP256R1() if curve == "P-256" else ec.SECP384R1())
        algorithm = "ES256" if curve == "P-256" else "ES384"
    else:
        key = ed25519.Ed25519PrivateKey.generate()
        algorithm = "EdDSA"
    jwk = dict(codec(algorithm).to_jwk(key, as_dict=True))
    jwk.pop("key_ops", None)  # RFC 7517 section 4.3: not together with `use`
    if use == "enc":
        algorithm = encryption_algorithm(jwk)
    return {**jwk, "kid": thumbprint(jwk), "use": use, "alg": algorithm}


def generate_like(jwk: dict[str, Any]) -> dict[str, Any]:
    """A new key of the same use, type, size or curve."""
    use: Use = "enc" if is_for_encryption(jwk) else "sig"
    algorithm = default_algorithm(jwk)
    if algorithm == "RS256":
        bits = codec(algorithm).from_jwk(jwk).key_size
        new = generate_key("rsa", bits=min(max(bits, RSA_BITS[0]), RSA_BITS[1]), use=use)
        return {**new, "alg": jwk.get("alg", new["alg"])}  # RS512, PS256 stay what they are
    if algorithm == "EdDSA":
        return generate_key("ed25519")
    return generate_key("ec", curve="P-256" if algorithm == "ES256" else "P-384", use=use)
