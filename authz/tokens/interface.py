"""What the HTTP side asks for: `TokenIssuer` is one."""

from collections.abc import Sequence
from typing import Any, Protocol

from authz.revocation.record import Note
from authz.tokens.grant import (
    GrantRequest,
    Issued,
    RefreshRefused,
    RefreshRequest,
    Revoked,
    SessionInfo,
)


class Tokens(Protocol):
    """Issues, refreshes and takes back.

    Each method may raise StoreError (the store can't be asked, or did not replicate: 503 with
    Retry-After) and, where it signs or reads an access token, SigningUnavailableError (503 as
    well). What raised may have taken effect or not; what returned has, and is replicated. `now`:
    seconds since 1970.

    `issue` and `refresh` also raise TokenTooLargeError: no sidecar would take the token; and
    `issue` MixedAudiencesError: its audiences want it encrypted to different keys.
    """

    async def issue(self, grant: GrantRequest, now: float) -> Issued:
        """LoggedOutError: what vouches for it is older than the user's log-out everywhere."""
        ...

    async def refresh(self, request: RefreshRequest, now: float) -> Issued | RefreshRefused: ...

    async def revoke(self, token: str, client_id: str, now: float) -> Revoked:
        """An access token: it alone, and its session where that has no refresh token. A refresh
        token: its session with all access tokens (RFC 7009 section 2.1). Any text may be given.
        """
        ...

    async def introspect(self, token: str, now: float) -> dict[str, Any]:
        """The answer of RFC 7662 section 2.2, of either kind of token; `{"active": False}` and no
        more for any text that is no live token of ours.
        """
        ...

    async def sessions(self, subject: str, now: float) -> Sequence[SessionInfo]:
        """The user's live sessions, the latest first."""
        ...

    async def end_session(self, subject: str, sid: str, note: Note, now: float) -> bool:
        """End one with all its tokens. False: the user has no such session."""
        ...

    async def end_all(self, subject: str, note: Note, now: float) -> int:
        """Log-out everywhere: all tokens of the user that were issued before `now` are revoked,
        whoever issued them, and all sessions are over. How many sessions there were.
        """
        ...
