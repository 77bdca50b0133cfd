"""All sessions of one user, and what becomes of them: decided here, written elsewhere.

Whoever asks reads the book, decides with it, and has the change written if nobody else has changed
the book meanwhile; else it begins again. So to everybody a decision and its writing are one step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from authz.tokens.session import Session

MAX_ENDED = 3
"""Sessions that are ended because of one that begins. With 32 tokens each (`MAX_LIVE_TOKENS`) they
are 96 revocations, and one call writes 128. It is one, unless `tokens.max_sessions` was lowered;
then it takes several log-ins until there are so few."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written, all of it in one step."""

    kept: Sequence[Session] = ()
    """Sessions that are new, or have changed."""
    gone: Sequence[str] = ()
    """Ids of those that are over."""
    ended: int = 0
    """How many of these would have lived on."""
    revoked: Mapping[str, int] = field(default_factory=dict)
    """TID and `exp` of access tokens."""
    reason: str = ""
    """Why those are revoked."""
    cut_off: float | None = None
    """All of the user's tokens that were issued before are revoked. Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Book:
    """As the store had it."""

    sessions: Mapping[str, Session] = field(default_factory=dict)
    """By id. Some may be over, and not cleared away yet."""
    unreadable: Sequence[str] = ()
    """Names of what is no session; it is cleared away with the next change."""
    cut_off: float = 0.0
    """The latest: what was issued before is revoked. Seconds since 1970; 0 without one."""

    def living(self, now: float) -> dict[str, Session]:
        """The oldest first."""
        found = [
            session
            for session in self.sessions.values()
            if not session.is_over(now) and session.issued >= self.cut_off
        ]
        found.sort(key=lambda session: (session.issued, session.sid))
        return {session.sid: session for session in found}

    def _swept(self, now: float) -> list[str]:
        living = self.living(now)
        return [*(sid for sid in self.sessions if sid not in living), *self.unreadable]

    def begin(self, session: Session, *, most: int, now: float) -> Change:
        """One more session; of more than `most` the oldest are ended."""
        living = self.living(now)
        too_many = min(max(0, len(living) + 1 - most), MAX_ENDED)
        ended = list(living.values())[:too_many]
        return Change(
            kept=(session,),
            gone=(*self._swept(now), *(one.sid for one in ended)),
            revoked={t: exp for one in ended for t, exp in one.living_tokens(now).items()},
            ended=len(ended),
            reason="too many sessions",
        )

    def refresh(self, session: Session, surplus: Mapping[str, int], now: float) -> Change:
        """A session after its refresh; `surplus` as `Session.with_token` gives it."""
        return Change(
            kept=(session,), gone=self._swept(now), revoked=surplus, reason="too many tokens"
        )

    def end(self, sid: str, reason: str, now: float) -> Change | None:
        """None: there is no such session, or it is over."""
        session = self.living(now).get(sid)
        if session is None:
            return None
        return Change(
            gone=(*self._swept(now), sid),
            ended=1,
            revoked=session.living_tokens(now),
            reason=reason,
        )

    def end_all(self, reason: str, now: float) -> Change:
        """All sessions there are, and a cut-off that no token issued so far escapes: not one that
        was issued by somebody whose clock is ahead either.
        """
        latest = max((one.refreshed for one in self.sessions.values()), default=0.0)
        return Change(
            gone=(*self.sessions, *self.unreadable),
            ended=len(self.living(now)),
            reason=reason,
            cut_off=max(now, latest + AFTER),
        )

    def revoke_token(self, sid: str | None, tid: str, expires_at: int, now: float) -> Change:
        """One access token; and its session, where it has nothing else."""
        reason = "revoked by its client"
        session = self.living(now).get(sid) if sid is not None else None
        if session is None or tid not in session.tokens:
            return Change(revoked={tid: expires_at}, reason=reason)
        left = session.without_token(tid)
        if left.is_over(now):
            return Change(
                gone=(*self._swept(now), left.sid),
                ended=1,
                revoked={tid: expires_at},
                reason=reason,
            )
        return Change(kept=(left,), gone=self._swept(now), revoked={tid: expires_at}, reason=reason)


AFTER = 0.001
"""Seconds: the least by which a cut-off is later than what it revokes. They are kept in
milliseconds."""
