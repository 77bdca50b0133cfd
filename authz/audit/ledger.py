"""What the lines of an audit say of each token: when it was let through, and what was found out."""

from dataclasses import dataclass
from typing import Any

from authz.audit import chain, instant
from authz.audit.fields import FAIL_OPEN
from authz.audit.pending import LetThrough, Times
from authz.audit.schema import wrong_fields
from authz.revocation.record import TokenRef
from authz.revocation.store import Trace


@dataclass(frozen=True, slots=True)
class _Settled:
    """The latest `reconciled` record of a token."""

    last_at: int
    """Of the requests that it speaks of. Milliseconds since 1970."""
    trace: Trace


class Ledger:
    """Collects records. Every request's time is kept, 16 bytes each, and twice while no record of
    a re-check has followed.
    """

    def __init__(self, *, but: str = "") -> None:
        """`but`: an instance whose records are passed over."""
        self.skipped = 0
        """Lines that are no records."""
        self._but = but
        self._tokens: dict[TokenRef, LetThrough] = {}
        self._unsettled: dict[TokenRef, Times] = {}
        self._settled: dict[TokenRef, _Settled] = {}

    def read(self, line: bytes) -> None:
        """Take one line, with or without its line end."""
        if not line.strip():
            return
        record = chain.parse(line)
        if record is None or any(wrong_fields(record)):
            self.skipped += 1
            return
        if record["instance"] != self._but:
            self.skipped += not self._take(record)

    def tokens(self) -> list[LetThrough]:
        """Every token, with all its requests."""
        return list(self._tokens.values())

    def finding(self, ref: TokenRef) -> Trace | None:
        """What the latest `reconciled` record says of a token. None: there is none."""
        settled = self._settled.get(ref)
        return None if settled is None else settled.trace

    def outstanding(self) -> list[LetThrough]:
        """Tokens with requests of which no `reconciled` record speaks that was read after theirs,
        and these requests alone. The time alone wouldn't tell: the clock may have been set back
        between the two.
        """
        left: list[LetThrough] = []
        for ref, times in self._unsettled.items():
            token = self._tokens[ref]
            left.append(
                LetThrough(token.issuer, token.subject, token.token_id, ref, times.bounded())
            )
        return left

    def _take(self, record: dict[str, Any]) -> bool:
        """Whether its times can be read."""
        ref = TokenRef(
            user=record["user"],
            token=record["token"],
            bucket=record["bucket"],
            issued_at=record["issued_at"],
            expires_at=record["expires_at"],
        )
        if record["event"] == FAIL_OPEN:
            return self._let_through(ref, record)
        return self._settle(ref, record)

    def _let_through(self, ref: TokenRef, record: dict[str, Any]) -> bool:
        at = instant.parse(record["time"])
        if at is None:
            return False
        token = self._tokens.get(ref)
        if token is None:
            token = self._tokens[ref] = LetThrough(
                record["issuer"], record["subject"], record["token_id"], ref, Times(limit=None)
            )
        token.times.add(at)
        self._unsettled.setdefault(ref, Times(limit=None)).add(at)
        return True

    def _settle(self, ref: TokenRef, record: dict[str, Any]) -> bool:
        last_at = instant.parse(record["last_at"])
        if last_at is None:
            return False
        unsettled = self._unsettled.pop(ref, None)
        if unsettled is not None and (later := unsettled.after(last_at)).total:
            self._unsettled[ref] = later
        known = self._settled.get(ref)
        if known is None or known.last_at <= last_at:
            revoked_at = instant.parse(record["revoked_at"])
            trace = Trace(
                evidence=record["evidence"],
                revoked=record["was_revoked"],
                at=None if revoked_at is None else revoked_at / 1000,
                by=record["revoked_by"],
                reason=record["revoked_reason"],
            )
            self._settled[ref] = _Settled(last_at, trace)
        return True
