"""Seeing every way in which a file is replaced, on the real file system."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from authz.keys import watch
from authz.keys.watch import trail, watch_files
from support.waiting import eventually

NEVER = 3600.0


class Seen:
    """The contents of the file as of each report."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.contents: list[str | None] = []

    async def look(self) -> None:
        self.contents.append(self.path.read_text() if self.path.exists() else None)

    async def sees(self, content: str | None) -> None:
        await eventually(lambda: self.contents[-1:] == [content], f"{content!r} is seen")


@asynccontextmanager
async def watching(path: Path, idle: float = NEVER) -> AsyncIterator[Seen]:
    seen = Seen(path)
    task = asyncio.create_task(watch_files([path], seen.look, idle=idle))
    try:
        await eventually(lambda: seen.contents or task.done(), "the first look")
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def quiet() -> None:
    """Long enough for a report to come. That none comes can't be polled for."""
    await asyncio.sleep(5 * watch.STEP)


async def test_a_file_written_in_place_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    async with watching(path) as seen:
        path.write_text("2")
        await seen.sees("2")


async def test_a_file_replaced_by_renaming_is_seen_each_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    async with watching(path) as seen:
        for content in ("2", "3"):
            (tmp_path / "new").write_text(content)
            (tmp_path / "new").rename(path)
            await seen.sees(content)


async def test_a_file_that_goes_and_comes_back_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    async with watching(path) as seen:
        path.unlink()
        await seen.sees(None)
        path.write_text("2")
        await seen.sees("2")


async def test_the_swap_of_a_mounted_configmap_is_seen_each_time(tmp_path: Path) -> None:
    """Kubernetes: file -> ..data/file, ..data -> a folder named by time, swapped by a rename, and
    the old folder is removed.
    """
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(version: str) -> None:
        old = (mount / "..data").resolve()
        folder = mount / f"..{version}"
        folder.mkdir()
        (folder / "file").write_text(version)
        (mount / "..data_tmp").symlink_to(folder.name)
        (mount / "..data_tmp").rename(mount / "..data")
        if old != mount / "..data":
            (old / "file").unlink()
            old.rmdir()

    publish("1")
    (mount / "file").symlink_to("..data/file")
    async with watching(mount / "file") as seen:
        for version in ("2", "3", "4"):
            publish(version)
            await seen.sees(version)


async def test_a_folder_swapped_above_the_file_is_seen(tmp_path: Path) -> None:
    """releases/1, releases/2 and a link `current` in the middle of the path."""
    for version in ("1", "2"):
        (tmp_path / "releases" / version / "etc").mkdir(parents=True)
        (tmp_path / "releases" / version / "etc" / "file").write_text(version)
    (tmp_path / "current").symlink_to(tmp_path / "releases" / "1")
    path = tmp_path / "current" / "etc" / "file"
    async with watching(path) as seen:
        (tmp_path / "next").symlink_to("releases/2")
        (tmp_path / "next").rename(tmp_path / "current")
        await seen.sees("2")
        path.write_text("2a")  # in the folder that only now has to be watched
        await seen.sees("2a")


async def test_a_folder_that_goes_and_comes_back_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_text("1")
    async with watching(path) as seen:
        path.unlink()
        path.parent.rmdir()
        await seen.sees(None)
        path.parent.mkdir()
        path.write_text("2")
        await seen.sees("2")


async def test_what_happens_beside_the_file_is_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    async with watching(path) as seen:
        for number in range(50):
            (tmp_path / f"other-{number}").write_text("x")
        await quiet()
        assert seen.contents == ["1"]
        path.write_text("2")
        await seen.sees("2")


async def test_looking_is_not_a_change(tmp_path: Path) -> None:
    """Reading the file, which `look` does, must not start the next look."""
    path = tmp_path / "file"
    path.write_text("1")
    async with watching(path) as seen:
        path.write_text("2")
        await seen.sees("2")
        looked = len(seen.contents)
        await quiet()
        assert len(seen.contents) <= looked + 1


async def test_without_any_report_the_file_is_looked_at_now_and_then(tmp_path: Path) -> None:
    async with watching(tmp_path / "file", idle=0.05) as seen:
        await eventually(lambda: len(seen.contents) > 2, "more looks")


def test_a_trail_ends_where_the_path_breaks_off(tmp_path: Path) -> None:
    found = trail(tmp_path / "missing" / "file")
    assert str(tmp_path.resolve()) in found.directories
    assert str(tmp_path.resolve() / "missing") in found.names


def test_a_trail_in_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert str(tmp_path.resolve()) in trail(tmp_path / "a").directories


def test_a_trail_goes_up_from_where_a_link_led(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "file").write_text("")
    (tmp_path / "link").symlink_to("deep/er")
    found = trail(tmp_path / "link" / ".." / "file")
    assert str(tmp_path.resolve() / "deep" / "file") in found.names
