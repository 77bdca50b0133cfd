"""Nonces of ours that nobody has to remember (RFC 9449 sections 8 and 9).

A nonce says in which stretch of time it was made, under a secret that all sidecars share: so each
of them takes those of the others, and a proof could not be made before that time.
"""

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

_NUMBER_BYTES = 6
"""Of the stretch's number: enough for stretches of a microsecond until the year 10889."""

_CODE_BYTES = 16
"""128 bits of the HMAC: who guesses has a nonce that would have been given for the asking."""

NONCE_CHARACTERS = 4 * -(-(_NUMBER_BYTES + _CODE_BYTES) // 3) - 2
"""30: of 22 bytes in base64url without padding."""


class Nonces:
    """Makes nonces, and knows them again."""

    def __init__(self, secret: bytes, lifetime: float) -> None:
        """`lifetime`: seconds for which a nonce is taken, at most; half of it at least."""
        self._secret = secret
        self._stretch = lifetime / 2

    def make(self, now: float) -> str:
        """The nonce of now: the same for all who ask in this stretch. Seconds since 1970."""
        return self._of(int(now // self._stretch))

    def runs_out(self, nonce: str, now: float) -> float | None:
        """When the nonce is no longer taken, in seconds since 1970; None: it isn't at all, for it
        is too old or none of ours. One of the next stretch is taken: clocks differ.
        """
        if len(nonce) != NONCE_CHARACTERS:
            return None
        try:
            number = int.from_bytes(urlsafe_b64decode(nonce + "==")[:_NUMBER_BYTES], "big")
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            return None
        age = int(now // self._stretch) - number
        if not -1 <= age <= 1 or not hmac.compare_digest(self._of(number), nonce):
            return None
        return (number + 2) * self._stretch

    def successor(self, nonce: str, now: float) -> str | None:
        """What should come after a nonce that is still taken; None: it is the newest."""
        newest = self.make(now)
        return None if nonce == newest else newest

    def _of(self, number: int) -> str:
        data = number.to_bytes(_NUMBER_BYTES, "big")
        code = hmac.digest(self._secret, b"authz dpop nonce" + data, hashlib.sha256)
        return urlsafe_b64encode(data + code[:_CODE_BYTES]).rstrip(b"=").decode()
