"""What is asked of the token service, and what it gives: the words of OAuth, no HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal


class LoggedOutError(Exception):
    """What vouches for the log-in is older than the user's latest log-out everywhere."""


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A token that was granted and is to be issued. Whoever makes one has authenticated the client
    and checked that it may have these scopes and audiences.
    """

    subject: str
    """`sub`: the user; for `client_credentials` the client itself (RFC 9068 section 2.2)."""
    client_id: str
    scopes: tuple[str, ...]
    audiences: tuple[str, ...]
    """At least one."""
    session: bool = True
    """A session of a user: listed, counted against `tokens.max_sessions`, ended by log-out. False
    for what a client obtains for itself: then nothing is written to the store.
    """
    refreshable: bool = False
    """Give a refresh token as well. Needs `session`."""
    lifetime: float | None = None
    """Of the access token, in seconds; `tokens.access_lifetime` where it is None, and never more
    than a day."""
    auth_time: int | None = None
    """When the user was authenticated, where that is known: seconds since 1970."""
    vouched_at: int | None = None
    """When what vouches for this log-in was issued (its `iat`), where somebody else's word does:
    seconds since 1970. A log-out everywhere since then makes it worthless."""
    device: str = ""
    """What the user knows the device by, such as a User-Agent. Cut to `MAX_ABOUT`."""
    address: str = ""
    """Where the request came from. Cut to `MAX_ABOUT`."""
    cnf: Mapping[str, Any] | None = None
    """Whose possession the token is bound to (RFC 7800): `{"jkt": …}` of RFC 9449 section 6.1,
    `{"x5t#S256": …}` of RFC 8705 section 3.1."""
    bind_refresh: bool = False
    """The refresh token is bound to the same `cnf`: for public clients (RFC 9449 section 5). One
    that authenticates itself may come with another key."""


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """A refresh token that was presented. The client has been authenticated, or is a public one."""

    token: str = field(repr=False)
    client_id: str
    scopes: tuple[str, ...] | None = None
    """What the new access token is narrowed to (RFC 6749 section 6); None: all that was granted."""
    cnf: Mapping[str, Any] | None = None
    """What the client proved to possess with this request."""
    address: str = ""
    """Where the request came from; the session shows the latest."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What a client is given (RFC 6749 section 5.1). It is in the store as far as it has to be, and
    replicated as configured.
    """

    access_token: str = field(repr=False)
    token_type: Literal["Bearer", "DPoP"]
    expires_in: int
    """Seconds, of the access token."""
    scope: str
    jti: str
    sid: str | None
    """Of the session; None where there is none."""
    refresh_token: str | None = field(default=None, repr=False)


class Refusal(Enum):
    """Why a refresh token gets nothing. The value is the `error` of RFC 6749 section 5.2."""

    UNKNOWN = ("invalid_grant", "no such refresh token: it is malformed, expired or was revoked")
    REUSED = (
        "invalid_grant",
        "this refresh token was used before; its session and all its tokens are revoked",
    )
    OTHER_CLIENT = ("invalid_grant", "this refresh token was issued to another client")
    UNPROVEN = (
        "invalid_grant",
        "this refresh token is bound to a key that the request does not prove",
    )
    UNSHARED = (
        "invalid_grant",
        "its audiences can no longer share a token; begin a session for each",
    )
    SCOPE_TOO_WIDE = ("invalid_scope", "the scope exceeds what was granted")

    def __init__(self, error: str, description: str) -> None:
        self.error = error
        self.description = description


@dataclass(frozen=True, slots=True)
class RefreshRefused:
    """An expected end of a refresh: a value, not an exception."""

    refusal: Refusal
    sid: str | None = None
    """Of the session that was meant, where that is known: for the log, not for the client."""


class Revoked(Enum):
    """What became of a token that a client asked to revoke (RFC 7009 section 2)."""

    DONE = "done"
    NOTHING = "nothing"
    """Not ours, expired or revoked already: the client is told that all is well (section 2.2)."""
    OTHER_CLIENT = "other_client"
    """Refused: it was issued to another client (section 2.1)."""
    ENCRYPTED = "encrypted"
    """Refused: it may be ours and live, but only its audience can read it (section 2.2.1)."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session of a user, as it is shown to the user. No secret in it."""

    sid: str
    """Opaque, and no secret: it stands in access tokens as `sid`."""
    client_id: str
    device: str
    address: str
    issued: float
    """When it began. Seconds since 1970."""
    refreshed: float
    """When it was last refreshed; as `issued` where it never was."""
    expires: float
    """When it ends by itself, unless it is refreshed before."""
    refreshable: bool
    scope: str
    tokens: int
    """Access tokens that live now."""


MAX_ABOUT = 256
"""Characters of `device` and `address` that are kept. A browser's User-Agent has about 120."""
