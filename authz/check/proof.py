"""A DPoP proof: whoever sends this request has the key (RFC 9449 section 4).

Ordered guards as for tokens, the cheap ones first. The proof brings its own key, which means
nothing by itself: it must be the one that the token is bound to, by its thumbprint.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Collection
from typing import Any, NamedTuple

import jwt
from cachetools import LRUCache

from authz.check.claims import is_header_text, numeric_date
from authz.check.jose import BadTokenError, Jws, require_compact_form, take_apart
from authz.check.nonce import Nonces
from authz.check.url import normal_url
from authz.check.verdict import PROOF_ALGORITHMS, Reason
from authz.keys.errors import KeySourceError
from authz.keys.jwk import PRIVATE_MEMBERS, read_key
from authz.keys.keyset import VerificationKey
from authz.revocation.record import digest

MAX_PROOF_BYTES = 4096
"""Bytes of a proof's text: an RSA key of 4096 bits in its header takes 950, its signature 683, a
URL of 1,000 characters 1,334."""

KEYS_REMEMBERED = 2048
"""Keys of proofs that were good, by the header that brought them. A client sends the same header
each time, and reading its key takes 10 to 20 µs. 3 KB each, 6 MB in all."""

_TYPE = "dpop+jwt"
_SIGNATURES = {name: jwt.get_algorithm_by_name(name) for name in PROOF_ALGORITHMS}


class Expected(NamedTuple):
    """What a proof has to be made for."""

    method: str
    urls: Collection[str]
    """Of the request, as `normal_url` writes it; one of them."""
    access_token: str | None
    """The text of the token that it comes with; None where there is none, as for those who ask for
    one."""
    jkt: str | None
    """The thumbprint of the key that must have signed it; None: any key may."""


class Proof(NamedTuple):
    """A proof that was good, but may have been used before."""

    jkt: str
    """The thumbprint of its key (RFC 7638, SHA-256)."""
    name: str
    """What it is remembered by: 43 characters."""
    until: float
    """When it is too old in any case. Seconds since 1970."""
    next_nonce: str | None
    """What the client's next proofs should have in them, since the nonce of this one is ageing."""


class BadProof(NamedTuple):
    """The proof is no good."""

    reason: Reason
    detail: str = ""
    """Which part; constant words, nothing of the proof's."""


class ProofVerifier:
    """Verifies proofs, and remembers the keys of good ones."""

    def __init__(self, *, max_age: float, leeway: float, nonces: Nonces | None) -> None:
        """`max_age`: seconds since `iat`. `nonces`: None where none is asked for; else a proof must
        have one, whose time counts instead of its `iat`.
        """
        self._max_age = max_age
        self._leeway = leeway
        self._nonces = nonces
        self._known: LRUCache[str, VerificationKey] = LRUCache(KEYS_REMEMBERED)

    def verify(self, text: str, expected: Expected, now: float) -> Proof | BadProof:
        """Judge a proof. `now` in seconds since 1970. Never raises for any text.

        Whoever accepts it must then use up `name`, or it works again until `until`.
        """
        if len(text) > MAX_PROOF_BYTES:
            return BadProof(Reason.PROOF_INVALID, "larger than 4096 bytes")
        try:
            require_compact_form(text)
            return self._verify(text, take_apart(text), expected, now)
        except BadTokenError as bad:
            return BadProof(Reason.PROOF_INVALID, bad.detail or "not a signed JWT")

    def fresh_nonce(self, now: float) -> str | None:
        """What the next proof has to have in it; None: nothing."""
        return None if self._nonces is None else self._nonces.make(now)

    def _verify(self, text: str, jws: Jws, expected: Expected, now: float) -> Proof | BadProof:
        header_text = text.partition(".")[0]
        key = self._known.get(header_text)
        if key is None:
            key = _key_of(jws)
        if expected.jkt is not None and key.thumbprint != expected.jkt:
            return BadProof(Reason.PROOF_INVALID, "key")  # section 4.3: the last of its checks
        jti = jws.claims.get("jti")
        if not isinstance(jti, str) or not is_header_text(jti):  # no lone surrogate: it is encoded
            return BadProof(Reason.PROOF_INVALID, "jti")
        if jws.claims.get("htm") != expected.method:  # section 4.3: case matters
            return BadProof(Reason.PROOF_INVALID, "htm")
        htu = jws.claims.get("htu")
        if not isinstance(htu, str) or normal_url(htu) not in expected.urls:
            return BadProof(Reason.PROOF_INVALID, "htu")
        token = expected.access_token
        if token is not None and jws.claims.get("ath") != _hash_of(token):
            return BadProof(Reason.PROOF_INVALID, "ath")
        until = self._runs_out(jws.claims, now)
        if isinstance(until, BadProof):
            return until
        if not _SIGNATURES[jws.algorithm].verify(jws.signing_input, key.key, jws.signature):
            return BadProof(Reason.PROOF_INVALID, "signature")
        self._known[header_text] = key
        nonces, name = self._nonces, digest(b"dpop", key.thumbprint.encode(), jti.encode())
        successor = None if nonces is None else nonces.successor(jws.claims["nonce"], now)
        return Proof(key.thumbprint, name, until, successor)

    def _runs_out(self, claims: dict[str, Any], now: float) -> float | BadProof:
        """When the proof is too old; BadProof where it is, or lies ahead."""
        issued_at = numeric_date(claims, "iat")
        if self._nonces is not None:
            nonce = claims.get("nonce")
            until = self._nonces.runs_out(nonce, now) if isinstance(nonce, str) else None
            return BadProof(Reason.NONCE_REQUIRED) if until is None else until
        until = issued_at + self._max_age + self._leeway
        if not now - self._max_age - self._leeway < issued_at <= now + self._leeway:
            return BadProof(Reason.PROOF_INVALID, "iat")
        return until


def _key_of(jws: Jws) -> VerificationKey:
    """The key that the header brings. BadTokenError: the header is not one of a proof."""
    if jws.header.get("typ") != _TYPE:
        raise BadTokenError(Reason.PROOF_INVALID, "typ")
    if jws.algorithm not in _SIGNATURES:
        raise BadTokenError(Reason.PROOF_INVALID, "alg")
    jwk = jws.header.get("jwk")
    if not isinstance(jwk, dict) or not PRIVATE_MEMBERS.isdisjoint(jwk):
        raise BadTokenError(Reason.PROOF_INVALID, "jwk")
    try:
        return read_key(jwk, {jws.algorithm})
    except KeySourceError:
        raise BadTokenError(Reason.PROOF_INVALID, "jwk") from None


def _hash_of(access_token: str) -> str:
    """`ath` (section 4.2)."""
    hashed = hashlib.sha256(access_token.encode()).digest()
    return urlsafe_b64encode(hashed).rstrip(b"=").decode()
