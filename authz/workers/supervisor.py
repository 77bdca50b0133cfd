"""The parent of several workers: binds, accepts, hands connections out, and keeps all alive.

It hands connections out itself because HTTP/2 connections are few and live long: Envoy opens one
per worker thread of its own. Where processes race for them on a shared socket, or the kernel hashes
them (SO_REUSEPORT), some get two and others none, for days. The parent reads no byte of them.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

import structlog

from authz import __version__
from authz.event_loop import loop_factory, stopping_signals
from authz.footprint import settle
from authz.observe import events
from authz.observe.heartbeat import Heartbeat
from authz.observe.http import AdminServer
from authz.observe.logs import configure_logs
from authz.observe.readiness import Readiness
from authz.settings import Settings, SettingsError
from authz.workers.acceptor import Acceptor
from authz.workers.balance import Balance
from authz.workers.keeper import Keeper
from authz.workers.process import TICK, WorkerProcess
from authz.workers.report import FleetMetrics
from authz.workers.share import require_shareable, settings_of

log = structlog.get_logger(__name__)


class Supervisor:
    """All workers together, towards the outside one sidecar. Make it in a running event loop."""

    def __init__(self, settings: Settings) -> None:
        """SettingsError: settings that several processes can't share."""
        require_shareable(settings)
        self._settings = settings
        self._started_at = time.time()
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[str] = self._loop.create_future()
        """Done, with one line that says why, when a worker can't start as configured while the
        workers start for the first time; later it is tried again instead. Holds an exception where
        that ended the care for the workers.
        """
        self._workers = [
            Keeper(number, settings_of(settings, number), self._changed, self._share)
            for number in range(settings.workers)
        ]
        self._balance = Balance()
        self._acceptor: Acceptor | None = None
        self._settled = False  # each worker has served, or died of something else; one does serve
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._heartbeat = Heartbeat()
        self._readiness = Readiness()
        self._metrics = FleetMetrics(self._workers, self._loop)
        self._admin = AdminServer(
            settings.http_listen,
            metrics=self._metrics.render,
            status=self.status,
            heartbeat=self._heartbeat,
            readiness=self._readiness,
            ailment=self._ailment,
        )

    def start(self) -> None:
        """Bind, and start the workers. SettingsError: an address can't be had."""
        settings = self._settings
        log.info(events.STARTING, version=__version__, workers=settings.workers)
        self._heartbeat.start()
        self._admin.start()
        self._acceptor = Acceptor(settings.listen, self._give)
        works = [worker.keep() for worker in self._workers] + [self._tick()]
        self._tasks = [self._loop.create_task(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(self._task_ended)

    def reload(self) -> None:
        """Have all workers read their keys again and reopen their audits (SIGHUP)."""
        log.info(events.RELOADING)
        for worker in self._workers:
            if worker.life is not None:
                worker.life.reload()

    async def stop(self) -> None:
        """Not ready; no new connections; the workers finish what they began, or are killed."""
        self._stopping = True
        self._readiness.not_serving("draining")
        log.info(events.DRAINING)
        if self._acceptor is not None:
            self._acceptor.close()
        for worker in self._workers:
            worker.stop()
        *keepers, ticking = self._tasks
        await asyncio.gather(*keepers, return_exceptions=True)
        ticking.cancel()
        await asyncio.wait([ticking])
        await self._heartbeat.aclose()
        await self._admin.aclose()
        log.info(events.STOPPED)

    async def status(self) -> Mapping[str, Any]:
        """What the workers know, each for itself: JSON-ready, without secrets."""
        told = await asyncio.gather(*(worker.ask("status") for worker in self._workers))
        return {
            "version": __version__,
            "ready": self._readiness.ready,
            "uptime_seconds": round(time.time() - self._started_at, 1),
            "listen": self._settings.listen,
            "workers": [
                {
                    "worker": worker.number,
                    "pid": None if worker.life is None else worker.life.pid,
                    "up": worker.up,
                    "restarts": worker.restarts,
                    "connections": worker.connections,
                    "status": status,
                }
                for worker, status in zip(self._workers, told, strict=True)
            ],
        }

    def _takers(self) -> list[WorkerProcess]:
        lives = (worker.life for worker in self._workers)
        return [life for life in lives if life is not None and life.takes_connections]

    def _give(self, connection: socket.socket) -> bool:
        """To the worker with the fewest; of equal ones to who had the fewest ever."""
        min(self._takers(), key=lambda life: (life.connections, life.handed)).hand(connection)
        return bool(self._takers())

    def _share(self, teller: Keeper, payload: bytes) -> None:
        """What works once was used at one worker: to all others."""
        for worker in self._workers:
            if worker is not teller:
                worker.tell_uses(payload)

    def _changed(self) -> None:
        """Something about a worker did: who is ready, and who takes connections?"""
        if self._stopping:
            return
        if not self._settled:
            self._watch_the_start()
        # Only once all had their chance: the first to serve would get every connection that waits.
        if self._acceptor is not None:
            self._acceptor.accept(self._settled and bool(self._takers()))
        if self._settled and any(worker.up for worker in self._workers):
            self._readiness.serving()
        else:
            self._readiness.not_serving("no worker serves" if self._settled else "starting")

    def _watch_the_start(self) -> None:
        failures = [worker.failure for worker in self._workers if worker.failure]
        if failures:
            if not self.failed.done():
                self.failed.set_result(failures[0])
            return
        workers = self._workers
        self._settled = any(worker.serving for worker in workers) and all(
            worker.serving or worker.restarts for worker in workers
        )
        if self._settled:
            log.info(events.SERVING, listen=self._settings.listen)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)

    def _ailment(self) -> str:
        """For `/healthz`, and called by other threads."""
        alive = self._stopping or any(worker.alive for worker in self._workers)
        return "" if alive else "no worker lives"

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for worker in self._workers:
                worker.tick()
            self._even_out()

    def _even_out(self) -> None:
        """A worker that was restarted has no connection, and those of the others stay for days:
        some of them are sent away, in order, and come back to it.
        """
        takers = self._takers()
        excess = self._balance.excess([life.connections for life in takers])
        for life, connections in zip(takers, excess, strict=True):
            if connections:
                life.shed(connections)


async def _supervise(settings: Settings) -> None:
    stopping = stopping_signals()
    supervisor = Supervisor(settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, supervisor.reload)
    supervisor.failed.add_done_callback(lambda _: stopping.set())
    supervisor.start()
    settle()
    await stopping.wait()
    await supervisor.stop()
    if supervisor.failed.done():
        raise SettingsError(supervisor.failed.result())


def run(settings: Settings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT. SettingsError: it can't
    start as configured.
    """
    configure_logs(settings.log)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_supervise(settings))
