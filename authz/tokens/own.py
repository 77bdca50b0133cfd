"""Access tokens of this service, when they come back to be revoked or looked at.

As the sidecar verifies them, in the same order, but for their audience: whoever asks about a token
need not be the one it is for. One that is encrypted can be read where this service has been given
the key of its audience, and nowhere else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from authz.check.claims import identity_of, not_before, numeric_date
from authz.check.envelope import is_encrypted
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
        self,
        issuer: str,
        keys: Callable[[], KeySet],
        *,
        leeway: float,
        buckets: int,
        decrypt: Callable[[str], str] | None = None,
    ) -> None:
        """`keys`: those that verify now; `leeway` in seconds, as the sidecars have it. `decrypt`:
        the token in an encrypted one, or BadTokenError; None: there is no key for any.
        """
        self._issuer = issuer
        self._keys = keys
        self._leeway = leeway
        self._buckets = buckets
        self._decrypt = decrypt

    def opened(self, text: str) -> str | None:
        """The signed token in an encrypted one, and any other text as it is. None: it is encrypted,
        and can't be opened here. It may be a live token of ours all the same.
        """
        if not is_encrypted(text):
            return text
        if self._decrypt is None:
            return None
        try:
            return self._decrypt(text)
        except BadTokenError:
            return None

    def read(self, text: str, now: float) -> OwnToken | None:
        """None: it is not ours, not any more, or can't be opened. For no text an error of its
        own; SigningUnavailableError: no key was ever known, so nobody can tell.
        """
        inside = self.opened(text)
        if inside is None:
            return None
        try:
            require_compact_form(inside)
            return self._verified(take_apart(inside), now)
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
