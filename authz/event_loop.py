"""The event loop that authz' processes run on, and the signals that end one or have it reload."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any


def loop_factory() -> Any:
    """Uvloop where it is installed: it halves the cost of a system call's way into Python. For
    `asyncio.Runner`.
    """
    try:
        import uvloop  # optional: there are platforms without it
    except ImportError:
        return None
    return uvloop.new_event_loop


def stopping_signals() -> asyncio.Event:
    """Set by SIGTERM and SIGINT. To be asked for in the running loop before anything is made: a
    signal during the start must stop it in order, too.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def reload_on_hangup(reload: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have each SIGHUP reload, in a task that is kept until it is done."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = loop.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)
