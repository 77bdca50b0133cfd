"""What this sidecar knows about revocations, and whom it asks when it does not know."""

import asyncio
from collections.abc import Awaitable, Callable

from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    CLEAR,
    Answer,
    Clear,
    Finding,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.revocation.store import RevocationStore

TIDY_EVERY = 1.0
"""Seconds between two looks at what has expired."""


class Revocations:
    """What is known here, then the store. Equal look-ups in flight are shared."""

    def __init__(
        self, knowledge: Knowledge, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        """`clock` gives seconds since 1970, `monotonic` seconds of a clock that isn't set. `use`
        must be called before the first `find`.
        """
        self._knowledge = knowledge
        self._clock = clock
        self._monotonic = monotonic
        self._tidied_at = monotonic()
        self._in_flight: dict[TokenRef, asyncio.Future[Answer]] = {}
        self.results: dict[str, int] = {}
        """Look-ups that went to the store, by outcome: `revoked`, `clear`, or the cause why not."""

    def use(
        self,
        store: RevocationStore,
        remembers: Callable[[int, float], Awaitable[bool]] | None = None,
    ) -> None:
        """The store to ask. Separate from the constructor because the store reports to `learn`.

        `remembers` says of a bucket whether the store still has all that the filter was told of
        it, within `store.timeout` from a moment (`monotonic`); without it that is not asked.
        """
        self._store: RevocationStore = store
        self._remembers = remembers

    def learn(self, ref: TokenRef, finding: Revoked | Clear) -> None:
        """Remember what the store said, also when it came too late for the check that asked."""
        now, monotonic = self._clock(), self._monotonic()
        self._knowledge.learn(ref, finding, now)
        if monotonic - self._tidied_at >= TIDY_EVERY:  # without a feed nobody else would
            self._tidied_at = monotonic
            self._knowledge.tidy(now, monotonic)

    def find(self, ref: TokenRef, now: float, last: Clear = CLEAR) -> Finding | Awaitable[Finding]:
        """Is it revoked? At once where memory knows, else as an awaitable of at most
        `store.timeout`. Never raises. `last`: what this said of the same token the time before,
        as for `Knowledge.recall`.
        """
        asked_at = self._monotonic()
        known = self._knowledge.recall(ref, now, asked_at, last)
        if known is not None:
            return known
        asked = self._in_flight.get(ref)
        if asked is None:
            answer = self._store.find(ref)
            if isinstance(answer, Revoked | Clear | Unavailable):
                self._count(answer)
                if isinstance(answer, Revoked | Clear):  # errors are never cached
                    self.learn(ref, answer)
                return self._conclude(ref, answer)
            asked = asyncio.ensure_future(answer)
            self._in_flight[ref] = asked
            asked.add_done_callback(lambda done: self._settled(ref, done))
        return self._answer(ref, asked, asked_at)

    async def _answer(
        self, ref: TokenRef, asked: asyncio.Future[Answer], asked_at: float
    ) -> Finding:
        # Shielded: a client that goes away must not take the answer from those who share it.
        answer = await asyncio.shield(asked)
        if (
            isinstance(answer, Clear)
            and self._remembers is not None
            and self._knowledge.suspects(ref)
            and not await self._remembers(ref.bucket, asked_at)
        ):
            # Most probably the token isn't revoked, and the filter is wrong. But a store that was
            # emptied a moment ago says so, too.
            answer = Unavailable("error")
        return self._conclude(ref, answer)

    def _conclude(self, ref: TokenRef, answer: Answer) -> Finding:
        return self._knowledge.conclude(ref, answer, self._clock(), self._monotonic())

    def _settled(self, ref: TokenRef, done: asyncio.Future[Answer]) -> None:
        self._in_flight.pop(ref, None)
        if not done.cancelled() and done.exception() is None:
            self._count(done.result())

    def _count(self, answer: Answer) -> None:
        match answer:
            case Revoked():
                outcome = "revoked"
            case Clear():
                outcome = "clear"
            case Unavailable(cause):
                outcome = cause
        self.results[outcome] = self.results.get(outcome, 0) + 1
