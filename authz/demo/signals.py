"""Signals as flags that the demo looks at where it can stop safely.

A handler that raised could do so between the start of a process and the note that it was started;
so nothing is interrupted, and every wait is short.
"""

import signal
from collections import deque
from types import FrameType, TracebackType
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_REDIS = signal.SIGUSR1
START_REDIS = signal.SIGUSR2


class StopRequestedError(Exception):
    """Somebody pressed Ctrl-C or sent SIGTERM or SIGHUP."""


class Signals:
    """While it is entered, signals are kept instead of acted on. For the main thread."""

    def __init__(self) -> None:
        self._ending = False
        self._wishes: deque[int] = deque()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (*ENDING, STOP_REDIS, START_REDIS):
            self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """StopRequestedError: the demo was asked to end."""
        if self._ending:
            raise StopRequestedError

    def wish(self) -> int | None:
        """STOP_REDIS or START_REDIS, in the order they came; None where there is none."""
        return self._wishes.popleft() if self._wishes else None

    def _keep(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number in ENDING:
            self._ending = True
        else:
            self._wishes.append(number)
