"""A `NativeServer` in this process, on a loop in a thread of its own, for clients that block."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from authz.envoy_api.server import NativeServer
from support.ports import LOOPBACK

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
TIMEOUT = 20.0
"""Seconds; nothing here should take two."""

T = TypeVar("T")


class Answers:
    """Answers with what it was sent, or does as the test says."""

    def __init__(self, answer: Callable[[bytes], bytes | Awaitable[bytes]] = bytes) -> None:
        self._answer = answer
        self.asked: list[bytes] = []

    def check(self, data: bytes) -> bytes | Awaitable[bytes]:
        self.asked.append(data)
        return self._answer(data)


class Held:
    """Answers that come when the test says."""

    def __init__(self) -> None:
        self.futures: dict[bytes, asyncio.Future[bytes]] = {}
        self.cancelled: list[bytes] = []

    def __call__(self, data: bytes) -> Awaitable[bytes]:
        return self._wait(data)

    async def _wait(self, data: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.futures[data] = future
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(data)
            raise


class ServerThread:
    """Serves from the beginning of a `with` to its end."""

    def __init__(
        self,
        answer: Callable[[bytes], bytes | Awaitable[bytes]] = bytes,
        *,
        loop: str = "uvloop",
        listen: tuple[str, ...] = (f"{LOOPBACK}:0",),
        **options: Any,
    ) -> None:
        """`options` are those of `NativeServer`."""
        self.answers = Answers(answer)
        self._loop = LOOPS[loop]()
        self._thread = threading.Thread(target=self._run, name="server")
        self.complaints: list[dict[str, Any]] = []
        """What the loop was told of exceptions that nobody caught."""
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.server = NativeServer(self.answers, listen, **options)
        self.address = ""
        """Of the first listener."""

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the server's loop, and wait for what it returns."""
        return self.begin(coroutine).result(TIMEOUT)

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call it on the server's loop."""

        async def call() -> T:
            return function(*args)

        return self.run(call())

    def stop(self, grace: float = 0) -> None:
        self.run(self.server.stop(grace))

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self.server.start())
        except BaseException:
            self._end()
            raise
        self.address = next(iter(self.server.addresses), "")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
            tasks = self.call(self._others)
        finally:
            self._end()
        if error is None:
            assert not self.complaints, self.complaints
            assert not tasks, tasks

    def _others(self) -> list[str]:
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        return [repr(task) for task in tasks if not task.done()]

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
