"""How late the event loop is, and whether it turns at all."""

import asyncio
import contextlib
import time

import structlog

from authz.observe import events
from authz.observe.counters import LAG_BUCKETS, Histogram

INTERVAL = 0.25
"""Seconds between two beats. Four a second cost nothing and find a stall of Envoy's 200 ms."""

HUNG_AFTER = 5.0
"""Seconds without a beat after which the loop counts as hung: 25 times what Envoy waits for a
check, and longer than anything the loop does on purpose."""

BLOCKED_OVER = 1.0
"""Seconds of lag that are worth a line in the log."""

log = structlog.get_logger(__name__)


class Heartbeat:
    """A timer on the event loop. What it finds may be read from any thread."""

    def __init__(self) -> None:
        self.lag = Histogram(LAG_BUCKETS)
        """Seconds by which beats came later than they were due."""
        self._beat_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat, on the running loop."""
        self._beat_at = time.monotonic()
        self._task = asyncio.get_running_loop().create_task(self._beat(), name="heartbeat")

    async def aclose(self) -> None:
        """Stop beating."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def age(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._beat_at

    @property
    def hung(self) -> bool:
        """Whether the loop stands still."""
        return self.age() > HUNG_AFTER

    async def _beat(self) -> None:
        while True:
            due = time.monotonic() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self._beat_at = time.monotonic()
            lag = max(0.0, self._beat_at - due)
            self.lag.observe(lag)
            if lag > BLOCKED_OVER:
                log.warning(events.LOOP_BLOCKED, seconds=round(lag, 3))
