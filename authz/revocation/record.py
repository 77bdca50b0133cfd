"""What a revocation is and the names it has in Redis.

All keys of one user share a hash slot through the tag `{B}`; `B` spreads users over the cluster.
Users and tokens appear in keys as SHA-256 digests: of fixed length, free of `:` and `{`, and
scoped by issuer, so that neither a strange `sub` nor two issuers with the same one can collide.
"""

import binascii
import hashlib
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field

ANY_USER = "-"
"""Stands for the user in the key of a token that was revoked by issuer and `jti` alone. Such a
revocation is written to every bucket, since nobody can tell whose token it is."""


@dataclass(frozen=True, slots=True)
class TokenRef:
    """All that the revocation side knows of a token."""

    user: str
    """`user_digest(issuer, subject)`, 43 characters."""
    token: str
    """`token_digest(…)`, 43 characters: what DESIGN calls TID."""
    bucket: int
    issued_at: int
    """`iat`, seconds since 1970."""
    expires_at: int
    """`exp`, seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Note:
    """Why, by whom and when something was revoked; stored beside it as JSON."""

    reason: str
    by: str
    at: float
    """Seconds since 1970."""

    def dump(self) -> str:
        return json.dumps({"reason": self.reason, "by": self.by, "at": round(self.at, 3)})


@dataclass(frozen=True, slots=True)
class Revoked:
    """The token must be refused."""

    until: float
    """Seconds since 1970 from which on it needn't be remembered: the token has expired by then."""
    not_before: float | None = None
    """Where a user's cut-off was the cause: tokens issued before this are revoked (seconds)."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Nothing is known that revokes the token, and whoever says so could know.

    One is equal to any other. The fields say how long memory may repeat it, see
    `Knowledge.recall`; with the values they have here: not at all.
    """

    token_slot: int = field(default=0, compare=False, repr=False)
    user_slot: int = field(default=0, compare=False, repr=False)
    """Which of `Versions.counters` speak of its token and its user."""
    version: int = field(default=-1, compare=False, repr=False)
    """Their sum when memory gave it out."""
    followed: bool = field(default=False, compare=False, repr=False)
    """It is so as long as the feed of its bucket is live; else the store said so, and it holds
    until `until`."""
    since: float = field(default=0.0, compare=False, repr=False)
    """When memory gave it out: not before. Seconds since 1970."""
    until: float = field(default=0.0, compare=False, repr=False)
    """From when on the store has to be asked again. Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class PossiblyRevoked:
    """It is probably revoked, and the store can't say otherwise: it doesn't answer, or has lost its
    memory.
    """


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The store could not be asked, or did not answer in time."""

    cause: str
    """A short constant phrase, fit for a metric's label: `timeout`, `connection`, `breaker_open`,
    `error`."""


Answer = Revoked | Clear | Unavailable
"""What a store says."""

Finding = Answer | PossiblyRevoked
"""What it means together with what is known here."""

CLEAR = Clear()
POSSIBLY_REVOKED = PossiblyRevoked()


def user_digest(issuer: str, subject: str) -> str:
    return digest(b"user", issuer.encode(), subject.encode())


def token_digest(issuer: str, jti: str | None, signing_input: bytes) -> str:
    """TID. Of the `jti` scoped by issuer; without one, of the JWS signing input (RFC 7515 section
    5.1: header.payload), never of the whole token, whose ECDSA signature can be rewritten into
    another valid one.
    """
    if jti is not None:
        return digest(b"jti", issuer.encode(), jti.encode())
    return digest(b"jws", signing_input)


def bucket_of(issuer: str, subject: str, buckets: int) -> int:
    return binascii.crc32(f"{issuer}|{subject}".encode()) % buckets


def blacklist_key(bucket: int, user: str, token: str) -> str:
    return f"jwt:{{{bucket}}}:blacklist:{user}:{token}"


def not_before_key(bucket: int, user: str) -> str:
    return f"jwt:{{{bucket}}}:not-before:{user}"


def sessions_key(bucket: int, user: str) -> str:
    """The user's sessions, which the token service keeps; `tokens/session.py` has the form."""
    return f"jwt:{{{bucket}}}:sessions:{user}"


def feed_key(bucket: int) -> str:
    """The stream of the bucket's revocations, and the channel on which each is published."""
    return f"jwt:{{{bucket}}}:feed"


def tip_key(bucket: int) -> str:
    """Where the bucket's stream ends: `feed/position.py` has the fields."""
    return f"jwt:{{{bucket}}}:tip"


def digest(*parts: bytes) -> str:
    """43 characters of base64url. Each part is preceded by its length, so that no two lists of
    parts read the same.
    """
    data = b"".join([len(part).to_bytes(4, "big") + part for part in parts])
    return urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
