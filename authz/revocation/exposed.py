"""Takes back tokens that came in the clear, in the background of the checks that refused them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog
from cachetools import LRUCache

from authz.check.token import Identity
from authz.observe import events
from authz.revocation.record import Clear, Note, Revoked, TokenRef
from authz.revocation.store import RevocationStore, StoreError, TokenRevocation
from authz.settings import MAX_LEEWAY

NOTE_REASON = "came over plain HTTP"
NOTE_BY = "authz"
"""What stands beside such a revocation in the store."""

MAX_WAITING = 1024
"""Tokens that wait to be revoked. More come only while the store is away, and what didn't fit is
told of again with the token's next request."""

TOLD_REMEMBERED = 4096
"""Tokens that needn't be revoked again when they come again."""

WRITERS = 4
"""Revocations under way: one whose node is down takes all of `store.write_timeout`, and must not
hold up the others."""

RETRY_AFTER = 1.0
"""Seconds before a writer goes on after a failure."""

log = structlog.get_logger(__name__)


class ExposedTokens:
    """Revokes what it is told of. Belongs to the loop in which it is started."""

    def __init__(
        self,
        store: RevocationStore,
        learn: Callable[[TokenRef, Revoked | Clear], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        """`learn`: as of `Revocations`; this sidecar refuses the token before the store knows of
        it. `clock`: seconds since 1970.
        """
        self._store = store
        self._learn = learn
        self._clock = clock
        self._waiting: dict[TokenRef, Identity] = {}
        self._told: LRUCache[TokenRef, None] = LRUCache(TOLD_REMEMBERED)
        self._arrived = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failing = False
        self.results = {"revoked": 0, "failed": 0, "dropped": 0}
        """Tokens revoked, attempts that failed and are repeated, tokens that found no room."""

    def tell(self, identity: Identity) -> None:
        """Of a token that came in the clear. Returns at once."""
        ref = identity.ref
        if ref in self._told:
            return
        self._learn(ref, Revoked(ref.expires_at + MAX_LEEWAY))
        if len(self._waiting) >= MAX_WAITING:
            if not self.results["dropped"]:
                log.error(events.EXPOSED_DROPPED, waiting=len(self._waiting))
            self.results["dropped"] += 1
            return
        self._told[ref] = None
        self._waiting[ref] = identity
        self._arrived.set()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._write_all()) for _ in range(WRITERS)]

    async def aclose(self) -> None:
        """Stop. What the store doesn't have by now it won't get."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        if self._waiting:
            log.error(events.EXPOSED_ABANDONED, tokens=len(self._waiting))

    @property
    def waiting(self) -> int:
        """Tokens that are not revoked yet."""
        return len(self._waiting)

    async def _write_all(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._waiting:
                self._arrived.clear()
                continue
            ref = next(iter(self._waiting))
            identity = self._waiting.pop(ref)
            done = False
            try:
                done = await self._write(identity)
            except Exception:  # what waits must not wait for a restart
                log.exception(events.EXPOSED_FAILED)
            finally:
                if not done:  # cancelled, too
                    self._waiting[ref] = identity  # at the end: another's node may be well
            if not done:
                await asyncio.sleep(RETRY_AFTER)

    async def _write(self, identity: Identity) -> bool:
        """Whether nothing is left to do."""
        ref, now = identity.ref, self._clock()
        if now >= ref.expires_at + MAX_LEEWAY:
            return True
        note = Note(NOTE_REASON, NOTE_BY, now)
        try:
            await self._store.revoke_token(
                TokenRevocation(ref.token, ref.user, ref.bucket, ref.expires_at, note)
            )
        except StoreError as error:
            self.results["failed"] += 1
            if not self._failing:
                log.warning(events.EXPOSED_NOT_REVOKED, error=str(error))
            self._failing = True
            return False
        self._failing = False
        self.results["revoked"] += 1
        log.warning(events.EXPOSED_REVOKED, issuer=identity.issuer, token=ref.token)
        return True
