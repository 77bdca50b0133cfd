"""Decides and writes as one step, however often it takes.

What is written is decided on what was read, and written only if that still holds; else all begins
again. In one process those who want to change the same user's sessions take turns. That isn't
needed to be right; but ten tabs that come at once would go at each other's heels, and sign in vain.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from authz.revocation.record import Note
from authz.revocation.store import StoreError
from authz.tokens.book import Book, Change
from authz.tokens.figures import Figures
from authz.tokens.refresh import base64url
from authz.tokens.sessions import Owner, Sessions

NAME_BYTES = 9
"""Random bytes in the name of a change, which are 12 characters. It has to differ from the few
names beside it."""

MAX_TRIES = 16
"""Of a change that others are faster than. They are other processes: of n that try at once one gets
through in each round."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    result: T
    change: Change | None = None
    """None: there is nothing to write."""


class Changes:
    """Makes changes to users' sessions."""

    def __init__(
        self, sessions: Sessions, figures: Figures, entropy: Callable[[int], bytes]
    ) -> None:
        self._sessions = sessions
        self._figures = figures
        self._entropy = entropy
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make(
        self,
        owner: Owner,
        decide: Callable[[Book], Awaitable[Decision[T]]],
        *,
        by: str,
        now: float,
    ) -> Decision[T]:
        """What `decide` decided, once its change is written and replicated. It is asked anew at
        each try. `by`: who caused the revocations in it. `now`: seconds since 1970.

        StoreError: it was not written, not replicated, or others were faster all the time.
        """
        name = base64url(self._entropy(NAME_BYTES))
        async with self._turn(owner.user):
            for _ in range(MAX_TRIES):
                read = await self._sessions.read(owner)
                decision = await decide(read.book)
                if decision.change is None:
                    return decision
                note = Note(decision.change.reason, by, now)
                if await self._sessions.change(owner, read, decision.change, name=name, note=note):
                    return decision
                self._figures.conflicts += 1
        raise StoreError(f"this user's sessions were changed {MAX_TRIES} times meanwhile")

    @asynccontextmanager
    async def _turn(self, user: str) -> AsyncIterator[None]:
        """StoreError: it didn't come in the time that a change may take, so the store is in trouble
        and those before are waiting for it.
        """
        lock = self._turns.get(user)
        if lock is None:  # it lives for as long as somebody holds it or waits for it
            lock = self._turns[user] = asyncio.Lock()
        try:
            async with asyncio.timeout(self._sessions.write_timeout):
                await lock.acquire()
        except TimeoutError:
            raise StoreError("earlier changes of this user's sessions are still waiting") from None
        try:
            yield
        finally:
            lock.release()
