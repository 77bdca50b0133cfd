"""The audit file: lines are appended whole, and a line that tore never spoils the next.

Blocking, and used by one thread.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from authz.audit import chain

CHECK_EVERY = 1.0
"""Seconds between looks at whether the path still names the open file. One stat a second costs
nothing, and what is written to a file that was just renamed is on record there."""

MODE = 0o640
"""Of a file that is created: the owner writes, the group's log shipper reads, others nothing."""

TAIL = 128 * 1024
"""Bytes read to find the last whole line. A record is 35 KB at most and a torn one behind it as
long; this is nearly twice both."""


class AuditFile:
    """A file that lines are appended to, found again when it was renamed, replaced or deleted."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that do not go back."""
        self._path = path
        self._clock = clock
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._checked_at = 0.0
        self._torn = False  # the last byte is not the end of a line

    def open(self) -> int:
        """The descriptor of the path's present file. OSError: it can't be opened or created."""
        now = self._clock()
        if self._descriptor is not None and now - self._checked_at >= CHECK_EVERY:
            self._checked_at = now
            if not self._still_there():
                self.close()
        if self._descriptor is None:
            self._descriptor = self._open()
            self._checked_at = now
        return self._descriptor

    def append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Hand lines, each with its line end, to the operating system in one write.

        Returns how many of them are in the file whole, and the error that kept out the rest.
        """
        try:
            descriptor = self.open()
        except OSError as unopened:
            return 0, unopened
        start = b"\n" if self._torn else b""
        data = start + b"".join(lines)
        written, error = _write(descriptor, data)
        if written:
            self._torn = data[written - 1 : written] != b"\n"
        if error is None:
            return len(lines), None
        self.close()  # whatever is wrong, the next line begins by opening the file anew
        return _whole_lines(lines, written - len(start)), error

    def last_whole_line(self) -> bytes | None:
        """The last line of the open file that is no torn one. None: there is none among its last
        `TAIL` bytes, it can't be read, or it is no regular file.
        """
        if self._descriptor is None:
            return None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        lines = self._tail(status.st_size, TAIL).split(b"\n")
        return chain.last_whole(lines if status.st_size <= TAIL else lines[1:])

    def close(self) -> None:
        """Let go of the file. The next line opens the path anew."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        # Append mode puts every write at the end, whoever else writes or truncates the file.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY
        descriptor = os.open(self._path, flags, MODE)
        status = os.fstat(descriptor)
        self._identity = (status.st_dev, status.st_ino)
        if stat.S_ISREG(status.st_mode):
            # Where it can't be read, a blank line is the lesser evil.
            self._torn = status.st_size > 0 and self._tail(status.st_size, 1) != b"\n"
        return descriptor

    def _tail(self, size: int, length: int) -> bytes:
        """The last `length` bytes of the open file's `size`; empty where they can't be read."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self._identity:  # replaced just now
                return b""
            start = max(0, size - length)
            return os.pread(descriptor, size - start, start)
        except OSError:
            return b""
        finally:
            os.close(descriptor)

    def _still_there(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        except OSError:  # the folder became unreadable: what is open still is the file
            return True
        return (status.st_dev, status.st_ino) == self._identity


def _write(descriptor: int, data: bytes) -> tuple[int, OSError | None]:
    """Bytes written, and the error that stopped it. A full disk takes a part first."""
    view = memoryview(data)
    written = 0
    try:
        while written < len(data):
            taken = os.write(descriptor, view[written:])
            if taken == 0:  # no file we know does that; never loop on it
                return written, OSError(errno.EIO, os.strerror(errno.EIO))
            written += taken
    except OSError as error:
        return written, error
    return written, None


def _whole_lines(lines: Sequence[bytes], written: int) -> int:
    """How many lines `written` bytes hold. One that lacks only its line end is whole: the next
    write, or the end of the file, ends it.
    """
    whole = 0
    end = 0
    for line in lines:
        end += len(line)
        if written < end - 1:
            break
        whole += 1
    return whole
