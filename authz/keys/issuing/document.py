"""A private JWK Set as a store of signing keys: what it holds, and how it grows and shrinks.

The set is the same wherever it lies, in a file, a variable or a KV engine; who keeps it reads and
writes it, and this says what to write.
"""

from typing import Any

from authz.keys import rotation
from authz.keys.errors import KeySourceError
from authz.keys.generate import KeyType, generate_key, generate_like
from authz.keys.issuing.held import HeldKey, LocalSigner
from authz.keys.issuing.schedule import in_order
from authz.keys.jwk import (
    MAX_KEYS,
    default_algorithm,
    key_label,
    public_part,
    read_entries,
    read_key,
)
from authz.keys.rotation import Keys, Rotation, times_of
from authz.keys.signing import signing_key
from authz.settings import ALGORITHMS

_TYPES: dict[str, KeyType] = {"RS256": "rsa", "ES256": "ec", "EdDSA": "ed25519"}
"""Of `tokens.signing.algorithm`: the key type that goes with it."""


def read_document(data: bytes) -> list[HeldKey]:
    """The keys of a private JWK Set. KeySourceError: it is none, or one of them can't be used."""
    entries = read_entries(data)
    if not entries:
        raise KeySourceError("holds no key")
    held: list[HeldKey] = []
    for position, entry in enumerate(entries):
        try:
            key = signing_key(entry)
        except KeySourceError as error:
            raise KeySourceError(f"{key_label(entry, position)}: {error}") from None
        verifies = read_key(entry, ALGORITHMS)
        held.append(HeldKey(times_of(entry), LocalSigner(key), verifies, public_part(entry)))
    names = [key.times.name for key in held]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise KeySourceError(f"kid {doubled!r} stands for two keys")
    return held


def grown(
    keys: Keys, algorithm: str | None, *, now: float, ahead: float, newest: str | None
) -> Rotation | None:
    """With one key more, as `rotation.schedule`. None: the newest isn't `newest` any more.

    KeySourceError: the next key is there already, or there are as many keys as a set may have.
    """
    if newest is not None and in_order([times_of(key) for key in keys])[-1].name != newest:
        return None
    result = rotation.schedule(keys, new_key(algorithm, keys, now), now=now, ahead=ahead)
    if len(result.keys) > MAX_KEYS:
        raise KeySourceError(f"would hold {len(result.keys)} keys; {MAX_KEYS} are read at most")
    return result


def shrunk(keys: Keys, algorithm: str | None, name: str, *, now: float) -> Rotation:
    """Without this key, as `rotation.withdraw`."""
    return rotation.withdraw(keys, name, lambda: new_key(algorithm, keys, now), now=now)


def new_key(algorithm: str | None, keys: Keys, now: float) -> dict[str, Any]:
    """For the algorithm, and as large as the key that signs where that is for the same. None: like
    the key that signs, for sidecars allow its algorithm, and maybe no other.
    """
    if keys:
        signing = rotation.arranged(keys, now)[0]
        if algorithm in {None, signing.get("alg", default_algorithm(signing))}:
            return generate_like(signing)
    return generate_key(_TYPES[algorithm or "RS256"])
