"""One life of a worker, as the parent sees it: from the start of the process to its exit code."""

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from authz.settings import Settings
from authz.workers.channel import Channel, Frame, Kind

TICK = 1.0
"""Seconds between two pings."""

HUNG_TICKS = 5
"""Pings without an answer after which a worker counts as hung: no new connections, `up` 0. Five
seconds, as `/healthz` of a single process."""

KILL_TICKS = 30
"""Pings without an answer after which a hung worker is killed, for Envoy's checks on its
connections time out as long as it lives. 30 s is gunicorn's `timeout`, and what Kubernetes' default
liveness probe takes (three times ten seconds) to restart a single process."""

START_LIMIT = 60.0
"""Seconds from the start of the process to SERVING. It takes one on an idle machine."""

MARGIN = 4.0
"""Seconds above `drain_timeout` for the rest of a stop, of which the audit may take two. With the
default of 5 the whole ends within the 10 s that Docker gives, too."""

MAX_UNADOPTED = 64
"""Connections on their way to a worker. More means that it doesn't read; the others wait in the
listen backlog. The kernel allows RLIMIT_NOFILE of them in flight (unix(7), ETOOMANYREFS)."""

ASK_TIMEOUT = 1.0
"""Seconds for a worker's answer about itself. A scrape has ten."""

_POLL = 0.01
_LINGER = 5.0
"""Seconds between the end of the channel and that of the process. It takes milliseconds."""


class WorkerProcess:
    """A running worker. Used on the event loop."""

    def __init__(
        self,
        number: int,
        settings: Settings,
        changed: Callable[[], None],
        share: Callable[[bytes], None],
    ) -> None:
        """Start it. `changed` is called when it says something that alters what it is good for;
        `share` with what it says to the other workers. OSError: there are no more processes or
        descriptors to be had.
        """
        self.serving = False
        self.draining = False
        self.failure = ""
        """Why it can't start as configured; empty otherwise."""
        self.unanswered = 0
        """Pings in a row that it owes an answer to."""
        self._drain_limit = settings.drain_timeout + MARGIN
        self._changed = changed
        self._share = share
        self._handed = self._adopted = self._open = 0
        self._questions = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._process, end = _spawn(number)
        self._started_at = time.monotonic()
        self._channel = Channel(end, receive=self._received, ended=self._ended)
        self._channel.send(Frame(Kind.START, pickle.dumps(settings)))
        self._deadline = self._loop.call_later(START_LIMIT, self.kill)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lived(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_at

    @property
    def hung(self) -> bool:
        return self.unanswered >= HUNG_TICKS

    @property
    def connections(self) -> int:
        """Open, those on their way to it included."""
        return self._open + self._handed - self._adopted

    @property
    def handed(self) -> int:
        """Connections it was ever given."""
        return self._handed

    @property
    def takes_connections(self) -> bool:
        unadopted = self._handed - self._adopted
        return self.serving and not self.draining and not self.hung and unadopted < MAX_UNADOPTED

    def hand(self, connection: socket.socket) -> None:
        """Give it a connection, which is no longer the caller's."""
        self._handed += 1
        self._channel.send(Frame(Kind.ADOPT, connection=connection))

    def shed(self, connections: int) -> None:
        """Have it send so many of its clients elsewhere, in order."""
        self._channel.send(Frame(Kind.SHED, json.dumps(connections).encode()))

    def tell_uses(self, payload: bytes) -> None:
        """What another worker shared."""
        self._channel.send(Frame(Kind.USES, payload))

    def reload(self) -> None:
        """Read keys and certificates again, reopen the audit."""
        self._channel.send(Frame(Kind.RELOAD))

    def drain(self) -> None:
        """Have it answer what it began and end; it is killed where that takes too long."""
        if self.draining:
            return
        self.draining = True
        self._channel.send(Frame(Kind.DRAIN))
        self._deadline.cancel()
        self._deadline = self._loop.call_later(self._drain_limit, self.kill)

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        self._process.kill()  # polls first: never a recycled pid

    def tick(self) -> None:
        """Once in `TICK`: see whether it answered, and ask again. It counts ticks rather than time,
        so that a parent that was stopped for a while doesn't blame its workers.
        """
        if not self.serving:
            return
        if self.unanswered >= KILL_TICKS:
            self.kill()
            return
        self.unanswered += 1
        self._channel.send(Frame(Kind.PING))

    async def ask(self, subject: str) -> Any:
        """`metrics` or `status`; None where it doesn't answer in time."""
        if not self.serving or self.hung:
            return None
        number = next(self._questions)
        answer = self._answers[number] = self._loop.create_future()
        self._channel.send(Frame(Kind.ASK, json.dumps([number, subject]).encode()))
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._answers[number]

    async def wait(self) -> int:
        """Until it is over. The exit code; minus a signal's number where that ended it."""
        await self._over.wait()
        killed_at = time.monotonic() + _LINGER
        while (code := self._process.poll()) is None:
            if time.monotonic() > killed_at:
                self.kill()
            await asyncio.sleep(_POLL)
        return code

    def _received(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.PONG:
                hung, self.unanswered = self.hung, 0
                if hung:
                    self._changed()
                return
            case Kind.ANSWER:
                number, answer = json.loads(frame.payload)
                self._settle(number, answer)
                return
            case Kind.USES:
                self._share(frame.payload)
                return
            case Kind.CONNECTIONS:
                self._adopted, self._open = json.loads(frame.payload)
            case Kind.SERVING:
                self.serving = True
                if not self.draining:
                    self._deadline.cancel()
            case Kind.FAILED:
                self.failure = frame.payload.decode()
            case Kind.RETIRE:
                self.drain()
        self._changed()

    def _settle(self, number: int, answer: Any) -> None:
        waiting = self._answers.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _ended(self) -> None:
        """The channel ends with the process: nobody else has the other end."""
        self.serving = False
        self._deadline.cancel()
        for number in list(self._answers):
            self._settle(number, None)
        self._over.set()
        self._changed()


def _spawn(number: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of its channel."""
    here, there = socket.socketpair()
    with contextlib.ExitStack() as on_error, there:
        on_error.callback(here.close)
        process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            # -P, and the path as it is here: it imports what this process would, and nothing that
            # happens to lie in the working directory.
            [sys.executable, "-P", "-m", "authz.workers.worker", str(there.fileno()), str(number)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            # A process group of its own: Ctrl-C in a terminal is for the parent, which tells its
            # workers. Not a session: when the parent dies, the kernel then wakes a stopped worker
            # (setpgid(2), orphaned process groups), and it finds that it has to end.
            process_group=0,
        )
        on_error.pop_all()
    return process, here


def ending(code: int) -> dict[str, Any]:
    """Fields of the log that say how a process ended."""
    if code >= 0:
        return {"exit_code": code}
    with contextlib.suppress(ValueError):
        return {"signal": signal.Signals(-code).name}
    return {"signal": -code}
