"""A TCP proxy on loopback whose line can be cut, slowed or made to lose one direction."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine
from typing import Any, Literal, Self

from support.ports import LOOPBACK, free_port

Direction = Literal["to_server", "to_client"]
DIRECTIONS: tuple[Direction, Direction] = ("to_server", "to_client")

CHUNK = 65_536


class TcpProxy:
    """Forwards `host`:`port` to 127.0.0.1:`server_port`, in a thread with a loop of its own.

    With `tls` it ends TLS: clients speak TLS to it and it speaks plain TCP to the server. All
    methods may be called from any thread and return when the change is in force.
    """

    def __init__(
        self,
        server_port: int,
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`host` is where it listens: on Linux any address of 127.0.0.0/8 will do."""
        self.host = host
        self.port = port or free_port()
        self.server_port = server_port
        self.connections_seen = 0
        self._tls = tls
        self._delays: dict[Direction, float] = dict.fromkeys(DIRECTIONS, 0.0)
        self._open: dict[Direction, asyncio.Event] = {}
        self._listener: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}")

    def start(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def stop(self) -> None:
        self._do(self._cut())
        self._do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break every connection; new ones are refused until `restore`."""
        self._do(self._cut())

    def restore(self) -> None:
        """As at the start: listening, no delay, both directions open."""
        self._do(self._restore())

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Hold every piece of data this long, in one direction or in both."""
        for each in DIRECTIONS if direction is None else (direction,):
            self._delays[each] = seconds

    def block(self, direction: Direction | None = None) -> None:
        """Forward nothing in this direction (or in neither) while connections stay up. What is
        held goes on its way after `restore`.
        """
        self._do(self._block(DIRECTIONS if direction is None else (direction,)))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _do(self, action: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(action, self._loop).result(10)

    async def _start(self) -> None:
        self._open = {direction: asyncio.Event() for direction in DIRECTIONS}
        await self._restore()

    async def _restore(self) -> None:
        for direction in DIRECTIONS:
            self._delays[direction] = 0.0
            self._open[direction].set()
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, self.host, self.port, ssl=self._tls
            )

    async def _block(self, directions: tuple[Direction, ...]) -> None:
        for direction in directions:
            self._open[direction].clear()

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    async def _settle(self) -> None:
        """End what was accepted in the last moment, and let every transport close its socket."""
        late = asyncio.all_tasks() - {asyncio.current_task()}
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for _ in range(3):  # abort → connection_lost → close, a turn of the loop each
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_seen += 1
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        # Cancelled by `_cut` only, and then done: asyncio's own callback would report it.
        with contextlib.suppress(asyncio.CancelledError):
            await self._connect(reader, writer)
        self._lines.discard(line)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(LOOPBACK, self.server_port)
        except OSError:
            writer.transport.abort()
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        pumps = [
            asyncio.ensure_future(self._pump(reader, up_writer, "to_server")),
            asyncio.ensure_future(self._pump(up_reader, writer, "to_client")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (writer, up_writer):  # before any await, at which `_cut` may come again
                end.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: Direction
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if self._delays[direction]:
                    await asyncio.sleep(self._delays[direction])
                await self._open[direction].wait()
                sink.write(data)
                await sink.drain()
