"""Steady load on an Envoy: connections that are kept, each asking as soon as it was answered."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from support.ports import LOOPBACK
from support.waiting import wait_until


class Ask(NamedTuple):
    """A request, and the status that it must be answered with."""

    token: str | None
    status: int


class Seen(NamedTuple):
    """An answer."""

    at: float
    """Seconds of `time.monotonic`, when it was asked for."""
    status: int
    """0: the connection broke instead."""
    expected: int


class SteadyLoad:
    """As a context manager it runs inside the block, in a thread with a loop of its own."""

    def __init__(
        self, port: int, asks: Sequence[Ask], *, connections: int = 8, pause: float = 0.002
    ) -> None:
        """To 127.0.0.1:`port`, the asks in turn. `pause`: seconds between an answer and the next
        request of a connection.
        """
        self._port = port
        self._asks = asks
        self._connections = connections
        self._pause = pause
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.seen: list[Seen] = []

    @property
    def statuses(self) -> Counter[int]:
        return Counter(one.status for one in self.seen)

    @property
    def wrong(self) -> list[Seen]:
        """Answers other than the expected one and Envoy's own 503."""
        return [one for one in self.seen if one.status not in {one.expected, 503}]

    @property
    def unanswered(self) -> list[Seen]:
        """What Envoy answered with 503, for want of an answer of the sidecar's."""
        return [one for one in self.seen if one.status == 503]

    def wait_for(self, more: int) -> None:
        """Until so many more were answered."""
        enough = len(self.seen) + more
        wait_until(lambda: len(self.seen) >= enough, f"{more} more answers", timeout=30)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._ask_on_all())

    async def _ask_on_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._ask_on(number))

    async def _ask_on(self, number: int) -> None:
        while not self._ending.is_set():
            try:
                reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
            except OSError:
                continue
            try:
                while not self._ending.is_set():
                    number += 1
                    await self._ask(reader, writer, self._asks[number % len(self._asks)])
                    await self._rest()
            except (OSError, asyncio.IncompleteReadError):
                pass  # noted as status 0
            finally:
                writer.close()

    async def _rest(self) -> None:
        """Until the next request; no longer than the load goes on."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), self._pause)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask
    ) -> None:
        at, status = time.monotonic(), 0
        field = f"authorization: Bearer {ask.token}\r\n" if ask.token else ""
        try:
            writer.write(f"GET / HTTP/1.1\r\nhost: app.example\r\n{field}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status = int(head.split(" ", 2)[1])
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
        finally:
            self.seen.append(Seen(at, status, ask.status))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
