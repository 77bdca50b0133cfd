"""Counts requests in sliding windows: in Redis for all processes together, and alone without it.

While Redis doesn't answer each process counts for itself, from nought. Nobody waits for Redis then:
one request a second asks it.
"""

import asyncio
import hashlib
import time
from base64 import urlsafe_b64encode
from typing import Literal

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisClusterException, RedisError

from authz.observe import events
from authz.settings.token_limits import TokenLimitsSettings

Limit = Literal[
    "issue_client", "issue_user", "issue_address",
    "refresh_client", "refresh_user", "refresh_address",
    "failures_client", "failures_user", "failures_address",
]  # fmt: skip
"""As the settings have them."""

SHARED_TIMEOUT = 0.25
"""Seconds that a request waits for the shared counters: ten times what they take when well."""

SHARED_RETRY = 1.0
"""Seconds between two requests that ask Redis again while it doesn't answer."""

MAX_LOCAL = 10_000
"""Names that are counted here. Each hit walks over all of them (0.5 ms for so many); whoever comes
beyond is refused, as Redis is away and little can be done for anyone."""

_FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)

log = structlog.get_logger(__name__)


class Limiter:
    """Says who has asked too often. `shared`: the counters in Redis; None: there is none."""

    def __init__(self, settings: TokenLimitsSettings, shared: Storage | None) -> None:
        self._rates: dict[str, RateLimitItem] = {
            name: parse(rate) for name, rate in settings if rate is not None
        }
        self._shared = None if shared is None else SlidingWindowCounterRateLimiter(shared)
        self._memory = MemoryStorage()
        self._local = SlidingWindowCounterRateLimiter(self._memory)
        self._ask_again_at = 0.0
        self._sweep_at = 0.0
        self.shared_answers = shared is not None
        """Whether the counters in Redis are in use."""
        self.failures = 0
        """Of the shared counters."""

    async def hit(self, limit: Limit, who: str) -> float | None:
        """Count one request. None: it may go on; else seconds until it is worth another try."""
        return await self._ask(limit, who, count=True)

    async def look(self, limit: Limit, who: str) -> float | None:
        """The same, and nothing is counted."""
        return await self._ask(limit, who, count=False)

    async def _ask(self, limit: Limit, who: str, *, count: bool) -> float | None:
        rate = self._rates.get(limit)
        if rate is None:
            return None
        name = _name(who)
        if self._shared is not None and self._may_ask():
            try:
                async with asyncio.timeout(SHARED_TIMEOUT):
                    after = await _count(self._shared, rate, limit, name, count=count)
            except _FAILURES as error:
                self._fell_silent(error)
            else:
                self._answered()
                return after
        if not await self._has_room():
            return SHARED_RETRY
        return await _count(self._local, rate, limit, name, count=count)

    async def _has_room(self) -> bool:
        """Whether another name can be counted here. Where it is full, what has run out is dropped,
        once in SHARED_RETRY: the library does that only when it counts.
        """
        if len(self._memory.expirations) < MAX_LOCAL:
            return True
        if time.monotonic() < self._sweep_at:
            return False
        self._sweep_at = time.monotonic() + SHARED_RETRY
        now = time.time()
        for name, expires in list(self._memory.expirations.items()):
            if expires <= now:
                await self._memory.clear(name)
        return len(self._memory.expirations) < MAX_LOCAL

    def _may_ask(self) -> bool:
        now = time.monotonic()
        if now < self._ask_again_at:
            return False
        if not self.shared_answers:
            self._ask_again_at = now + SHARED_RETRY  # this one asks, the others don't
        return True

    def _fell_silent(self, error: Exception) -> None:
        self.failures += 1
        self._ask_again_at = time.monotonic() + SHARED_RETRY
        if self.shared_answers:
            self.shared_answers = False
            log.warning(events.LIMITS_LOCAL, error=str(error) or type(error).__name__)

    def _answered(self) -> None:
        if not self.shared_answers:
            self.shared_answers = True
            self._ask_again_at = 0.0
            # The next outage begins from nought, as this one did.
            self._memory = MemoryStorage()
            self._local = SlidingWindowCounterRateLimiter(self._memory)
            log.info(events.LIMITS_SHARED)


async def _count(
    strategy: SlidingWindowCounterRateLimiter,
    rate: RateLimitItem,
    limit: Limit,
    name: str,
    *,
    count: bool,
) -> float | None:
    ask = strategy.hit if count else strategy.test
    if await ask(rate, limit, name):
        return None
    stats = await strategy.get_window_stats(rate, limit, name)
    # Of a weighted window the library says when it changes, which may be a moment ago.
    return max(0.0, stats.reset_time - time.time())


def _name(who: str) -> str:
    """Of whoever is counted, in a key: nothing of it is to be read there, or to break it."""
    digest = hashlib.sha256(who.encode(errors="surrogatepass")).digest()
    return urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()
