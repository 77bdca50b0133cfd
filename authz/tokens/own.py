"""Access tokens of this service, when they come back to be revoked or looked at.

As the sidecar verifies them, in the same order, but for their audience: whoever asks about a token
need not be the one it is for. Encrypted ones can't be read: only their audience has the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from authz.check.claims import identity_of, not_before, numeric_date
from authz.check.jose import BadTokenError, Jws, require_compact_form, take_apart
from authz.keys.jwk import codec
from authz.keys.keyset import KeySet
from authz.keys.signer import ACCESS_TOKEN_TYPE
from authz.revocation.record import TokenRef
from authz.settings import ALGORITHMS


@dataclass(frozen=True, slots=True)
class OwnToken:
    """Its signature is good, and its time is not over."""

    claims: Mapping[str, Any]
    ref: TokenRef

    def text(self, name: str) -> str | None:
        """A claim that is a text; None where there is none."""
        value = self.claims.get(name)
        return value if isinstance(value, str) else None


class OwnTokens:
    """Tells our tokens from all other texts."""

    def __init__(
        self, issuer: str, keys: Callable[[], KeySet], *, leeway: float, buckets: int
    ) -> None:
        """`keys`: those that verify now; `leeway` in seconds, as the sidecars have it."""
        self._issuer = issuer
        self._keys = keys
        self._leeway = leeway
        self._buckets = buckets

    def read(self, text: str, now: float) -> OwnToken | None:
        """None: it is not ours, or not any more. Never raises, for any text."""
        try:
            require_compact_form(text)
            return self._verified(take_apart(text), now)
        except BadTokenError:
            return None

    def _verified(self, jws: Jws, now: float) -> OwnToken | None:
        if jws.algorithm not in ALGORITHMS or jws.header.get("typ") != ACCESS_TOKEN_TYPE:
            return None
        if jws.claims.get("iss") != self._issuer:
            return None
        if now >= numeric_date(jws.claims, "exp") + self._leeway:
            return None
        signature = jws.signature
        for key in self._keys().candidates(jws.kid, jws.algorithm):
            if codec(jws.algorithm).verify(jws.signing_input, key.key, signature):
                break
        else:
            return None
        # ---- From here on the claims are our own words. ----
        if now < not_before(jws.claims) - self._leeway:
            return None
        identity = identity_of(jws.claims, self._issuer, jws.signing_input, self._buckets)
        return OwnToken(jws.claims, identity.ref)
