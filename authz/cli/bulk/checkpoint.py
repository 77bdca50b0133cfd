"""How far a file has been dealt with, kept beside it for the same command to go on from there."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HEAD = 65_536
"""Bytes at the beginning of a file that tell it from another one."""

VERSION = 1
MODE = 0o600


class CheckpointError(Exception):
    """It can't be read or written. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file it is: a change of any of these, and it is another one."""

    size: int
    changed_ns: int
    """Of its content, as the file system has it."""
    head: str
    """SHA-256 of its first `HEAD` bytes, in hexadecimal."""

    @classmethod
    def of(cls, descriptor: int) -> "Identity":
        """Of an open regular file. OSError: it can't be read."""
        stat = os.fstat(descriptor)
        head = os.pread(descriptor, HEAD, 0)
        return cls(stat.st_size, stat.st_mtime_ns, hashlib.sha256(head).hexdigest())


@dataclass(slots=True)
class Tally:
    """Lines that are settled, by what became of them."""

    revoked: int = 0
    repeated: int = 0
    """Revoked before. Not counted in `revoked`."""
    expired: int = 0
    """Nothing to revoke."""
    unreadable: int = 0
    refused: int = 0
    """Not acknowledged by the store."""
    replicas: int | None = None
    """The fewest that confirmed a line; None: none was written."""

    @property
    def lines(self) -> int:
        return self.acknowledged + self.expired + self.failed

    @property
    def acknowledged(self) -> int:
        return self.revoked + self.repeated

    @property
    def failed(self) -> int:
        return self.unreadable + self.refused


@dataclass(slots=True)
class Progress:
    """Up to where every line is settled."""

    began_at: float
    """Seconds since 1970: when the first run began."""
    line: int = 0
    """Number of the last line that is settled; 0: none."""
    offset: int = 0
    """Bytes of the file up to its end."""
    failed_bytes: int = 0
    """Length of the file of failed lines."""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The file in which the progress of one file stands."""

    path: Path
    identity: Identity

    def load(self) -> Progress | None:
        """None: there is none, or it is of another file. CheckpointError: it can't be read."""
        try:
            content = json.loads(self.path.read_bytes())
            if content["version"] != VERSION:
                raise CheckpointError(f"{self.path} is of another version of authz; remove it")
            identity, progress = Identity(**content["file"]), dict(content["progress"])
            tally = Tally(**progress.pop("tally"))
            found = Progress(**progress, tally=tally)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CheckpointError(
                f"{self.path} is no checkpoint; remove it, or name another with --state"
            ) from None
        return found if identity == self.identity else None

    def save(self, progress: Progress) -> None:
        """At once or not at all, whatever happens meanwhile. CheckpointError: it can't be."""
        content: dict[str, Any] = {
            "version": VERSION, "file": asdict(self.identity), "progress": asdict(progress),
        }  # fmt: skip
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: {error.strerror}; name another place with --state"
            ) from None

    def remove(self) -> None:
        """All is settled."""
        self.path.unlink(missing_ok=True)
