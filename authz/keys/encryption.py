"""Keys that tokens are encrypted to (JWE, RFC 7516): JWKs in, keys of `joserfc` out.

As with signatures a key is good for what its type and curve allow and nothing else: RSA for
RSA-OAEP-256, P-256 and P-384 for ECDH-ES. A key that signs never decrypts, nor the other way round
(RFC 7517 section 4.2).
"""

from collections.abc import Collection, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz.keys.errors import KeySourceError
from authz.keys.jwk import (
    BadKeyError,
    ForeignKeyError,
    ParsedKeys,
    key_label,
    private_key,
    read_entries,
    read_key,
)
from authz.keys.keyset import KeySet, VerificationKey
from authz.settings import ALGORITHMS, ENCRYPTION_ALGORITHMS

MAX_DECRYPTING_RSA_BITS = 4096
"""To decrypt with 2048 bits takes 0.3 ms, with 4096 1.4, and nobody is answered meanwhile."""

_ALGORITHM = {"RSA": "RSA-OAEP-256", "EC": "ECDH-ES"}
_OPERATIONS = frozenset(
    {"encrypt", "decrypt", "wrapKey", "unwrapKey", "deriveKey", "deriveBits"}
)  # RFC 7517 section 4.3

_PUBLIC_MEMBERS = ("kty", "crv", "kid", "n", "e", "x", "y")


def parse_decryption_keys(data: bytes, algorithms: Collection[str]) -> ParsedKeys:
    """A private JWK Set that opens tokens encrypted by these algorithms.

    KeySourceError: it is none, or a key in it is unreadable, weak, public, or has no `kid` or that
    of another. Keys for other uses and algorithms are left out with a warning.
    """
    warnings: list[str] = []
    by_kid: dict[str | None, VerificationKey] = {}
    for position, entry in enumerate(read_entries(data)):
        label = key_label(entry, position)
        try:
            key = decryption_key(entry, algorithms)
        except ForeignKeyError as foreign:
            warnings.append(f"{label} is left out: {foreign}")
            continue
        except KeySourceError as bad:
            raise KeySourceError(f"{label}: {bad}") from None
        if by_kid.setdefault(key.kid, key) != key:
            raise KeySourceError(f"kid {key.kid!r} stands for different keys")
    return ParsedKeys(KeySet(by_kid.values()), tuple(warnings))


def decryption_key(entry: object, algorithms: Collection[str]) -> VerificationKey:
    """A private JWK made ready to decrypt with. ForeignKeyError: it is for something else or for
    none of the algorithms. KeySourceError: it can't be used.
    """
    public = read_encryption_key(entry, algorithms)
    size = public.key.key_size if isinstance(public.key, rsa.RSAPublicKey) else 0
    if size > MAX_DECRYPTING_RSA_BITS:
        raise BadKeyError(
            f"is an RSA key of {size} bits; {MAX_DECRYPTING_RSA_BITS} at most decrypt"
        )
    own = private_key(_object(entry), public.thumbprint)
    return VerificationKey(public.kid, public.algorithms, public.thumbprint, _of_joserfc(own))


def encryption_key(entry: object) -> VerificationKey:
    """A JWK made ready to encrypt to. Errors as `decryption_key`."""
    public = read_encryption_key(entry, ENCRYPTION_ALGORITHMS)
    return VerificationKey(
        public.kid, public.algorithms, public.thumbprint, _of_joserfc(public.key)
    )


def read_encryption_key(entry: object, algorithms: Collection[str]) -> VerificationKey:
    """The public half of a JWK, of which `algorithms` has the one that goes with it. `key` is one
    of `cryptography`. Errors as `decryption_key`.
    """
    jwk = _object(entry)
    _check_use(jwk)
    algorithm = encryption_algorithm(jwk)
    if algorithm not in algorithms:
        raise ForeignKeyError(f"{algorithm} is not among the algorithms")
    members = {name: jwk[name] for name in _PUBLIC_MEMBERS if name in jwk}
    public = read_key(members, ALGORITHMS)
    if public.kid is None:
        # Guessing among keys would end with the first rotation, and each guess takes a
        # millisecond that anybody can make us spend.
        raise BadKeyError("has no kid, by which tokens name the key they are encrypted to")
    return VerificationKey(public.kid, frozenset({algorithm}), public.thumbprint, public.key)


def encryption_algorithm(jwk: Mapping[str, Any]) -> str:
    """What goes with the key's type. ForeignKeyError: none does, or its `alg` is another."""
    algorithm = _ALGORITHM.get(str(jwk.get("kty")))
    if algorithm is None:
        raise ForeignKeyError("its kty is neither RSA nor EC")
    if jwk.get("alg") not in (None, algorithm):  # a tuple: it may be of any JSON type
        raise ForeignKeyError(f"its alg is not {algorithm}")
    return algorithm


def is_for_encryption(jwk: Mapping[str, Any]) -> bool:
    """Whether a JWK says that it is no signing key."""
    return jwk.get("use") == "enc"


def _object(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise BadKeyError("is not a JSON object")
    return entry


def _check_use(entry: Mapping[str, Any]) -> None:
    if entry.get("use") not in (None, "enc"):  # a tuple: it may be of any JSON type
        raise ForeignKeyError("its use is not enc")
    operations = entry.get("key_ops")
    if operations is None:
        return
    if not isinstance(operations, list) or not all(isinstance(item, str) for item in operations):
        raise BadKeyError("key_ops is not a list of texts")
    if not _OPERATIONS & set(operations):
        raise ForeignKeyError("its key_ops name nothing that encrypts")


def _of_joserfc(key: object) -> object:
    """Imported here: half a megabyte that only those with encrypted tokens need."""
    from joserfc.jwk import ECKey, RSAKey

    match key:
        case rsa.RSAPrivateKey() | rsa.RSAPublicKey():
            return RSAKey.import_key(key)
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            return ECKey.import_key(key)
        case _:
            raise TypeError(type(key).__name__)
