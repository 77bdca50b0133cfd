"""Accepts connections at the addresses of `listen`, while there is somebody to give them to."""

import asyncio
import socket
from collections.abc import Callable, Sequence

import structlog

from authz.envoy_api.sockets import ListeningSockets, bind
from authz.observe import events

BATCH = 64
"""Connections accepted in one turn of the loop, so that a storm of them leaves room for signals."""

PAUSE = 1.0
"""Seconds without accepting after an error of ours, such as EMFILE: asyncio's own number."""

log = structlog.get_logger(__name__)


class Acceptor:
    """The listening sockets. Connections it doesn't accept wait in the kernel's backlog."""

    def __init__(self, listen: Sequence[str], give: Callable[[socket.socket], bool]) -> None:
        """`give` takes a connection over and says whether there is room for another. Make it in a
        running loop. SettingsError: an address can't be had.
        """
        self._give = give
        self._loop = asyncio.get_running_loop()
        self._listening: ListeningSockets = bind(listen)
        self._wanted = False
        self._active = False
        self._pause: asyncio.TimerHandle | None = None

    def accept(self, wanted: bool) -> None:
        """Begin to accept, or leave it."""
        self._wanted = wanted
        self._apply()

    def close(self) -> None:
        """Give what waits, and listen no more."""
        for listener in self._listening.sockets:
            self._accept(listener)
        if self._pause is not None:
            self._pause.cancel()
        self.accept(False)
        self._listening.close()

    def _apply(self) -> None:
        active = self._wanted and self._pause is None
        if active == self._active:
            return
        self._active = active
        for listener in self._listening.sockets:
            if active:
                self._loop.add_reader(listener, self._accept, listener)
            else:
                self._loop.remove_reader(listener)

    def _resume(self) -> None:
        self._pause = None
        self._apply()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BATCH):
            if not self._active:
                return
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error(events.ACCEPT_FAILED, problem=error.strerror)  # noqa: TRY400  it says all
                self._pause = self._loop.call_later(PAUSE, self._resume)
                self._apply()
                return
            if not self._give(connection):
                self.accept(False)
                return
