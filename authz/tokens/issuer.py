"""Issues tokens, refreshes them and takes them back: what `Tokens` promises.

A token is signed first, and counts when it is given out. So its session is written in between, and
where that fails nobody has ever seen the token.
"""

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from authz.keys.signer import SigningKeys
from authz.observe import events
from authz.revocation.record import Note, TokenRef
from authz.revocation.redis.script import ScriptRunner
from authz.revocation.store import StoreError
from authz.settings import TokensSettings
from authz.tokens.access import Span, span
from authz.tokens.book import Book
from authz.tokens.changes import Changes, Decision
from authz.tokens.encryption import MixedAudiencesError
from authz.tokens.figures import Figures
from authz.tokens.grant import (
    MAX_ABOUT,
    GrantRequest,
    Issued,
    LoggedOutError,
    RefreshRefused,
    RefreshRequest,
    Refusal,
    Revoked,
    SessionInfo,
)
from authz.tokens.mint import Mint, Minted
from authz.tokens.own import OwnToken, OwnTokens
from authz.tokens.refresh import (
    FAMILY_BYTES,
    SECRET_BYTES,
    Family,
    RefreshToken,
    Rotation,
    base64url,
    rotate,
)
from authz.tokens.session import Session
from authz.tokens.sessions import Owner, Sessions

JTI_BYTES = 16
"""128 random bits, a few more than a UUID has."""

MIN_AHEAD = 1.0
"""Seconds that a user's cut-off may be ahead of the clock, so that a token is dated after it, where
the leeway is smaller: the rest of the second in which a log-out came."""

SHOWN_CLAIMS = (
    "iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti", "sid", "auth_time", "cnf",
)  # fmt: skip
"""Of an access token, in the answer of RFC 7662 section 2.2."""

VOUCHED_SLACK = 2.0
"""Seconds. A cut-off may be one ahead of the clock (`MIN_AHEAD`), and `iat` one behind, as it has
no fractions: who logs in again in the second of a log-out must not be refused."""

log = structlog.get_logger(__name__)


class TokenIssuer:
    """`Tokens` with sessions in Redis. Make it in a running loop."""

    def __init__(
        self,
        settings: TokensSettings,
        keys: SigningKeys,
        scripts: ScriptRunner,
        *,
        buckets: int,
        leeway: float,
        encrypt: Callable[[str, Sequence[str]], str] | None = None,
        decrypt: Callable[[str], str] | None = None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`buckets` and `leeway` (seconds) as the sidecars have them. `encrypt`: an access token
        for these audiences, encrypted where they want that. `decrypt`: the token in such a one,
        where the key is here. `entropy`: so many random bytes.
        """
        self.figures = Figures()
        self._settings = settings
        self._buckets = buckets
        self._ahead = max(leeway, MIN_AHEAD)
        self._entropy = entropy
        self._mint = Mint(settings.issuer, keys, encrypt)
        self._own = OwnTokens(
            settings.issuer, keys.verification, leeway=leeway, buckets=buckets, decrypt=decrypt
        )
        self._sessions = Sessions(scripts, buckets)
        self._changes = Changes(self._sessions, self.figures, entropy)

    # ---- giving

    async def issue(self, grant: GrantRequest, now: float) -> Issued:
        """As `Tokens.issue`."""
        lifetime = grant.lifetime or self._settings.access_lifetime
        if not grant.session:
            when = span(now, cut_off=0, lifetime=lifetime, ends=None)
            minted = await self._mint_granted(grant, when, self._draw(JTI_BYTES), None)
            self.figures.issued += 1
            return minted.issued(now)
        owner = self._owner(grant.subject)
        refresh = RefreshToken(
            owner.bucket, owner.user, self._entropy(FAMILY_BYTES), self._entropy(SECRET_BYTES)
        )
        jti = self._draw(JTI_BYTES)

        async def begin(book: Book) -> Decision[Issued]:
            self._check_clock(book, now)
            if grant.vouched_at is not None and grant.vouched_at + VOUCHED_SLACK < book.cut_off:
                raise LoggedOutError
            begun = round(max(now, book.cut_off), 3)
            ends = begun + self._settings.session_lifetime if grant.refreshable else None
            when = span(now, cut_off=book.cut_off, lifetime=lifetime, ends=ends)
            minted = await self._mint_granted(grant, when, jti, refresh.sid)
            session = Session(
                sid=refresh.sid,
                subject=grant.subject,
                client_id=grant.client_id,
                scopes=tuple(minted.scopes),
                audiences=grant.audiences,
                issued=begun,
                refreshed=max(begun, when.issued_at),
                expires=self._refreshable_until(now, ends or when.expires_at),
                ends=ends or when.expires_at,
                tokens={minted.tid: when.expires_at},
                lifetime=grant.lifetime,
                auth_time=grant.auth_time,
                device=_about(grant.device),
                address=_about(grant.address),
                cnf=grant.cnf,
                bound=grant.bind_refresh,
                family=Family(refresh.digest) if grant.refreshable else None,
            )
            change = book.begin(session, most=self._settings.max_sessions, now=now)
            given = refresh.dump() if grant.refreshable else None
            return Decision(minted.issued(now, refresh.sid, given), change)

        made = await self._changes.make(owner, begin, by=grant.client_id, now=now)
        self.figures.issued += 1
        self.figures.crowded_out += made.change.ended if made.change else 0
        return made.result

    async def refresh(self, request: RefreshRequest, now: float) -> Issued | RefreshRefused:
        """As `Tokens.refresh`."""
        presented = RefreshToken.read(request.token)
        if presented is None or presented.bucket >= self._buckets:
            self.figures.refused += 1
            return RefreshRefused(Refusal.UNKNOWN)
        jti, salt = self._draw(JTI_BYTES), self._draw(SECRET_BYTES)
        raced = False

        async def decide(book: Book) -> Decision[Issued | RefreshRefused]:
            nonlocal raced
            session = self._session_of(book, presented, now)
            if session is None or session.family is None or now >= session.expires:
                return Decision(RefreshRefused(Refusal.UNKNOWN))
            rotation = rotate(
                session.family,
                presented,
                salt=salt,
                now=now,
                grace=self._settings.refresh_grace,
                ahead=self._ahead,
            )
            if rotation is None:
                change = book.end(session.sid, "refresh token used twice", now)
                return Decision(RefreshRefused(Refusal.REUSED, session.sid), change)
            refusal = _objection(session, request)
            if refusal is not None:
                return Decision(RefreshRefused(refusal, session.sid))
            raced = rotation.raced
            try:
                return await self._refreshed(book, session, rotation, request, jti, now)
            except MixedAudiencesError:  # `tokens.encryption` has changed since
                return Decision(RefreshRefused(Refusal.UNSHARED, session.sid))

        owner = Owner(presented.user, presented.bucket)
        made = await self._changes.make(owner, decide, by=request.client_id, now=now)
        self._count_refresh(made.result, request, raced=raced)
        return made.result

    async def _refreshed(
        self,
        book: Book,
        session: Session,
        rotation: Rotation,
        request: RefreshRequest,
        jti: str,
        now: float,
    ) -> Decision[Issued | RefreshRefused]:
        self._check_clock(book, now)
        lifetime = session.lifetime or self._settings.access_lifetime
        when = span(now, cut_off=book.cut_off, lifetime=lifetime, ends=session.ends)
        minted = await self._mint.mint(
            when,
            jti=jti,
            subject=session.subject,
            client_id=session.client_id,
            audiences=session.audiences,
            scopes=session.scopes if request.scopes is None else request.scopes,
            sid=session.sid,
            auth_time=session.auth_time,
            cnf=request.cnf,
        )
        refreshed, surplus = session.with_token(minted.tid, when.expires_at, now)
        refreshed = replace(
            refreshed,
            family=rotation.family,
            refreshed=round(max(now, when.issued_at), 3),
            expires=self._refreshable_until(now, session.ends),
            address=_about(request.address) or session.address,
        )
        return Decision(
            minted.issued(now, session.sid, rotation.token.dump()),
            book.refresh(refreshed, surplus, now),
        )

    # ---- taking back

    async def revoke(self, token: str, client_id: str, now: float) -> Revoked:
        """As `Tokens.revoke`."""
        refresh = RefreshToken.read(token)
        if refresh is not None:
            revoked = await self._revoke_refresh(refresh, client_id, now)
        elif (own := self._own.read(token, now)) is not None:
            revoked = await self._revoke_access(own, client_id, now)
        elif self._own.opened(token) is None:
            revoked = Revoked.ENCRYPTED
        else:
            revoked = Revoked.NOTHING
        self.figures.revoked += revoked is Revoked.DONE
        return revoked

    async def _revoke_refresh(self, token: RefreshToken, client_id: str, now: float) -> Revoked:
        if token.bucket >= self._buckets:
            return Revoked.NOTHING

        async def decide(book: Book) -> Decision[Revoked]:
            # Any token of the family will do: who has one has had the session.
            session = self._session_of(book, token, now)
            if session is None:
                return Decision(Revoked.NOTHING)
            if session.client_id != client_id:
                return Decision(Revoked.OTHER_CLIENT)
            return Decision(Revoked.DONE, book.end(session.sid, "revoked by its client", now))

        owner = Owner(token.user, token.bucket)
        return (await self._changes.make(owner, decide, by=client_id, now=now)).result

    async def _revoke_access(self, own: OwnToken, client_id: str, now: float) -> Revoked:
        if own.text("client_id") != client_id:
            return Revoked.OTHER_CLIENT

        async def decide(book: Book) -> Decision[Revoked]:
            change = book.revoke_token(own.text("sid"), own.ref.token, own.ref.expires_at, now)
            return Decision(Revoked.DONE, change)

        owner = Owner(own.ref.user, own.ref.bucket)
        return (await self._changes.make(owner, decide, by=client_id, now=now)).result

    async def end_session(self, subject: str, sid: str, note: Note, now: float) -> bool:
        """As `Tokens.end_session`."""

        async def decide(book: Book) -> Decision[bool]:
            change = book.end(sid, note.reason, now)
            return Decision(change is not None, change)

        made = await self._changes.make(self._owner(subject), decide, by=note.by, now=now)
        self.figures.ended += made.result
        return made.result

    async def end_all(self, subject: str, note: Note, now: float) -> int:
        """As `Tokens.end_all`."""

        async def decide(book: Book) -> Decision[int]:
            change = book.end_all(note.reason, now)
            return Decision(change.ended, change)

        made = await self._changes.make(self._owner(subject), decide, by=note.by, now=now)
        self.figures.ended += made.result
        return made.result

    # ---- telling

    async def sessions(self, subject: str, now: float) -> Sequence[SessionInfo]:
        """As `Tokens.sessions`."""
        owner = self._owner(subject)
        living = (await self._sessions.read(owner)).book.living(now)
        # Who revokes a token by itself, as `authz revoke` does, leaves the sessions alone.
        refs = [
            TokenRef(owner.user, tid, owner.bucket, int(session.refreshed), expires_at)
            for session in living.values()
            for tid, expires_at in session.living_tokens(now).items()
        ]
        revoked = zip(refs, await self._sessions.revoked(refs), strict=True)
        gone = {ref.token for ref, is_revoked in revoked if is_revoked}
        left = [
            replace(one, tokens={t: exp for t, exp in one.tokens.items() if t not in gone})
            for one in living.values()
        ]
        return [one.info(now) for one in reversed(left) if one.ends_by_itself > now]

    async def introspect(self, token: str, now: float) -> dict[str, Any]:
        """As `Tokens.introspect`."""
        refresh = RefreshToken.read(token)
        if refresh is not None:
            return await self._introspect_refresh(refresh, now)
        own = self._own.read(token, now)
        if own is None or any(await self._sessions.revoked([own.ref])):
            return {"active": False}
        bound = "jkt" in (own.claims.get("cnf") or {})
        shown = {name: own.claims[name] for name in SHOWN_CLAIMS if name in own.claims}
        return {"active": True, "token_type": "DPoP" if bound else "Bearer", **shown}

    async def _introspect_refresh(self, token: RefreshToken, now: float) -> dict[str, Any]:
        session = None
        if token.bucket < self._buckets:
            read = await self._sessions.read(Owner(token.user, token.bucket))
            session = self._session_of(read.book, token, now)
        if session is None or session.family is None or now >= session.expires:
            return {"active": False}
        if not hmac.compare_digest(token.digest, session.family.current):
            return {"active": False}
        return {
            "active": True,
            "iss": self._settings.issuer,
            "sub": session.subject,
            "client_id": session.client_id,
            "scope": " ".join(session.scopes),
            "sid": session.sid,
            "iat": int(session.refreshed),
            "exp": int(session.expires),
        }

    # ---- small things

    def _owner(self, subject: str) -> Owner:
        return Owner.of(self._settings.issuer, subject, self._buckets)

    def _session_of(self, book: Book, token: RefreshToken, now: float) -> Session | None:
        """The session that a refresh token names, if it lives and is ours: services of different
        issuers may share a store, and what one begins the other must not go on with.
        """
        session = book.living(now).get(token.sid)
        if session is None or session.family is None:
            return None
        ours = self._owner(session.subject) == Owner(token.user, token.bucket)
        return session if ours else None

    def _draw(self, size: int) -> str:
        return base64url(self._entropy(size))

    def _refreshable_until(self, now: float, ends: float) -> float:
        return round(min(now + self._settings.refresh_lifetime, ends), 3)

    def _check_clock(self, book: Book, now: float) -> None:
        """StoreError: all that is issued now would be revoked already."""
        ahead = book.cut_off - now
        if ahead > self._ahead:
            raise StoreError(
                f"all of this user's tokens are revoked as of {ahead:.1f} s from now: a clock is "
                "wrong, here or where that was done"
            )

    async def _mint_granted(
        self, grant: GrantRequest, when: Span, jti: str, sid: str | None
    ) -> Minted:
        return await self._mint.mint(
            when,
            jti=jti,
            subject=grant.subject,
            client_id=grant.client_id,
            audiences=grant.audiences,
            scopes=grant.scopes,
            sid=sid,
            auth_time=grant.auth_time,
            cnf=grant.cnf,
        )

    def _count_refresh(
        self, result: Issued | RefreshRefused, request: RefreshRequest, *, raced: bool
    ) -> None:
        if isinstance(result, Issued):
            self.figures.refreshed += 1
            self.figures.raced += raced
            return
        self.figures.refused += 1
        if result.refusal is Refusal.REUSED:
            self.figures.reused += 1
            log.warning(
                events.REFRESH_REUSED,
                client=request.client_id,
                sid=result.sid,
                address=_about(request.address),
            )


def _objection(session: Session, request: RefreshRequest) -> Refusal | None:
    """What speaks against a refresh whose token is good."""
    if session.client_id != request.client_id:
        return Refusal.OTHER_CLIENT
    if session.cnf is not None and request.cnf is None:  # or a stolen token would lose its bonds
        return Refusal.UNPROVEN
    if session.bound and request.cnf != session.cnf:
        return Refusal.UNPROVEN
    if request.scopes is not None and not set(request.scopes) <= set(session.scopes):
        return Refusal.SCOPE_TOO_WIDE
    return None


def _about(text: str) -> str:
    """What a client says of itself, fit to be shown: no control characters, and not too long."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_ABOUT]).strip()
