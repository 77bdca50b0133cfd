"""The audit log: a decision is on record before it takes effect, and the event loop never waits
for a disk.

One thread writes. All records that wait are written by one `write` (group commit), so under load
a record costs a share of a system call, and a slow disk makes groups larger instead of slower.
The writer also chains the records (`chain.py`), so their order in the chain is that in the file.
Each record's caller waits for its own line to be with the operating system, at most
`audit.timeout`. There is no fsync: the record survives the sidecar's death, not the machine's.
"""

import asyncio
import contextlib
import errno
import json
import queue
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum, auto
from typing import Any

import structlog

from authz.audit import chain, instant
from authz.audit.chain import Head
from authz.audit.fields import MAX_PATH, VERSION, Entry, Stamp, bounded
from authz.audit.file import AuditFile
from authz.observe import events
from authz.settings import AuditSettings

QUEUE_RECORDS = 1024
"""Records accepted and not yet settled. A sidecar answers about 5,000 checks a second; 1,024 are
200 ms of it, twice `audit.timeout`: whoever came after so many would time out anyway. A line is
about 700 bytes, and 35 KB where every text is of the worst kind, so 36 MB at the very most."""

CLOSE_TIMEOUT = 2.0
"""Seconds to write what is queued when the sidecar stops, of the ten it has for everything."""

LOG_EVERY = 10.0
"""Seconds between two log lines about the same trouble; the counters tell how often it was."""

TIMEOUT = "timeout"
QUEUE_FULL = "queue_full"
NO_SPACE = "no_space"
PERMISSION = "permission"
IO_ERROR = "io_error"
CLOSED = "closed"

CAUSES = {
    TIMEOUT: "the writer did not get to it within `audit.timeout`",
    QUEUE_FULL: "too many records were waiting already",
    NO_SPACE: "the disk, the quota or the limit of the file's size is reached",
    PERMISSION: "the file may not be written: permissions, or a read-only file system",
    IO_ERROR: "another error of the file system",
    CLOSED: "the log was not started, or closed already",
}
"""Why a record was not written, as in metrics."""

_CAUSE_OF_ERRNO = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EFBIG: NO_SPACE,
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.EROFS: PERMISSION,
}

log = structlog.get_logger(__name__)


class _Control(Enum):
    """What the writer is told besides records."""

    OPEN = auto()
    REOPEN = auto()
    STOP = auto()


@dataclass(slots=True, eq=False)
class _Pending:
    """A record on its way. Made and settled on the loop; the writer reads it."""

    time: int
    """Milliseconds since 1970."""
    event: str
    body: str
    """The entry's fields as JSON, without the opening brace."""
    done: asyncio.Future[bool]
    abandoned: bool = False
    """The caller waits no more."""


class AuditLog:
    """Appends records to the file of `audit.path`.

    The counters are plain integers that only grow, for metrics to read; they change on the event
    loop alone.
    """

    def __init__(
        self,
        settings: AuditSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since 1970, for the records' `time`."""
        self.written = 0
        """Records whose line is in the file."""
        self.late = 0
        """Of these, the ones whose caller had given up by then."""
        self.failed = dict.fromkeys(CAUSES, 0)
        """Records whose caller was told that they are not written, by cause."""
        self.instance = f"{socket.gethostname()}:{secrets.token_hex(8)}"
        self._settings = settings
        self._clock = clock
        self._file = None if settings.path is None else AuditFile(settings.path)
        # Unbounded itself: `_waiting` bounds it, and counts what the writer holds as well.
        self._queue: queue.SimpleQueue[_Pending | _Control] = queue.SimpleQueue()
        self._waiting = 0
        # The end of the chain so far. The writer alone sets it; None until the file was opened.
        self._head: Head | None = None
        self._open = False
        self._writable: bool | None = None
        self._error = ""
        self._logged: dict[str, float] = {}  # cause to when it was last logged
        self._troubled = False  # and it was logged
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Future[None] | None = None

    @property
    def enabled(self) -> bool:
        """Whether there is a file at all."""
        return self._file is not None

    @property
    def queue_length(self) -> int:
        """Records accepted and not yet settled."""
        return self._waiting

    def start(self) -> None:
        """Begin to write. Call it on the event loop. A file that can't be written is no reason not
        to start: it is logged, `status` says so, and every record tries again.
        """
        if self._file is None:
            log.warning(events.AUDIT_DISABLED)
            return
        loop = self._loop = asyncio.get_running_loop()
        stopped = self._stopped = loop.create_future()
        self._open = True
        # A daemon: a writer that hangs in the kernel must not keep the process from ending.
        threading.Thread(
            target=self._run, args=(loop, self._file, stopped), name="audit-writer", daemon=True
        ).start()
        self._queue.put(_Control.OPEN)

    async def record(self, entry: Entry, *, at: float | None = None, patient: bool = False) -> bool:
        """Put an entry on record. True once its line is with the operating system. `at`: its
        `time`, seconds since 1970, else now.

        False: it is not, or not known to be, within `audit.timeout`; `failed` counts the cause.
        With `patient` there is no such limit, for what no request waits for.
        Where `audit.required` holds, a record that was given up is taken back if the writer has
        not begun with it; if it has, the line may still appear although the request was denied.
        Where it does not hold, the request goes on, and the line is written as late as it may be.
        """
        if self._file is None:
            return False
        if not self._open or self._loop is None:
            return self._refuse(CLOSED)
        if self._waiting >= QUEUE_RECORDS:
            return self._refuse(QUEUE_FULL)
        pending = _Pending(
            time=instant.milliseconds(self._clock() if at is None else at),
            event=entry.event,
            body=_encode(entry),
            done=self._loop.create_future(),
        )
        self._waiting += 1
        self._queue.put(pending)
        try:
            async with asyncio.timeout(None if patient else self._settings.timeout):
                return await pending.done
        except TimeoutError:
            pending.abandoned = True
            return self._refuse(TIMEOUT)
        except asyncio.CancelledError:  # the client went away, so nothing is let through
            pending.abandoned = True
            raise

    def reopen(self) -> None:
        """Open the path anew, after a rotation (SIGHUP). Without it the next record that comes a
        second later does the same.
        """
        if self._open:
            self._queue.put(_Control.REOPEN)

    async def aclose(self) -> None:
        """Write what is queued, for at most `CLOSE_TIMEOUT`, and refuse what comes after."""
        if not self._open or self._stopped is None:
            return
        self._open = False
        self._queue.put(_Control.STOP)
        await asyncio.wait([self._stopped], timeout=CLOSE_TIMEOUT)
        if not self._stopped.done():
            log.error(events.AUDIT_ABANDONED, records=self._waiting)
        elif self._head is not None:
            log.info(events.AUDIT_CLOSED, head=str(self._head))

    def status(self) -> dict[str, Any]:
        """For `/status`: JSON-ready. `writable` is None until the file was first tried."""
        path = self._settings.path
        return {
            "path": None if path is None else str(path),
            "required": self._settings.required,
            "instance": self.instance,
            "head": None if self._head is None else str(self._head),
            "writable": self._writable,
            "error": self._error or None,
            "written": self.written,
            "late": self.late,
            "failed": {cause: count for cause, count in self.failed.items() if count},
            "queue_length": self._waiting,
        }

    # ---- on the event loop

    def _refuse(self, cause: str) -> bool:
        self.failed[cause] += 1
        if cause != CLOSED:
            self._trouble(cause, "")
        return False

    def _settle(self, batch: Sequence[_Pending], whole: int, cause: str, error: str) -> None:
        """Told by the writer: the first `whole` records of the batch are in the file."""
        self._waiting -= len(batch)
        if cause:
            self._writable = False
            self._error = error
            self._trouble(cause, error)
        elif batch:
            self._writable = True
            self._error = ""
            self._recovered()
        elif self._writable is None:  # it could be opened; that it can be written, a line shows
            self._writable = True
        for position, pending in enumerate(batch):
            written = position < whole
            self.written += written
            self.late += written and pending.abandoned
            if pending.done.done():  # given up, and counted as such
                continue
            if not written:
                self.failed[cause] += 1
            pending.done.set_result(written)

    def _forget(self, records: int) -> None:
        """Told by the writer: so many were given up before it began with them."""
        self._waiting -= records

    def _trouble(self, cause: str, error: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged.get(cause, -LOG_EVERY) < LOG_EVERY:
            return
        self._logged[cause] = now
        self._troubled = True
        path = str(self._settings.path)
        if cause in {TIMEOUT, QUEUE_FULL}:
            log.error(events.AUDIT_OVERLOADED, cause=cause, path=path, waiting=self._waiting)
        else:
            log.error(events.AUDIT_UNWRITABLE, cause=cause, path=path, error=error)

    def _recovered(self) -> None:
        if self._troubled:
            self._troubled = False
            log.info(events.AUDIT_WRITABLE, path=str(self._settings.path))

    # ---- on the writer's thread

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        file: AuditFile,
        stopped: asyncio.Future[None],
    ) -> None:
        stopping = False
        while not stopping:
            messages = self._take_all()
            stopping = _Control.STOP in messages
            if _Control.REOPEN in messages:
                file.close()
            records = [one for one in messages if isinstance(one, _Pending)]
            if records or not stopping:
                self._write(loop, file, records)
        file.close()
        _tell(loop, stopped.set_result, None)

    def _take_all(self) -> list[_Pending | _Control]:
        """Wait for a message, and take all that wait behind it."""
        messages = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._queue.get_nowait())
        return messages

    def _write(
        self, loop: asyncio.AbstractEventLoop, file: AuditFile, records: Sequence[_Pending]
    ) -> None:
        batch = records
        whole = 0
        error: Exception | None = None
        try:
            file.open()  # first, for it may hang, and records may be given up meanwhile
            if self._head is None:
                last = file.last_whole_line()
                self._head = Head(self.instance, 0, chain.digest(last) if last else chain.GENESIS)
            batch = self._take_back(loop, records)
            if batch:
                lines, heads = self._chain(self._head, batch)
                whole, error = file.append(lines)
                # A line that tore gives its number to the next: whole lines have no gap.
                self._head = heads[whole]
        except Exception as unforeseen:  # noqa: BLE001  a writer that dies would deny everything
            error = unforeseen
        _tell(loop, self._settle, batch, whole, *_describe(error))

    def _take_back(
        self, loop: asyncio.AbstractEventLoop, records: Sequence[_Pending]
    ) -> Sequence[_Pending]:
        """The records that are still wanted. Where a record is required, whoever gave up on it was
        denied: it would say an untruth.
        """
        if not self._settings.required:
            return records
        wanted = [one for one in records if not one.abandoned]
        if len(wanted) < len(records):
            _tell(loop, self._forget, len(records) - len(wanted))
        return wanted

    def _chain(self, head: Head, batch: Sequence[_Pending]) -> tuple[list[bytes], list[Head]]:
        """The lines of a batch, and where the chain ends before the first and after each."""
        lines: list[bytes] = []
        heads = [head]
        for pending in batch:
            line = self._line(pending, heads[-1])
            lines.append(line)
            heads.append(Head(head.instance, heads[-1].seq + 1, chain.digest(line)))
        return lines, heads

    def _line(self, pending: _Pending, head: Head) -> bytes:
        stamp = Stamp(
            v=VERSION,
            time=instant.rfc3339(pending.time),
            event=pending.event,
            seq=head.seq + 1,
            instance=head.instance,
            prev=head.digest,
        )
        return (_object(stamp)[:-1] + "," + pending.body + "\n").encode("ascii")


def _encode(entry: Entry) -> str:
    """The entry as JSON, without the opening brace. Texts that came from outside are cut, masked
    where they look like a token, and escaped down to ASCII, so that none can end its line.
    """
    values: dict[str, Any] = {}
    for one in fields(entry):
        value = getattr(entry, one.name)
        if one.name == "path":
            value = bounded(re.split("[?#]", value, maxsplit=1)[0], MAX_PATH)
        elif isinstance(value, str):
            value = bounded(value)
        values[one.name] = value
    return _json(values)[1:]


def _object(stamp: Stamp) -> str:
    return _json(asdict(stamp))


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _describe(error: Exception | None) -> tuple[str, str]:
    """The cause, as in `CAUSES`, and a text for people; both empty where there is no error."""
    if error is None:
        return "", ""
    if isinstance(error, OSError) and error.errno is not None:
        return _CAUSE_OF_ERRNO.get(error.errno, IO_ERROR), error.strerror or str(error)
    return IO_ERROR, f"{type(error).__name__}: {error}"


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *what: Any) -> None:
    """Have the loop call back. A loop that is closed has nobody left who waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *what)
