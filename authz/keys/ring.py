"""One issuer's keys for one use as they are now, and how they got there."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from authz.keys.errors import KeySourceError
from authz.keys.jwk import ParsedKeys
from authz.keys.keyset import KeySet
from authz.keys.local import DecryptionFile, LocalSource
from authz.keys.remote import RemoteSource
from authz.observe import events
from authz.settings import SettingsError

REFETCH_INTERVAL = 10.0
"""Seconds between fetches that tokens of unknown `kid` may cause. Anybody can send such tokens; six
requests a minute harm no issuer, and a key that is used before it was published is rare."""

REFETCH_WAIT = 0.15
"""Seconds that a check waits for keys it caused to be fetched. An issuer nearby answers in a few
hundredths; Envoy gives a check 200 ms. The fetch goes on for those who come after."""

log = structlog.get_logger(__name__)


class KeyRing:
    """The keys of one issuer that verify, or that decrypt. The set is replaced as a whole and never
    changed in place.

    A source that fails, or that holds something that can't be used, leaves the last good set as it
    is; a well-formed set without keys is taken at its word.
    """

    def __init__(
        self,
        issuer: str,
        source: LocalSource | RemoteSource,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds from any fixed point, monotonic."""
        self.issuer = issuer
        self.source = source
        self.keys: KeySet | None = None
        """None: nothing was ever obtained."""
        self.last_error = ""
        """What went wrong last; empty when the last reading was good."""
        self.refreshed = 0
        """Attempts to read the source that succeeded, for metrics."""
        self.refreshes_failed = 0
        self._clock = clock
        self._read_at: float | None = None
        self._refetched_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    @property
    def use(self) -> str:
        """What its keys are for, in the word of a JWK's `use` (RFC 7517 section 4.2)."""
        return "enc" if isinstance(self.source, DecryptionFile) else "sig"

    @property
    def failing(self) -> bool:
        """The last attempt to read the source failed."""
        return bool(self.last_error)

    def age(self, now: float) -> float | None:
        """Seconds since the source was last read with success; None if it never was. `now` of the
        ring's clock.
        """
        return None if self._read_at is None else now - self._read_at

    def accept(self, parsed: ParsedKeys) -> None:
        """The source was read. What is equal to the keys known keeps its identity."""
        self.refreshed += 1
        before, was_failing = self.keys, self.failing
        self.keys = parsed.keys if before is None else before.adopt(parsed.keys)
        self._read_at = self._clock()
        self.last_error = ""
        if self.keys is not before:
            self._log_change(parsed, before)
        elif was_failing:
            log.info(events.KEYS_SOURCE_RECOVERED, **self._fields())

    def fail(self, error: KeySourceError) -> None:
        """The source could not be read. Each new cause is logged once."""
        self.refreshes_failed += 1
        if str(error) != self.last_error:
            log.error(events.KEYS_SOURCE_FAILED, error=str(error), **self._fields())
        self.last_error = str(error)

    def refetch(self) -> Awaitable[None] | None:
        """Fetch the keys because a token named one that isn't known.

        None: the source is not a URL, or the last refetch began less than `REFETCH_INTERVAL` ago,
        whether it succeeded or not. The awaitable ends with the fetch, for all who ask while it
        lasts, and after `REFETCH_WAIT` at the latest. It raises nothing; afterwards `keys` is what
        there is.
        """
        if isinstance(self.source, LocalSource):
            return None
        if self._fetching is None:
            now = self._clock()
            if self._refetched_at is not None and now - self._refetched_at < REFETCH_INTERVAL:
                return None
            self._refetched_at = now
        return self._wait_for(self.fetch())

    @staticmethod
    async def _wait_for(fetch: Awaitable[None]) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fetch, REFETCH_WAIT)

    def fetch(self) -> Awaitable[None]:
        """Fetch now, or join the fetch that is under way. The awaitable raises nothing.

        TypeError: the source is not a URL.
        """
        if self._fetching is None:
            if isinstance(self.source, LocalSource):
                raise TypeError(self.source.setting)
            task = asyncio.create_task(self._fetch(self.source), name=f"keys: {self.issuer}")
            self._fetching = task
        # A future for each who waits: one that gives up must not end the fetch for the others.
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fetching.add_done_callback(lambda _: _release(waiter))
        return waiter

    async def aclose(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def status(self) -> dict[str, Any]:
        """JSON-ready, without key material."""
        age = self.age(self._clock())
        return {
            "source": self.source.setting,
            "where": self.source.where,
            "keys": None if self.keys is None else len(self.keys),
            "kids": [] if self.keys is None else list(self.keys.kids),
            "age_seconds": None if age is None else round(age, 1),
            "failing": self.failing,
            "error": self.last_error or None,
        }

    async def _fetch(self, source: RemoteSource) -> None:
        try:
            self.accept(await source.fetch())
        except KeySourceError as error:
            self.fail(error)
        except Exception as error:
            # No fault of one source may end the refreshing of keys, but this one is ours: say all.
            log.exception(events.KEYS_SOURCE_CRASHED, **self._fields())
            self.fail(KeySourceError(f"unexpected {type(error).__name__}"))
        finally:
            self._fetching = None

    def _log_change(self, parsed: ParsedKeys, before: KeySet | None) -> None:
        old = set() if before is None else set(before.kids)
        new = set(parsed.keys.kids)
        log.info(
            events.KEYS_CHANGED,
            keys=len(parsed.keys),
            added=sorted(new - old),
            removed=sorted(old - new),
            **self._fields(),
        )
        for warning in parsed.warnings:
            log.warning(events.KEYS_QUESTIONABLE, warning=warning, **self._fields())
        if not parsed.keys:
            log.warning(events.KEYS_EMPTY, **self._fields())

    def _fields(self) -> dict[str, str]:
        return {
            "issuer": self.issuer,
            "use": self.use,
            "source": self.source.setting,
            "where": self.source.where,
        }


def load_ring(ring: KeyRing, source: LocalSource, setting: str) -> None:
    """Read a ring's source for the first time. SettingsError: it can't be used; the line begins
    with the `setting`.
    """
    try:
        parsed = source.read()
    except KeySourceError as error:
        raise SettingsError(f"{setting}: {source.where}: {error}") from None
    if not parsed.keys:
        # A set without keys is an answer later on, when keys were taken out. At start it is a
        # mistake: nothing could ever be let through.
        why = f" ({parsed.warnings[0]})" if parsed.warnings else ""
        wanted = ", ".join(sorted(source.algorithms))
        raise SettingsError(f"{setting}: {source.where}: holds no key for {wanted}{why}")
    ring.accept(parsed)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
