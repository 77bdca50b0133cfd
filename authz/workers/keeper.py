"""Keeps one worker alive: a life ends, and after a while that grows the next one begins."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from authz.observe import events
from authz.settings import Settings
from authz.workers.backoff import Backoff
from authz.workers.process import WorkerProcess, ending

log = structlog.get_logger(__name__)


class Keeper:
    """One worker over all its lives. Used on the event loop."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        changed: Callable[[], None],
        share: Callable[["Keeper", bytes], None],
    ) -> None:
        """`settings`: this worker's own. `changed` is called whenever something about it did;
        `share` with what it says to the other workers.
        """
        self.number = number
        self.restarts = 0
        """Lives that ended unasked."""
        self.life: WorkerProcess | None = None
        self.failure = ""
        """Why the last life couldn't start as configured; empty where it could."""
        self._settings = settings
        self._changed = changed
        self._share = share
        self._backoff = Backoff()
        self._stop = asyncio.Event()
        self._noted_hung = False

    @property
    def serving(self) -> bool:
        """Whether checks are answered on its connections."""
        return self.life is not None and self.life.serving

    @property
    def up(self) -> bool:
        """Whether it serves, and says so when asked."""
        return self.life is not None and self.life.serving and not self.life.hung

    @property
    def alive(self) -> bool:
        """Whether there is a process that isn't known to hang, or is about to be the first one."""
        if self.life is None:
            return self.restarts == 0
        return not self.life.hung

    @property
    def connections(self) -> int:
        return 0 if self.life is None else self.life.connections

    async def keep(self) -> None:
        """Start it, and again whenever it ended, until `stop`."""
        while not self._stop.is_set():
            wait = await self._live()
            self._changed()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait)

    def stop(self) -> None:
        """Drain it, and start it no more; then `keep` returns."""
        self._stop.set()
        if self.life is not None:
            self.life.drain()

    def kill(self) -> None:
        """At once, where it runs; `keep` goes on."""
        if self.life is not None:
            self.life.kill()

    def tell_uses(self, payload: bytes) -> None:
        """What another worker shared. One that hangs isn't told: it would have to be kept for it,
        and nobody is let through by it meanwhile.
        """
        if self.life is not None and self.up:
            self.life.tell_uses(payload)

    def tick(self) -> None:
        """Once in `process.TICK`: is it well?"""
        if self.life is not None:
            self.life.tick()
            self._note_health(self.life)
            self._changed()

    async def ask(self, subject: str) -> Any:
        """What it says of itself, as `WorkerProcess.ask`; None where there is no answer."""
        return None if self.life is None else await self.life.ask(subject)

    async def _live(self) -> float:
        """One life. Seconds until the next one may begin."""
        lived = 0.0
        try:
            life = self.life = WorkerProcess(
                self.number, self._settings, self._heard, partial(self._share, self)
            )
        except OSError as error:
            how: dict[str, Any] = {"error": error.strerror}
        else:
            how = {"pid": life.pid, **ending(await life.wait())}
            lived = life.lived
        self.life = None
        self._noted_hung = False
        if self._stop.is_set():
            return 0.0
        self.restarts += 1
        wait = self._backoff.wait(lived)
        if self.failure:
            how["error"] = self.failure
        log.error(
            events.WORKER_ENDED, worker=self.number, **how, lived=round(lived, 1), restart_in=wait
        )
        return wait

    def _heard(self) -> None:
        if self.life is not None:
            self.failure = self.life.failure
            self._note_health(self.life)
        self._changed()

    def _note_health(self, life: WorkerProcess) -> None:
        if life.hung == self._noted_hung:
            return
        self._noted_hung = life.hung
        if life.hung:
            log.error(events.WORKER_HUNG, worker=self.number, pid=life.pid)
        else:
            log.info(events.WORKER_RECOVERED, worker=self.number, pid=life.pid)
