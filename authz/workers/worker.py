"""A worker: one sidecar that gets its connections from its parent, and answers to it.

Started by `process.py` as `python -m authz.workers.worker DESCRIPTOR NUMBER`.
"""

import asyncio
import json
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from typing import Any

import structlog

from authz.envoy_api.server import NativeServer
from authz.envoy_api.service import CheckService
from authz.event_loop import loop_factory
from authz.footprint import settle
from authz.observe import events
from authz.observe.logs import configure_logs
from authz.settings import Settings, SettingsError
from authz.sidecar import Sidecar
from authz.workers.channel import Channel, Frame, Kind
from authz.workers.exposition import pack
from authz.workers.process import MARGIN

log = structlog.get_logger(__name__)


class Worker:
    """The process itself. Make it in a running loop."""

    def __init__(self, end: socket.socket, number: int) -> None:
        """`end`: our end of the channel to the parent."""
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._number = number
        self._settings: asyncio.Future[Settings | None] = self._loop.create_future()
        self._ending = asyncio.Event()
        self._sidecar: Sidecar | None = None
        self._server: NativeServer | None = None
        self._reload_wanted = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._adopted = 0
        self._telling = False
        self._uses: list[tuple[str, float, bool]] = []
        self._channel = Channel(end, receive=self._received, ended=self._orphaned)

    async def run(self) -> int:
        """Serve until the parent says to end, or is gone. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._retire)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        settings = await self._settings
        if settings is None:
            return 0
        _leash(self._end, settings.drain_timeout + MARGIN)
        configure_logs(settings.log, worker=self._number)
        try:
            sidecar = Sidecar(settings, open_server=self._open_server, admin=False)
            await sidecar.start()
        except SettingsError as error:
            self._channel.send(Frame(Kind.FAILED, str(error).encode()))
            return 2
        self._sidecar = sidecar
        sidecar.ledger.tell = self._tell_use
        settle()
        self._channel.send(Frame(Kind.SERVING))
        if self._reload_wanted:
            self._reload()
        await self._ending.wait()
        await sidecar.stop()
        return 0

    def _open_server(self, settings: Settings, service: CheckService) -> NativeServer:
        server = self._server = NativeServer(service, tls=settings.listen_tls)
        server.on_connection_end = self._tell_connections
        return server

    def _received(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.START:
                self._settings.set_result(pickle.loads(frame.payload))  # noqa: S301  our parent's
            case Kind.ADOPT:
                self._adopt(frame.connection)
            case Kind.PING:
                self._channel.send(Frame(Kind.PONG))
                self._tell_connections()  # an end that nobody told of stays unknown for a second
            case Kind.ASK:
                self._spawn(self._answer(*json.loads(frame.payload)))
            case Kind.RELOAD:
                self._reload()
            case Kind.USES:
                if self._sidecar is not None:
                    self._sidecar.ledger.hear(json.loads(frame.payload), time.time())
            case Kind.SHED:
                self._shed(json.loads(frame.payload))
            case Kind.DRAIN:
                self._end_now()

    def _adopt(self, connection: socket.socket | None) -> None:
        self._adopted += 1
        if connection is not None and self._server is not None:
            self._server.adopt(connection)
        self._tell_connections()

    def _shed(self, connections: int) -> None:
        if self._server is not None:
            log.info(events.CONNECTIONS_SHED, connections=connections)
            self._server.shed(connections)

    def _tell_connections(self) -> None:
        """Once in a turn of the loop, however many came and went in it."""
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self._tell_connections_now)

    def _tell_connections_now(self) -> None:
        self._telling = False
        open_now = 0 if self._server is None else self._server.connections
        payload = json.dumps([self._adopted, open_now]).encode()
        self._channel.send(Frame(Kind.CONNECTIONS, payload))

    def _tell_use(self, name: str, until: float, used: bool) -> None:
        """All of one turn of the loop in one frame."""
        if not self._uses:
            self._loop.call_soon(self._tell_uses_now)
        self._uses.append((name, until, used))

    def _tell_uses_now(self) -> None:
        self._channel.send(Frame(Kind.USES, json.dumps(self._uses).encode()))
        self._uses.clear()

    async def _answer(self, number: int, subject: str) -> None:
        sidecar = self._sidecar
        if sidecar is None:
            return
        if subject == "metrics":
            # Elsewhere than on the loop: it takes as long as some hundred checks.
            answer: Any = await asyncio.to_thread(pack, sidecar.metrics.registry)
        else:
            answer = sidecar.status()
        payload = json.dumps([number, answer]).encode()
        self._channel.send(Frame(Kind.ANSWER, payload))

    def _reload(self) -> None:
        if self._sidecar is None:
            self._reload_wanted = True
        else:
            self._spawn(self._sidecar.reload())

    def _retire(self) -> None:
        """The parent gives it no more connections and has it drain then, in this order: so none is
        on its way to a worker that is closed.
        """
        self._channel.send(Frame(Kind.RETIRE))

    def _orphaned(self) -> None:
        """The parent is gone. Nobody needs us, but those who wait for answers."""
        self._end_now()

    def _end_now(self) -> None:
        self._ending.set()
        if not self._settings.done():
            self._settings.set_result(None)

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _leash(end: socket.socket, limit: float) -> None:
    """Once the parent is gone, end within `limit` seconds even if the event loop hangs: there is
    nobody left who would kill us.
    """

    def watch() -> None:
        hang_up = select.poll()
        hang_up.register(end.fileno(), 0)  # POLLHUP is told without being asked for (poll(2))
        hang_up.poll()
        time.sleep(limit)
        os._exit(1)

    threading.Thread(target=watch, name="leash", daemon=True).start()


async def _work(descriptor: int, number: int) -> int:
    return await Worker(socket.socket(fileno=descriptor), number).run()


def main() -> None:
    """Be the worker whose end of the channel, and whose number, the arguments give."""
    descriptor, number = map(int, sys.argv[1:])
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        sys.exit(runner.run(_work(descriptor, number)))


if __name__ == "__main__":
    main()
