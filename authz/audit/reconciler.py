"""Looks again at what was let through: had it been revoked?

While the store is away it asks about one token every `POLL`, and about nothing where a breaker is
open. Once the store answers, the tokens of that bucket follow, in pieces that leave the loop and
the store to the checks. Each token ends in one `reconciled` record; what can't be recorded yet, or
asked, stays pending.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from authz.audit import instant
from authz.audit.fields import Reconciled
from authz.audit.log import AuditLog
from authz.audit.pending import LetThrough, Pending
from authz.observe import events
from authz.revocation.record import Unavailable
from authz.revocation.store import Trace, Tracer

POLL = 0.5
"""Seconds between looks at whether the store answers: the interval of the breaker's probes."""

TAKE = 1000
"""Tokens of one bucket taken at once. With 16 buckets, all that `Pending` holds takes two turns
each, and so two readings of a bucket's stream at most."""

WRITE = 32
"""Records handed to the audit at once: a thirtieth of its queue."""

log = structlog.get_logger(__name__)


def conclude(token: LetThrough, trace: Trace) -> Reconciled:
    """The record of a token that was looked at again."""
    ref, times = token.ref, token.times
    revoked_at = None if trace.at is None else instant.milliseconds(trace.at)
    return Reconciled(
        issuer=token.issuer,
        subject=token.subject,
        token_id=token.token_id,
        token=ref.token,
        user=ref.user,
        bucket=ref.bucket,
        issued_at=ref.issued_at,
        expires_at=ref.expires_at,
        first_at=instant.rfc3339(times.first),
        last_at=instant.rfc3339(times.last),
        requests=times.total,
        was_revoked=trace.revoked,
        revoked_at="" if revoked_at is None else instant.rfc3339(revoked_at),
        revoked_by=trace.by,
        revoked_reason=trace.reason,
        requests_after=requests_after(token, trace),
        evidence=trace.evidence,
    )


def requests_after(token: LetThrough, trace: Trace) -> int:
    """Requests that were let through when the token was revoked or later. All, where nobody knows
    when that was.
    """
    if not trace.revoked:
        return 0
    if trace.at is None:
        return token.times.total
    return token.times.since(instant.milliseconds(trace.at))


@dataclass(slots=True)
class _Sum:
    """Of what was settled and not yet told."""

    tokens: int = 0
    requests: int = 0
    revoked: int = 0
    requests_after: int = 0

    def add(self, record: Reconciled) -> None:
        self.tokens += 1
        self.requests += record.requests
        self.revoked += record.was_revoked
        self.requests_after += record.requests_after


class Reconciler:
    """Settles what is pending, in the background. The counters only grow, for metrics to read."""

    def __init__(
        self,
        pending: Pending,
        store: Tracer,
        audit: AuditLog,
        *,
        clock: Callable[[], float],
        recall: Callable[[], Sequence[LetThrough]] | None,
    ) -> None:
        """`clock`: seconds since 1970. `recall`: reads what earlier starts left, as
        `recall.recall`, in a thread of its own; None where nothing can have been left.
        """
        self.reconciled = {True: 0, False: 0}
        """Tokens, by whether they had been revoked."""
        self.requests_after = 0
        """Requests let through when their token was revoked or later."""
        self.recalled = 0
        """Tokens that earlier starts had left."""
        self._pending = pending
        self._store = store
        self._audit = audit
        self._clock = clock
        self._recall = recall
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = 0
        self._waiting_for = ""
        self._untold = _Sum()
        self._dropped_told = False

    @property
    def pending(self) -> int:
        """Tokens that wait to be looked at."""
        return len(self._pending)

    @property
    def dropped(self) -> int:
        """Requests whose token did not fit into the memory."""
        return self._pending.dropped

    def start(self) -> None:
        """Begin to look. Call it on the event loop."""
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._run()))
        if self._recall is not None:
            self._tasks.append(loop.create_task(self._recall_earlier(self._recall)))

    async def aclose(self) -> None:
        """Stop. What is pending is in the audit, and the next start finds it there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def status(self) -> dict[str, Any]:
        """For `/status`: JSON-ready."""
        return {
            "pending": self.pending,
            "waiting_for": self._waiting_for or None,
            "dropped": self.dropped,
            "recalled": self.recalled,
            "revoked": self.reconciled[True],
            "not_revoked": self.reconciled[False],
            "requests_after": self.requests_after,
        }

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            try:
                await self._look()
            except Exception:  # what is pending must not wait for a restart
                log.exception(events.RECONCILE_FAILED)
            self._tell()

    async def _look(self) -> None:
        """Go through the buckets until one can't be settled. Another one begins each time, so that
        a shard that is gone holds up the others for a moment only.
        """
        buckets = self._pending.buckets()
        self._turn += 1
        turned = self._turn % len(buckets) if buckets else 0
        for bucket in [*buckets[turned:], *buckets[:turned]]:
            if not await self._reconcile(bucket):
                return
        self._waiting_for = ""

    async def _reconcile(self, bucket: int) -> bool:
        """Settle what waits in a bucket: one token first, and all others if that was answered.
        Whether nothing is left.
        """
        most = 1
        while tokens := self._pending.take(bucket, most):
            try:
                await self._settle(bucket, tokens)
            finally:
                self._pending.give_back(tokens)
            if tokens:
                return False
            most = TAKE
        return True

    async def _settle(self, bucket: int, tokens: list[LetThrough]) -> None:
        """Ask about tokens in hand and put the answers on record. What is settled is taken out of
        the list.
        """
        traces = await self._store.trace(bucket, [token.ref for token in tokens], self._clock())
        if isinstance(traces, Unavailable):
            self._waiting_for = f"store: {traces.cause}"
            return
        for start in range(0, len(traces), WRITE):
            chunk = list(zip(tokens[:WRITE], traces[start : start + WRITE], strict=True))
            records = [conclude(token, trace) for token, trace in chunk]
            written = await asyncio.gather(*(self._record(record) for record in records))
            self._count([one for one, done in zip(records, written, strict=True) if done])
            tokens[:WRITE] = [
                token for (token, _), done in zip(chunk, written, strict=True) if not done
            ]
            if not all(written):
                self._waiting_for = "audit"
                return

    async def _record(self, record: Reconciled) -> bool:
        return not self._audit.enabled or await self._audit.record(record, patient=True)

    def _count(self, records: Sequence[Reconciled]) -> None:
        self._pending.settle(len(records))
        for record in records:
            self.reconciled[record.was_revoked] += 1
            self.requests_after += record.requests_after
            self._untold.add(record)

    def _tell(self) -> None:
        """Once at the end of it all, but of a revoked token at once."""
        done = self._untold
        if self.dropped and not self._dropped_told:
            self._dropped_told = True
            log.error(events.RECONCILE_OVERFLOW, tokens=self.pending, dropped=self.dropped)
        if not done.tokens or (self.pending and not done.revoked):
            return
        self._untold = _Sum()
        log_it = log.error if done.revoked else log.info
        log_it(
            events.RECONCILED_REVOKED if done.revoked else events.RECONCILED,
            tokens=done.tokens,
            requests=done.requests,
            revoked=done.revoked,
            requests_after=done.requests_after,
            pending=self.pending,
        )

    async def _recall_earlier(self, recall: Callable[[], Sequence[LetThrough]]) -> None:
        try:
            tokens = await _in_a_thread(recall)
        except OSError as error:
            log.warning(events.RECALL_FAILED, error=error.strerror)
            return
        except Exception:
            log.exception(events.RECONCILE_FAILED)
            return
        self.recalled = len(tokens)
        self._pending.restore(tokens)
        if tokens:
            log.info(events.RECALLED, tokens=len(tokens))


async def _in_a_thread(work: Callable[[], Sequence[LetThrough]]) -> Sequence[LetThrough]:
    """What it returns or raises. A daemon's: a disk that hangs must not keep the process from
    ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Sequence[LetThrough]] = loop.create_future()

    def settle(outcome: Sequence[LetThrough] | Exception) -> None:
        if done.done():  # cancelled
            return
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

    def run() -> None:
        outcome: Sequence[LetThrough] | Exception
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001  it is raised where it is waited for
            outcome = error
        try:
            loop.call_soon_threadsafe(settle, outcome)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    threading.Thread(target=run, name="audit-recall", daemon=True).start()
    return await done
