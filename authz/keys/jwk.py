"""JWK Sets (RFC 7517): bytes in, verification keys out.

A key may verify only what its type and curve allow, never what a token asks for: RSA goes with
RS*/PS*, P-256 with ES256, P-384 with ES384, Ed25519 with EdDSA. That, and the refusal of `oct` keys
here, is what makes "HS256 signed with the RSA public key" impossible rather than merely detected.
"""

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from authz.keys.errors import KeySourceError
from authz.keys.keyset import KeySet, VerificationKey

MAX_DOCUMENT_BYTES = 512 * 1024
"""Bytes of one JWK Set or discovery document. A set of 64 RSA-4096 keys, each with a certificate
chain of three, has about 400 KiB; sets of large public issuers have 2 to 20."""

MAX_KEYS = 128
"""Keys in one set, of any kind. Large public issuers publish 2 to 10."""

MAX_KID_CHARACTERS = 256
"""A `kid` is usually a thumbprint (43 characters), a UUID (36) or a certificate's digest (64)."""

MIN_RSA_BITS = 2048
"""RFC 7518 section 3.3: a key of size 2048 bits or larger MUST be used."""

MAX_RSA_BITS = 8192
"""An 8192-bit verification takes about a millisecond. Beyond, one key could occupy the process."""


MAX_MEMBER_CHARACTERS = 2 * MAX_RSA_BITS // 6
"""Of a base64url member: the largest modulus and, for the message that says its size, twice that.
Numbers of half a megabyte are not worth their arithmetic."""

MAX_EXPONENT_CHARACTERS = 256 // 6 + 1
"""FIPS 186-5 appendix A.1.1: e < 2^256. A longer one makes each verification
as slow as a signature."""


class _Kind(NamedTuple):
    """What a (kty, crv) pair is good for."""

    algorithms: frozenset[str]
    implementation: str
    """The algorithm whose PyJWT class reads and writes such a JWK."""
    public: tuple[str, ...]
    """The members of the public key, those of the thumbprint (RFC 7638 section 3.2)."""


_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_KINDS: dict[tuple[str, str | None], _Kind] = {
    ("RSA", None): _Kind(_RSA, "RS256", ("e", "kty", "n")),
    ("EC", "P-256"): _Kind(frozenset({"ES256"}), "ES256", ("crv", "kty", "x", "y")),
    ("EC", "P-384"): _Kind(frozenset({"ES384"}), "ES384", ("crv", "kty", "x", "y")),
    ("OKP", "Ed25519"): _Kind(frozenset({"EdDSA"}), "EdDSA", ("crv", "kty", "x")),
}
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})  # RFC 7518 section 6
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_SAME_SIGNATURE = {"Ed25519": "EdDSA"}  # RFC 9864 section 2.2 renames EdDSA with this curve


class ParsedKeys(NamedTuple):
    """A JWK Set as far as it is of use."""

    keys: KeySet
    warnings: tuple[str, ...]
    """One line for each key that was left out, or that says more than it should."""


class BadKeyError(KeySourceError):
    """A key that can't be used, and whoever wrote it should know."""


class ForeignKeyError(KeySourceError):
    """A sound key that is for something else."""


def parse_jwks(data: bytes, algorithms: Collection[str], *, strict: bool) -> ParsedKeys:
    """Read a JWK Set for an issuer with these algorithms.

    `strict` (files, which the operator owns): a key that is unreadable, weak, of an unknown type or
    that shares its `kid` with another raises KeySourceError. Otherwise (URLs, which somebody else
    owns; RFC 7517 section 5 says to ignore what one doesn't understand) it is left out with a
    warning. Either way keys for other uses and other algorithms are left out with a warning, and a
    document that is no JWK Set raises KeySourceError. The result may be empty.
    """
    entries = read_entries(data)
    warnings: list[str] = []
    by_kid: dict[str | None, list[VerificationKey]] = {}
    for position, entry in enumerate(entries):
        label = key_label(entry, position)
        try:
            key = read_key(entry, algorithms)
        except ForeignKeyError as foreign:
            warnings.append(f"{label} is left out: {foreign}")
            continue
        except BadKeyError as bad:
            if strict:
                raise KeySourceError(f"{label}: {bad}") from None
            warnings.append(f"{label} is left out: {bad}")
            continue
        if not PRIVATE_MEMBERS.isdisjoint(entry):
            warnings.append(
                f"{label} comes with its private part; publish what `authz keys jwks` prints"
            )
        by_kid.setdefault(key.kid, []).append(key)
    usable: list[VerificationKey] = []
    for kid, keys in by_kid.items():
        merged = _merge(keys)
        if kid is not None and len(merged) > 1:
            # RFC 7517 section 4.5 asks for distinct values. Guessing would mean that which tokens
            # are good depends on the order of the document.
            problem = f"kid {kid!r} stands for {len(merged)} different keys"
            if strict:
                raise KeySourceError(problem)
            warnings.append(f"{problem}; all of them are left out")
            continue
        usable.extend(merged)
    return ParsedKeys(KeySet(usable), tuple(warnings))


def read_json_object(data: bytes) -> dict[str, Any]:
    """A document as a JSON object. KeySourceError for anything else."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise KeySourceError(f"is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise KeySourceError(f"is not JSON: {error.msg} ({where})") from None
    except UnicodeDecodeError:
        raise KeySourceError("is not JSON: not UTF-8") from None
    except (ValueError, RecursionError):
        raise KeySourceError("is not JSON that can be read") from None
    if not isinstance(document, dict):
        raise KeySourceError("is not a JSON object")
    return document


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """RFC 7638 section 3, SHA-256: 43 characters. `jwk` in the form that this package writes.

    BadKeyError: a key type that this package doesn't use.
    """
    members = _kind(jwk).public
    canonical = json.dumps(
        {name: jwk[name] for name in members}, separators=(",", ":"), sort_keys=True
    )
    return urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()


def default_algorithm(jwk: Mapping[str, Any]) -> str:
    """What a key signs with that has no `alg`. BadKeyError as `thumbprint`."""
    return _kind(jwk).implementation


def codec(algorithm: str) -> Any:
    """PyJWT's class for the algorithm. Of its methods `from_jwk` and `to_jwk` are typed too
    differently from one class to the next for a common type.
    """
    return jwt.get_algorithm_by_name(algorithm)


def public_part(jwk: Mapping[str, Any]) -> dict[str, Any]:
    """What may be published of a JWK of this package: a list of what is allowed, so that no private
    member, present or future, can slip through. BadKeyError as `thumbprint`.
    """
    allowed = (*_kind(jwk).public, "kid", "use", "alg")
    return {name: jwk[name] for name in allowed if name in jwk}


def read_entries(data: bytes) -> list[Any]:
    """The members of `keys`, unexamined. KeySourceError: the document is no JWK Set."""
    document = read_json_object(data)
    entries = document.get("keys")
    if entries is None and "kty" in document:
        raise KeySourceError('is a single key; write it as {"keys": [...]}')
    if not isinstance(entries, list):
        raise KeySourceError('is not a JWK Set: "keys" is not a list')
    if len(entries) > MAX_KEYS:
        raise KeySourceError(f"holds {len(entries)} keys; {MAX_KEYS} at most are read")
    return entries


def key_label(entry: object, position: int) -> str:
    """How a person finds the key in its document."""
    kid = entry.get("kid") if isinstance(entry, dict) else None
    if isinstance(kid, str) and len(kid) <= MAX_KID_CHARACTERS:
        return f"key {kid!r}"
    return f"key number {position + 1}"


def read_key(entry: object, allowed: Collection[str]) -> VerificationKey:
    """The public key of one JWK, for those of the `allowed` algorithms that go with it.

    BadKeyError, ForeignKeyError: see there.
    """
    if not isinstance(entry, dict):
        raise BadKeyError("is not a JSON object")
    kid = entry.get("kid")
    # Printable: it will stand in logs and in /status.
    if not (kid is None or (isinstance(kid, str) and kid.isprintable())):
        raise BadKeyError("kid is not printable text")
    if kid is not None and len(kid) > MAX_KID_CHARACTERS:
        raise BadKeyError(f"kid is longer than {MAX_KID_CHARACTERS} characters")
    _check_use(entry)
    kind = _kind(entry)
    algorithms = _narrow(kind, entry).intersection(allowed)
    if not algorithms:
        raise ForeignKeyError("no algorithm of this issuer goes with it")
    public = {"kty": entry["kty"]}
    for name in kind.public:
        public[name] = entry[name] if name in {"kty", "crv"} else _base64url(entry, name)
    implementation = codec(kind.implementation)
    try:
        key = implementation.from_jwk(public)
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError):
        raise BadKeyError("is not a valid public key") from None
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise BadKeyError(
            f"is an RSA key of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
        )
    # Through the key and back: leading zeros and the like don't make another thumbprint.
    canonical = thumbprint(implementation.to_jwk(key, as_dict=True))
    return VerificationKey(kid, algorithms, canonical, key)


def private_key(jwk: Mapping[str, Any], expected: str) -> object:
    """The private key of a JWK whose public half was found good and has the thumbprint `expected`.
    KeySourceError: it has none, or that of another.
    """
    implementation = codec(default_algorithm(jwk))
    try:
        key = implementation.from_jwk(dict(jwk))
        own = thumbprint(implementation.to_jwk(key.public_key(), as_dict=True))
    except AttributeError:
        raise KeySourceError("has no private part; name the private key file") from None
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        raise KeySourceError("is not a valid private key") from None
    if own != expected:  # not every version of PyJWT looks at an Ed25519 key's `x`
        raise KeySourceError("has a private part that belongs to another public key")
    return key


def _kind(entry: Mapping[str, Any]) -> _Kind:
    kty, curve = entry.get("kty"), entry.get("crv")
    if kty == "oct":
        raise BadKeyError("is a secret; HMAC secrets come from secret_file or secret_env only")
    if not isinstance(kty, str):
        raise BadKeyError("kty is missing or not text")
    if kty == "RSA":
        return _KINDS["RSA", None]
    if kty not in {"EC", "OKP"}:
        raise BadKeyError(f"kty {kty[:32]!r} is not supported; use RSA, EC or OKP")
    kind = _KINDS.get((kty, curve)) if isinstance(curve, str) else None
    if kind is None:
        known = ", ".join(crv for known_kty, crv in _KINDS if known_kty == kty and crv)
        shown = repr(curve[:32]) if isinstance(curve, str) else "that is missing"
        raise BadKeyError(f"curve {shown} is not supported; with kty {kty} use {known}")
    return kind


def _check_use(entry: dict[str, Any]) -> None:
    """RFC 7517 sections 4.2 and 4.3: a key that says what it is for is for nothing else."""
    use, operations = entry.get("use"), entry.get("key_ops")
    if not isinstance(use, str | None):
        raise BadKeyError("use is not text")
    if use not in {None, "sig"}:
        raise ForeignKeyError("its use is not sig")
    if operations is None:
        return
    if not isinstance(operations, list) or not all(isinstance(item, str) for item in operations):
        raise BadKeyError("key_ops is not a list of texts")
    if not {"verify", "sign"} & set(operations):
        raise ForeignKeyError("its key_ops name neither verify nor sign")


def _narrow(kind: _Kind, entry: dict[str, Any]) -> frozenset[str]:
    """RFC 7517 section 4.4: a JWK with `alg` is for that algorithm."""
    named = entry.get("alg")
    if named is None:
        return kind.algorithms
    if not isinstance(named, str):
        raise BadKeyError("alg is not text")
    named = _SAME_SIGNATURE.get(named, named)
    if named in kind.algorithms:
        return frozenset({named})
    if any(named in other.algorithms for other in _KINDS.values()):
        raise BadKeyError(f"alg {named} does not go with this type of key")
    raise ForeignKeyError("its alg is not a signature algorithm that authz verifies")


def _base64url(entry: dict[str, Any], name: str) -> str:
    """A member that must be base64url without padding (RFC 7515 section 2)."""
    value = entry.get(name)
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        raise BadKeyError(f"{name} is missing or not base64url")
    limit = MAX_EXPONENT_CHARACTERS if name == "e" else MAX_MEMBER_CHARACTERS
    if len(value) > limit:
        raise BadKeyError(f"{name} is too large")
    try:
        urlsafe_b64decode(value + "=" * (-len(value) % 4))
    except ValueError:  # binascii.Error: a length that no bytes have
        raise BadKeyError(f"{name} is not base64url") from None
    return value


def _merge(keys: list[VerificationKey]) -> list[VerificationKey]:
    """One key for each thumbprint: the same key listed twice, say once for RS256 and once for
    PS256, is one key for both.
    """
    merged: dict[str, VerificationKey] = {}
    for key in keys:
        known = merged.get(key.thumbprint, key)
        merged[key.thumbprint] = VerificationKey(
            key.kid, known.algorithms | key.algorithms, key.thumbprint, key.key
        )
    return list(merged.values())


def _no_constant(text: str) -> NoReturn:
    """NaN and Infinity are not JSON."""
    raise ValueError(text)
