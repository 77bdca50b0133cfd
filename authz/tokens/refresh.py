"""Refresh tokens: what stands in one, how one makes the next, and when one was used before.

A token is a place and two secrets: bucket and user, where its session is kept; the secret of its
family, which all refresh tokens of a session have; and its own. The store has digests only.

Each use replaces the token by its successor. Its secret is an HMAC under the secret before, of a
salt that was drawn for it and is kept beside it: so whoever still has the token before can be given
the very same successor, and nobody else can make it. That is what two tabs need that come with the
same token, and a client whose answer was lost. For it changes nothing, it can't be prolonged: a
grace ends so many seconds after the one real use, and the token before in that grace gives what it
gave then. Whoever presents it later, or any token from before, has what somebody else has used
since: one of the two is a thief (RFC 9700 section 4.14.2).

Why a secret of the family: the id of a session stands in each access token, and where it is kept
can be worked out. Without that secret anybody who has seen one could make up a refresh token that
looks like an old one, and end the session.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Self

PREFIX = "rt1_"
"""Of every refresh token, for whoever looks for leaked secrets; `1` is the form of what follows."""

BUCKET_BYTES = 2
USER_BYTES = 32
FAMILY_BYTES = 16
"""128 bits can't be guessed: each guess is a request."""
SECRET_BYTES = 32
SID_BYTES = 16
TOKEN_BYTES = BUCKET_BYTES + USER_BYTES + FAMILY_BYTES + SECRET_BYTES

TEXT_LENGTH = len(PREFIX) + -(-TOKEN_BYTES * 4 // 3)
"""Characters, all told: 114."""


@dataclass(frozen=True, slots=True)
class RefreshToken:
    bucket: int
    user: str
    """`user_digest(issuer, subject)`."""
    family: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """None: it has not the form of a refresh token. What has it may still be made up."""
        if len(text) != TEXT_LENGTH or not text.startswith(PREFIX) or not text.isascii():
            return None
        body = text.removeprefix(PREFIX)
        try:
            data = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        except ValueError:
            return None
        if len(data) != TOKEN_BYTES or base64url(data) != body:  # one text for one token
            return None
        user_at, family_at = BUCKET_BYTES, BUCKET_BYTES + USER_BYTES
        secret_at = family_at + FAMILY_BYTES
        return cls(
            int.from_bytes(data[:user_at]),
            base64url(data[user_at:family_at]),
            data[family_at:secret_at],
            data[secret_at:],
        )

    def dump(self) -> str:
        """As the client gets it."""
        place = self.bucket.to_bytes(BUCKET_BYTES) + urlsafe_b64decode(self.user + "=")
        return PREFIX + base64url(place + self.family + self.secret)

    @property
    def sid(self) -> str:
        """The id of the session: no secret, and nobody can tell the family's from it."""
        return base64url(hashlib.sha256(b"sid" + self.family).digest()[:SID_BYTES])

    @property
    def digest(self) -> str:
        """What the store has of the secret. With 256 random bits it needs no salt and no work."""
        return base64url(hashlib.sha256(self.secret).digest())

    def successor(self, salt: str) -> "RefreshToken":
        secret = hmac.digest(self.secret, salt.encode(), "sha256")
        return RefreshToken(self.bucket, self.user, self.family, secret)


@dataclass(frozen=True, slots=True)
class Family:
    """Which refresh tokens of a session are good."""

    current: str
    """Digest of the one that was given out last."""
    previous: str = ""
    """Of the one that was used for it; empty before the first use."""
    salt: str = field(default="", repr=False)
    """That made the current one out of the previous."""
    grace_until: float = 0.0
    """So long the previous one gives the current one again. Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a good refresh token gives."""

    family: Family
    token: RefreshToken
    raced: bool
    """It had been used before, within its grace."""


def rotate(
    family: Family, presented: RefreshToken, *, salt: str, now: float, grace: float, ahead: float
) -> Rotation | None:
    """None: the token was used before, and its grace is over. `presented` is of this family. `salt`
    was drawn for this; `grace` in seconds. A clock that wrote down when a grace ends may be `ahead`
    by so many seconds; what lies further in the future is no grace.
    """
    digest = presented.digest
    if hmac.compare_digest(digest, family.current):
        successor = presented.successor(salt)
        return Rotation(Family(successor.digest, digest, salt, now + grace), successor, raced=False)
    in_grace = now < family.grace_until <= now + grace + ahead
    if in_grace and hmac.compare_digest(digest, family.previous):
        return Rotation(family, presented.successor(family.salt), raced=True)
    return None


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def user_of(text: str) -> str | None:
    """The digest of the user that a refresh token names, whether or not it is genuine."""
    token = RefreshToken.read(text)
    return None if token is None else token.user
