"""`memory://`: revocations of one process, for trying things out."""

from collections.abc import Sequence
from typing import Any

from authz.revocation.record import ANY_USER, Answer, Clear, Revoked, TokenRef
from authz.revocation.store import Acknowledgement, TokenRevocation, Trace, UserRevocation
from authz.settings import MAX_LEEWAY


class MemoryStore:
    """Keeps revocations in dictionaries; nobody else sees them and a restart forgets them."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], float] = {}
        self._cutoffs: dict[str, tuple[float, float]] = {}

    def find(self, ref: TokenRef) -> Answer:
        for user in (ref.user, ANY_USER):
            until = self._tokens.get((user, ref.token))
            if until is not None:
                return Revoked(until)
        not_before, until = self._cutoffs.get(ref.user, (0.0, 0.0))
        if ref.issued_at < not_before:
            return Revoked(until, not_before)
        return Clear()

    async def trace(self, bucket: int, refs: Sequence[TokenRef], now: float) -> list[Trace]:
        """As `Tracer.trace`. When something was revoked isn't kept."""
        del bucket, now
        return [Trace("store", isinstance(self.find(ref), Revoked)) for ref in refs]

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        self._forget_expired(revocation.note.at)
        key = (revocation.user or ANY_USER, revocation.token)
        repeated = key in self._tokens
        self._tokens[key] = revocation.expires_at + MAX_LEEWAY
        return Acknowledgement(replicas=0, repeated=repeated)

    async def revoke_user(self, revocation: UserRevocation) -> Acknowledgement:
        self._forget_expired(revocation.note.at)
        cut, until = self._cutoffs.get(revocation.user, (0.0, 0.0))
        repeated = cut >= revocation.not_before
        self._cutoffs[revocation.user] = (
            max(cut, revocation.not_before),
            max(until, revocation.not_before + revocation.max_lifetime + MAX_LEEWAY),
        )
        return Acknowledgement(replicas=0, repeated=repeated)

    def _forget_expired(self, now: float) -> None:
        self._tokens = {key: until for key, until in self._tokens.items() if until > now}
        self._cutoffs = {user: cut for user, cut in self._cutoffs.items() if cut[1] > now}

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"kind": "memory", "tokens": len(self._tokens), "users": len(self._cutoffs)}
