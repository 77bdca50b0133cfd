"""Takes a file of revocations to the store, and keeps book of it."""

import asyncio
import contextlib
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from authz.cli.bulk.checkpoint import Checkpoint, CheckpointError, Identity, Progress
from authz.cli.bulk.display import Display
from authz.cli.bulk.failures import FailedLines
from authz.cli.bulk.lines import Defaults, Line, read_lines
from authz.cli.errors import CommandError
from authz.cli.options import STDIN
from authz.cli.revocations import Reader
from authz.revocation.open import open_store
from authz.revocation.redis.bulk import Outcome
from authz.revocation.redis.store import RedisStore
from authz.revocation.store import StoreError
from authz.settings import Settings

SAVE_EVERY = 0.25
"""Seconds of work that an interruption costs at most. Saving takes a few milliseconds."""

FAILED_OF_STDIN = Path("authz-revoke.failed")
"""In the current folder."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done."""

    source: str
    """Path of the file, or `-`."""
    state: Path | None
    """None: beside the file."""
    failed: Path | None
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class _Opened:
    """The file of a job."""

    descriptor: int
    name: str
    failed: Path
    checkpoint: Checkpoint | None
    """None: it is no regular file, so there is no going back in it."""


async def revoke_file(settings: Settings, job: Job, clock: Callable[[], float] = time.time) -> str:
    """Revoke all that the file says. A summary in one line.

    CommandError: not every line was acknowledged; the text says where they are. UsageError: the
    job makes no sense, and nothing was done.
    """
    with _opened(job) as source:
        try:
            return await _Run(settings, job, source, clock).run()
        except (CheckpointError, OSError) as error:
            text = str(error) if isinstance(error, CheckpointError) else _os_error(error)
            raise CommandError(text) from None


class _Run:
    """One run over one file."""

    def __init__(
        self, settings: Settings, job: Job, source: _Opened, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._checkpoint = source.checkpoint
        found = self._checkpoint.load() if self._checkpoint else None
        self._progress = found or Progress(began_at=clock())
        if found is None and source.failed.exists():
            raise click.UsageError(
                f"{source.failed} is of an earlier run: revoke what it holds, or remove it, or "
                "name another with --failed"
            )
        size = self._checkpoint.identity.size if self._checkpoint else None
        self._display = Display(size, self._progress.offset)
        if found is not None:
            self._display.say(f"going on behind line {found.line:,}")
        self._defaults = Defaults(job.reason, job.by, self._progress.began_at)
        self._failures = FailedLines(source.failed, self._progress.failed_bytes)
        self._began = time.monotonic()
        self._lines_before = self._progress.tally.lines

    async def run(self) -> str:
        self._save()  # or at least see that it can be
        store = open_store(self._settings)
        if not isinstance(store, RedisStore):
            raise TypeError("memory:// was refused before")
        reader = Reader(self._settings, self._clock)
        progress = self._progress
        if self._checkpoint is not None:
            os.lseek(self._source.descriptor, progress.offset, os.SEEK_SET)
        lines = read_lines(
            self._source.descriptor,
            reader,
            self._defaults,
            number=progress.line,
            offset=progress.offset,
        )
        saved_at = time.monotonic()
        try:
            with self._display:
                async with contextlib.aclosing(store.revoke_many(lines)) as outcomes:
                    async for outcome in outcomes:
                        self._settle(outcome)
                        if time.monotonic() - saved_at >= SAVE_EVERY:
                            self._save()
                            saved_at = time.monotonic()
        except StoreError as error:
            raise CommandError(f"{self._stopped}: {error}. Mend the store; {self._later}") from None
        except asyncio.CancelledError:
            self._display.say(f"{self._stopped}; {self._later}")
            raise
        finally:
            await store.aclose()
            self._save()
            self._failures.close()
        if self._checkpoint is not None:
            self._checkpoint.remove()
        return self._result()

    def _settle(self, outcome: Outcome[Line]) -> None:
        line, tally = outcome.item, self._progress.tally
        if (acknowledged := outcome.acknowledgement) is not None:
            if acknowledged.repeated:
                tally.repeated += 1
            else:
                tally.revoked += 1
            replicas = acknowledged.replicas
            tally.replicas = min(replicas, replicas if tally.replicas is None else tally.replicas)
        elif line.problem:
            self._fail(line, line.problem)
            tally.unreadable += 1
        elif outcome.error:
            self._fail(line, outcome.error)
            tally.refused += 1
        else:
            tally.expired += 1
        self._progress.line = line.raw.number
        self._progress.offset = line.raw.end
        self._display.update(self._progress.offset, tally, self._speed)

    def _fail(self, line: Line, why: str) -> None:
        self._failures.add(line, why)
        self._progress.failed_bytes = self._failures.length
        self._display.failed(line.raw.number, why)

    def _save(self) -> None:
        if self._checkpoint is not None:
            self._failures.sync()
            self._checkpoint.save(self._progress)

    @property
    def _speed(self) -> float:
        """Lines a second, of this run."""
        lines = self._progress.tally.lines - self._lines_before
        return lines / max(time.monotonic() - self._began, 1e-3)

    @property
    def _stopped(self) -> str:
        return f"stopped behind line {self._progress.line:,}"

    @property
    def _later(self) -> str:
        if self._checkpoint is None:
            return "standard input can't be gone on with; repeating all of it is safe"
        return "the same command goes on from there"

    def _result(self) -> str:
        tally = self._progress.tally
        if tally.failed:
            raise CommandError(
                f"{tally.failed:,} of {tally.lines:,} lines are not revoked "
                f"({tally.unreadable:,} unreadable, {tally.refused:,} not acknowledged): "
                f"{self._failures.path} has them with the reasons; mend it and give it to "
                "--from-file"
            )
        parts = [
            f"revoked: {tally.acknowledged:,} of {tally.lines:,} lines",
            f"{tally.repeated:,} of them already before" if tally.repeated else "",
            f"{tally.expired:,} had expired" if tally.expired else "",
            "" if tally.replicas is None else f"confirmed by {tally.replicas} replica(s)",
            f"{self._speed:,.0f} lines/s",
        ]
        return "; ".join(filter(None, parts))


@contextlib.contextmanager
def _opened(job: Job) -> Iterator[_Opened]:
    """Open the file, and see that nobody else is at it."""
    name = "standard input" if job.source == STDIN else job.source
    try:
        descriptor = (
            os.dup(sys.stdin.fileno())
            if job.source == STDIN
            else os.open(job.source, os.O_RDONLY | os.O_CLOEXEC)
        )
    except OSError as error:
        raise click.UsageError(f"--from-file: {name}: {error.strerror}") from None
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise click.UsageError(f"--from-file: {name}: Is a directory")
        # A pipe has no beginning to go back to; nor is standard input known by a name.
        resumable = job.source != STDIN and stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not resumable:
            if job.state is not None:
                raise click.UsageError(f"--state: {name} can't be gone on with, it is no file")
            yield _Opened(descriptor, name, job.failed or FAILED_OF_STDIN, None)
            return
        _lock(descriptor, name)
        path = Path(job.source)
        state = job.state or path.with_name(f"{path.name}.progress")
        failed = job.failed or path.with_name(f"{path.name}.failed")
        yield _Opened(descriptor, name, failed, Checkpoint(state, Identity.of(descriptor)))
    finally:
        os.close(descriptor)


def _lock(descriptor: int, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise click.UsageError(f"--from-file: another authz is revoking {name}") from None
    except OSError:
        return  # a file system without locks, or one where a reader has none


def _os_error(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
