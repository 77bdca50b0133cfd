"""One revocation as the store keeps it: a key, and an entry in the stream of its bucket.

What is written, read from a stream, pushed to a subscriber or found by its key has this one form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from authz.revocation.record import ANY_USER, blacklist_key, not_before_key, sessions_key
from authz.revocation.store import TokenRevocation, UserRevocation
from authz.settings import MAX_LEEWAY

LATEST = 253_402_300_800_000
"""Milliseconds since 1970: the year 10000. What is stated beyond is taken as this, so that whoever
reads it can count on, and the revocation counts all the same."""

TOKEN: Literal["token"] = "token"  # noqa: S105  a word of the format, no secret
USER: Literal["user"] = "user"


class EntryError(Exception):
    """What stands in the store is no revocation of ours. The text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A token or a user that is revoked."""

    kind: Literal["token", "user"]
    user: str
    """The user's digest, or `ANY_USER`."""
    token: str
    """TID; empty where all of the user's tokens are meant."""
    before: int
    """The cut-off: tokens issued before are revoked. Milliseconds since 1970; 0 for a token."""
    expires: int
    """When the store may forget it. Milliseconds since 1970."""
    note: str
    """`Note` as JSON; empty in a push, where nobody needs it."""

    @classmethod
    def of_token(cls, revocation: TokenRevocation) -> Self:
        expires = round((revocation.expires_at + MAX_LEEWAY) * 1000)
        user = revocation.user or ANY_USER
        return cls(TOKEN, user, revocation.token, 0, expires, revocation.note.dump())

    @classmethod
    def of_user(cls, revocation: UserRevocation) -> Self:
        expires = (revocation.not_before + revocation.max_lifetime + MAX_LEEWAY) * 1000
        cut = math.ceil(revocation.not_before * 1000)
        return cls(USER, revocation.user, "", cut, round(expires), revocation.note.dump())

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Of the fields of a stream entry, or of a push. EntryError: they make no revocation."""
        try:
            kind, user, token = fields["kind"], fields["user"], fields["token"]
            expires = _milliseconds(fields["expires"])
            before = _milliseconds(fields["before"]) if kind == USER else 0
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EntryError(f"not an entry of a feed: {error!r}") from None
        if not (isinstance(user, str) and isinstance(token, str)):
            raise EntryError("not an entry of a feed: who or what is revoked is no text")
        if kind not in (TOKEN, USER) or not user or (kind == TOKEN) is not bool(token):
            raise EntryError(f"not an entry of a feed: kind {kind!r}")
        return cls(kind, user, token, before, expires, fields.get("note") or "")

    def key(self, bucket: int) -> str:
        """Where it stands in the store."""
        if self.kind == TOKEN:
            return blacklist_key(bucket, self.user, self.token)
        return not_before_key(bucket, self.user)

    def keys(self, bucket: int) -> Sequence[str]:
        """What the scripts write of it: a cut-off ends the user's sessions as well."""
        if self.kind == TOKEN:
            return (self.key(bucket),)
        return (self.key(bucket), sessions_key(bucket, self.user))

    def arguments(self) -> Sequence[str]:
        """Of `revoke.lua`, six."""
        cut = str(self.before) if self.kind == USER else ""
        return (self.kind, self.note, str(self.expires), cut, self.user, self.token)


def _milliseconds(value: Any) -> int:
    return max(0, min(int(value), LATEST))
