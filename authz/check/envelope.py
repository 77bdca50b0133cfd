"""What a token may come in, and for how long what was opened may be taken as it is.

Apart from the opening itself (`authz.check.jwe`), which brings a library that few sidecars need.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from authz.check.verdict import Reason
from authz.keys.keyset import KeySet, VerificationKey
from authz.settings import DecryptionSettings

_ENCRYPTED_DOTS = 4
"""In a JWE of compact form (RFC 7516 section 7.1); a JWS has two."""


class DecryptionKeys(Protocol):
    """The keys that open one issuer's tokens, as they are now: `authz.keys.ring.KeyRing`."""

    @property
    def keys(self) -> KeySet | None:
        """None: nothing was ever obtained."""
        ...


class Opened(NamedTuple):
    """What was found inside, and by which key it was opened."""

    token: str
    key: VerificationKey


@dataclass(slots=True, eq=False)
class Envelope:
    """By which key a token was opened. It may be taken out of its ring."""

    key: VerificationKey
    key_set: KeySet
    """The set in which `key` was last seen."""
    ring: DecryptionKeys

    def still_opens(self) -> bool:
        current = self.ring.keys
        if current is self.key_set:
            return True
        if current is None or self.key not in current:
            return False
        self.key_set = current
        return True


def is_encrypted(token: str) -> bool:
    """Whether a text has as many segments as an encrypted token."""
    return token.count(".") == _ENCRYPTED_DOTS


def envelope_of(
    settings: DecryptionSettings | None, ring: DecryptionKeys | None, opened: Opened | None
) -> Envelope | Reason | None:
    """What an issuer's token came in, None for one in the clear; or why it may not have: in the
    clear where it must be encrypted, or encrypted to a key that isn't this issuer's.
    """
    if opened is None:
        wanted = settings is not None and settings.required
        return Reason.ENCRYPTION_REQUIRED if wanted else None
    keys = None if ring is None else ring.keys
    if ring is None or keys is None or opened.key not in keys:
        return Reason.ENCRYPTION_NOT_ALLOWED
    return Envelope(opened.key, keys, ring)
