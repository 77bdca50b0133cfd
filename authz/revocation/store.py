"""The interface of a revocation store: asked by checks, written by revokers."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from authz.revocation.record import Answer, Note, TokenRef, Unavailable


class StoreError(Exception):
    """A revocation could not be written or was not replicated. The text says what is the case and
    what to do; repeating the revocation is always safe.
    """


class StoreRefusedError(StoreError):
    """The store answered and won't have it: a right is missing, its memory is full."""


class SlotMovingError(StoreError):
    """The bucket is on its way from one node to another; the rest of both is well."""


@dataclass(frozen=True, slots=True)
class TokenRevocation:
    token: str
    """TID."""
    user: str | None
    """The user's digest; None where only issuer and `jti` are known."""
    bucket: int | None
    """None exactly where `user` is."""
    expires_at: int
    """The token's `exp`. Seconds since 1970."""
    note: Note


@dataclass(frozen=True, slots=True)
class UserRevocation:
    """Every token of the user that was issued before `not_before` is revoked."""

    user: str
    bucket: int
    not_before: float
    """Seconds since 1970, with fractions."""
    max_lifetime: float
    """Seconds: `not_before` is kept until every token it speaks of has expired."""
    note: Note


Revocation = TokenRevocation | UserRevocation


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The revocation is in the store."""

    replicas: int
    """How many replicas confirmed it before this was returned."""
    repeated: bool
    """It was there already (idempotent)."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What the store knows of a token when it is asked afterwards."""

    evidence: Literal["store", "stream", "expired"]
    """`store`: its keys say so. `stream`: they may have expired with it, but the stream of
    revocations says so. `expired`: both were gone or silent, so nobody can tell for certain."""
    revoked: bool
    at: float | None = None
    """When it was first revoked, as the revoker had the time. Seconds since 1970; None: not
    revoked, or it isn't known when."""
    by: str = ""
    reason: str = ""


class Tracer(Protocol):
    """Whoever can say afterwards what became of tokens."""

    async def trace(
        self, bucket: int, refs: Sequence[TokenRef], now: float
    ) -> Sequence[Trace] | Unavailable:
        """Of each of these tokens, all of one bucket, whether it was revoked and when. In their
        order; all or nothing. Never raises for a failure of the store. `now`: seconds since 1970.

        For what nobody waits for: it takes its time, and asks little at once.
        """
        ...


class RevocationStore(Protocol):
    """One place where revocations are kept."""

    def find(self, ref: TokenRef) -> Answer | Awaitable[Answer]:
        """Is this token, or its user as of its `iat`, revoked? Answers within `store.timeout`;
        never raises for a failure of the store: that is `Unavailable`.
        """
        ...

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        """StoreError: not written, or not replicated as configured."""
        ...

    async def revoke_user(self, revocation: UserRevocation) -> Acknowledgement:
        """StoreError as above. Of several cut-offs of one user the latest counts."""
        ...

    async def start(self) -> None:
        """Begin to connect in the background. Returns at once, also when nothing is reachable."""
        ...

    async def aclose(self) -> None: ...

    def status(self) -> dict[str, Any]:
        """What `/status` shows: JSON-ready, no secrets."""
        ...
