"""Is this token's signature good, and may its claims be believed?

Straight, ordered guards, the cheap ones first: nothing is decoded before the text has the right
form, nothing is paid for before issuer, algorithm and expiry allow it, and nothing that the token
says is trusted above the line marked in `_verify`. Signatures are PyJWT's business.

Header parameters that bring their own key (`jwk`, `jku`, `x5c`, `x5u`) are never read: a key comes
from the issuer's configured source or not at all.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import jwt

from authz.check.claims import confirmation_of, identity_of, not_before, numeric_date
from authz.check.envelope import (
    DecryptionKeys,
    Envelope,
    Opened,
    envelope_of,
    is_encrypted,
)
from authz.check.jose import (
    MAX_TOKEN_BYTES,
    BadTokenError,
    Jws,
    require_compact_form,
    take_apart,
)
from authz.check.token import Confirmation, Identity
from authz.check.verdict import Reason, Verdict, allow, deny
from authz.keys.keyset import KeySet, VerificationKey
from authz.revocation.record import CLEAR, Clear
from authz.settings import ALGORITHMS, IssuerSettings

if TYPE_CHECKING:
    from authz.check.jwe import Opener


class IssuerKeys(Protocol):
    """One issuer's keys as they are now: `authz.keys.ring.KeyRing`."""

    @property
    def keys(self) -> KeySet | None:
        """None: nothing was ever obtained."""
        ...

    def refetch(self) -> Awaitable[None] | None:
        """Ask the source for newer keys; None where that is not possible or not due."""
        ...


_SIGNATURES = {name: jwt.get_algorithm_by_name(name) for name in ALGORITHMS}


class Refused(NamedTuple):
    """The token is no good."""

    reason: Reason
    detail: str = ""
    """Which claim; constant words, nothing of the token's."""
    ring: IssuerKeys | None = None
    """With KEY_UNKNOWN and KEYS_UNAVAILABLE: the issuer's ring, which may be able to fetch."""


@dataclass(slots=True, eq=False)
class Verified:
    """A token whose signature and claims were good, with what can make that end, and what has been
    worked out about it, so that no check has to do it again.
    """

    identity: Identity
    usable_from: float
    """The later of `nbf` and `iat`, less the leeway. Seconds since 1970."""
    usable_until: float
    """`exp` and the leeway. Seconds since 1970."""
    key: VerificationKey
    key_set: KeySet
    """The set in which `key` was last seen."""
    ring: IssuerKeys
    allowed: Verdict
    """Its verdict where nothing speaks against it."""
    envelope: Envelope | None = None
    """What it was encrypted in; None: it came as it was signed."""
    confirmation: Confirmation | None = None
    """Whom it is bound to; None: whoever holds it may use it."""
    clear: Clear = CLEAR
    """What was last said by the revocation side, where that was not `Revoked`."""
    _revoked: Verdict | None = None

    @property
    def revoked(self) -> Verdict:
        """Its verdict once it is revoked."""
        if self._revoked is None:
            self._revoked = deny(Reason.TOKEN_REVOKED, identity=self.identity)
        return self._revoked


class _Trust(NamedTuple):
    settings: IssuerSettings
    ring: IssuerKeys
    audiences: frozenset[str]
    algorithms: frozenset[str]
    decryption: DecryptionKeys | None
    """None: its tokens are not encrypted."""


class Verifier:
    """Verifies tokens of the configured issuers and remembers those that were good."""

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        rings: Mapping[str, IssuerKeys],
        *,
        leeway: float,
        buckets: int,
        cache_size: int,
        decryption: Mapping[str, DecryptionKeys] = MappingProxyType({}),
    ) -> None:
        """`rings` by issuer, and `decryption` for those who encrypt; `leeway` in seconds;
        `cache_size` in tokens.
        """
        self._trusted = {
            issuer.issuer: _Trust(
                issuer,
                rings[issuer.issuer],
                frozenset(issuer.audiences),
                frozenset(issuer.algorithms),
                decryption.get(issuer.issuer),
            )
            for issuer in issuers
        }
        self._opener = _opener(decryption) if decryption else None
        self._leeway = leeway
        self._buckets = buckets
        # By the SHA-256 of the whole token, the one used last at the end. A `cachetools.LRUCache`
        # has a second dictionary, and Python code on the way of a hit.
        self._known: OrderedDict[bytes, Verified] = OrderedDict()
        self._capacity = cache_size
        self.hits = 0
        self.misses = 0

    @property
    def size(self) -> int:
        """Tokens remembered."""
        return len(self._known)

    def verify(self, token: str, now: float) -> Verified | Refused:
        """Judge a token. `now` in seconds since 1970. Never raises for any text."""
        if len(token) > MAX_TOKEN_BYTES:
            return Refused(Reason.TOKEN_TOO_LARGE)
        if not token.isascii():
            return Refused(Reason.TOKEN_MALFORMED)
        # Of the whole text: one that differs in its signature must miss. No text of another form
        # than the compact one was ever remembered, so that the form of a known one is good.
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if (
            known is None
            or not (known.ring.keys is known.key_set or _key_still_stands(known))
            or not (known.envelope is None or known.envelope.still_opens())
        ):
            return self._verify_new(token, digest, now)
        self._known.move_to_end(digest)
        self.hits += 1
        return known if known.usable_from <= now < known.usable_until else _untimely(known, now)

    def _verify_new(self, token: str, digest: bytes, now: float) -> Verified | Refused:
        self._known.pop(digest, None)
        opened = None
        try:
            if self._opener is not None and is_encrypted(token):
                opened = self._opener.open(token)
                token = opened.token
            require_compact_form(token)
            self.misses += 1
            found = self._verify(take_apart(token), now, opened)
        except BadTokenError as bad:
            return Refused(bad.reason, bad.detail)
        if isinstance(found, Refused):
            return found
        if len(self._known) >= self._capacity:
            self._known.popitem(last=False)
        self._known[digest] = found
        return found if found.usable_from <= now < found.usable_until else _untimely(found, now)

    def _verify(self, jws: Jws, now: float, opened: Opened | None) -> Verified | Refused:
        signatures = _SIGNATURES.get(jws.algorithm)
        if signatures is None:  # `none` in any spelling, and all that we don't implement
            return Refused(Reason.ALGORITHM_NOT_ALLOWED)
        issuer = jws.claims.get("iss")
        trust = self._trusted.get(issuer) if isinstance(issuer, str) else None
        if trust is None:
            return Refused(Reason.ISSUER_UNKNOWN)
        envelope = envelope_of(trust.settings.decryption, trust.decryption, opened)
        if isinstance(envelope, Reason):
            return Refused(envelope)
        if jws.algorithm not in trust.algorithms:
            return Refused(Reason.ALGORITHM_NOT_ALLOWED)
        expires_at = numeric_date(jws.claims, "exp")
        if now >= expires_at + self._leeway:
            return Refused(Reason.TOKEN_EXPIRED)
        key_set = trust.ring.keys
        if key_set is None:
            return Refused(Reason.KEYS_UNAVAILABLE, ring=trust.ring)
        candidates = key_set.candidates(jws.kid, jws.algorithm)
        if not candidates:
            return Refused(Reason.KEY_UNKNOWN, ring=trust.ring)
        signature = jws.signature
        for key in candidates:
            if signatures.verify(jws.signing_input, key.key, signature):
                break
        else:
            return Refused(Reason.SIGNATURE_INVALID)
        # ---- From here on the claims are the issuer's words. ----
        identity = identity_of(jws.claims, trust.settings.issuer, jws.signing_input, self._buckets)
        if expires_at - identity.ref.issued_at > trust.settings.max_lifetime:
            return Refused(Reason.LIFETIME_TOO_LONG)
        if trust.audiences.isdisjoint(identity.audiences):
            return Refused(Reason.AUDIENCE_MISMATCH)
        return Verified(
            identity=identity,
            usable_from=not_before(jws.claims) - self._leeway,
            usable_until=expires_at + self._leeway,
            key=key,
            key_set=key_set,
            ring=trust.ring,
            allowed=allow(identity),
            envelope=envelope,
            confirmation=confirmation_of(jws.claims),
        )


def _opener(decryption: Mapping[str, DecryptionKeys]) -> "Opener":
    """Imported here: half a megabyte that only those with encrypted tokens need."""
    from authz.check.jwe import Opener

    return Opener(decryption)


def _key_still_stands(known: Verified) -> bool:
    """Whether the key that verified this token is in the set that its issuer has now. A key set
    that was replaced costs each token one set look-up, not a signature.
    """
    current = known.ring.keys
    if current is None or known.key not in current:
        return False
    known.key_set = current
    return True


def _untimely(known: Verified, now: float) -> Refused:
    is_over = now >= known.usable_until
    return Refused(Reason.TOKEN_EXPIRED if is_over else Reason.TOKEN_NOT_YET_VALID)
