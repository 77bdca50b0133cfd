"""The lines that could not be revoked, each under the reason: a file to mend and to give again."""

import os
from pathlib import Path

from authz.cli.bulk.lines import Line

MODE = 0o600
"""It holds tokens that are still good."""


class FailedLines:
    """A file that is made when the first line fails. OSError: it can't be written."""

    def __init__(self, path: Path, length: int = 0) -> None:
        """`length`: bytes of it that count; what stands behind them was written by a run that was
        interrupted, and will be written again.
        """
        self.path = path
        self.length = 0
        self._descriptor: int | None = None
        if length and path.exists():
            self._descriptor = os.open(path, os.O_WRONLY)
            self.length = min(length, os.fstat(self._descriptor).st_size)
            self._cut(self._descriptor)
        elif path.exists():
            path.unlink()

    def add(self, line: Line, why: str) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        repeated = b"" if line.raw.too_long else line.again() + b"\n"
        data = f"# line {line.raw.number}: {why}\n".encode(errors="replace") + repeated
        while data:
            written = os.write(self._descriptor, data)
            self.length += written
            data = data[written:]

    def sync(self) -> None:
        """On disk, so that a checkpoint may speak of it."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _cut(self, descriptor: int) -> None:
        os.ftruncate(descriptor, self.length)
        os.lseek(descriptor, self.length, os.SEEK_SET)
