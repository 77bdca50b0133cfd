"""The store that `store.url` names."""

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from authz.revocation.memory import MemoryStore
from authz.revocation.record import Clear, Revoked, TokenRef
from authz.revocation.redis.outage import Breaker
from authz.settings import Settings

if TYPE_CHECKING:
    from authz.revocation.redis.store import RedisStore


def open_store(
    settings: Settings,
    *,
    learn: Callable[[TokenRef, Revoked | Clear], None] | None = None,
    observe: Callable[[float, int], None] | None = None,
) -> "MemoryStore | RedisStore":
    """A store, not yet connected. `learn` and `observe` as in `RedisStore`. Call it in a running
    loop. SettingsError: a password or certificate that can't be read.
    """
    if settings.store.url.get_secret_value().startswith("memory:"):
        return MemoryStore()
    from authz.revocation.redis.store import RedisStore  # 7 MB that memory:// doesn't need

    # Randomness here spreads probes; nothing secret hangs on it.
    return RedisStore(
        settings.store,
        make_breaker=lambda: Breaker(time.monotonic(), random.random),
        learn=learn or _nobody,
        observe=observe or _nobody,
    )


def _nobody(*told: object) -> None:
    """For commands that ask once and keep nothing."""
