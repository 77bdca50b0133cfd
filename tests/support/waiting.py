"""Polling for a condition, with a bound and an error that says what was waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable

POLL_INTERVAL = 0.01
"""Seconds between two looks. Short, since a test's time is mostly such waiting."""


def wait_until(condition: Callable[[], object], what: str, *, timeout: float = 10.0) -> None:
    """Return once `condition()` is true. TimeoutError, naming `what`, after `timeout` seconds.

    It blocks: in an async test whose own loop must go on meanwhile, use `eventually` or
    `asyncio.to_thread`.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(POLL_INTERVAL)


async def eventually(
    condition: Callable[[], object | Awaitable[object]],
    what: str,
    *,
    timeout: float = 10.0,  # noqa: ASYNC109  it names what was waited for, asyncio.timeout doesn't
) -> None:
    """`wait_until` for a running event loop. `condition` may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        outcome = condition()
        if await outcome if isawaitable(outcome) else outcome:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        await asyncio.sleep(POLL_INTERVAL)
