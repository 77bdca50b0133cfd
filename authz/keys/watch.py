"""Says when one of some files may have changed, however the change was made.

Watched are directories, not files: an editor or a deployment replaces a file by renaming another
over it, and Kubernetes swaps a symbolic link (`..data`) somewhere on the way to it. So every link
on the path counts, and the paths are followed anew after each change.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple, NoReturn

import structlog

from authz.observe import events

STEP = 0.1
"""Seconds of quiet after which changes are reported; also how often the watching thread wakes."""

DEBOUNCE = 0.5
"""Seconds after which changes are reported although more are coming in."""

RETRY = 5.0
"""Seconds between attempts where the system can't watch (too many watches, no inotify). Every
attempt reads the files, so that a change still takes hold."""

MAX_LINKS = 40
"""Symbolic links on one path; the number at which Linux says ELOOP (path_resolution(7))."""

log = structlog.get_logger(__name__)


class Trail(NamedTuple):
    """What has to be watched to see every change of a path."""

    directories: frozenset[str]
    """All of them exist."""
    names: frozenset[str]
    """The entries in them that matter: links, the file, or the first component that is missing."""


def trail(path: Path) -> Trail:
    """Follow a path component by component, noting each link and the directory that holds it."""
    directories: set[str] = set()
    names: set[str] = set()
    todo = list(reversed(path.absolute().parts[1:]))
    here, links = Path("/"), 0
    while todo:
        name = todo.pop()
        if name == "..":
            here = here.parent  # `here` is free of links
            continue
        entry = here / name
        try:
            target = entry.readlink()
        except OSError:
            if todo and entry.is_dir():
                here = entry
                continue
            directories.add(str(here))  # with the file, or where the path breaks off
            names.add(str(entry))
            break
        directories.add(str(here))
        names.add(str(entry))
        links += 1
        if links > MAX_LINKS:
            break
        if target.is_absolute():
            here = Path("/")
        todo.extend(part for part in reversed(target.parts) if part != "/")
    return Trail(frozenset(directories), frozenset(names | directories))


async def watch_files(
    paths: Iterable[Path], on_change: Callable[[], Awaitable[None]], *, idle: float
) -> NoReturn:
    """Call `on_change` at the beginning, whenever a path may have changed, and every `idle` seconds
    (a network file system doesn't report what other machines do). Runs until it is cancelled.
    """
    paths = list(paths)
    while True:
        try:
            await _watch_until_moved(paths, on_change, idle)
        except (OSError, RuntimeError) as error:  # watchfiles' own error is a RuntimeError
            log.warning(events.KEYS_WATCH_FAILED, error=str(error))
            await on_change()
            await asyncio.sleep(RETRY)


async def _watch_until_moved(
    paths: list[Path], on_change: Callable[[], Awaitable[None]], idle: float
) -> None:
    """Returns when a path leads elsewhere, so that other directories have to be watched."""
    # Here because it brings anyio and a native module, which only sidecars with files need.
    from watchfiles import awatch

    trails = [trail(path) for path in paths]
    names = {name for each in trails for name in each.names}
    watching = awatch(
        *sorted({directory for each in trails for directory in each.directories}),
        watch_filter=lambda _, name: name in names,
        step=int(STEP * 1000),
        debounce=int(DEBOUNCE * 1000),
        rust_timeout=int(idle * 1000),
        yield_on_timeout=True,
        recursive=False,
    )
    async with aclosing(watching):
        while True:
            changes = asyncio.ensure_future(anext(watching))
            try:
                # One turn of the loop, in which the watch comes to stand. Only then is reading of
                # use: what changes later is reported, and nothing falls in between.
                await asyncio.sleep(0)
                await on_change()
                if [trail(path) for path in paths] != trails:
                    return
                await changes
            finally:
                changes.cancel()
                await asyncio.wait([changes])


def report_end(task: asyncio.Task[None]) -> None:
    """These tasks run until they are cancelled. One that ends otherwise would leave keys to age
    unseen.
    """
    if not task.cancelled() and task.exception() is not None:
        log.error(events.KEYS_TASK_ENDED, exc_info=task.exception())
