"""Once the store answers again, writes down what was let through without it."""

import asyncio
from collections.abc import Callable

import structlog

from authz.observe import events
from authz.uses.ledger import Ledger

POLL = 0.5
"""Seconds between two tries: the interval of the breaker's probes."""

log = structlog.get_logger(__name__)


class Settler:
    """A task beside the ledger. Make it in a running loop."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        self._ledger = ledger
        self._clock = clock
        self._told = dict(ledger.owed.settled)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Stop, after a last try: nobody else knows of what is left."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._settle()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            await self._settle()

    async def _settle(self) -> None:
        try:
            await self._ledger.settle(self._clock())
        except Exception:  # without this task nothing would ever be written down
            log.exception(events.USES_SETTLING_FAILED)
        settled = self._ledger.owed.settled
        if settled != self._told and not self._ledger.owed:
            new = {result: count - self._told[result] for result, count in settled.items()}
            log.info(events.USES_SETTLED, **new)
            self._told = dict(settled)
