"""The chain of an audit: each record holds the hash of the one before it.

A chain is one start of a sidecar (`instance`), not one file: during a restart two processes may
append to the same file, and a renamed file goes on in another. Its first record links to the last
whole line that stood in the file when the sidecar opened it, and so to the chain before.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

GENESIS = "0" * 64
"""`prev` of a first record with no line to link to: the file was new or empty, could not be read,
or was no regular file (`/dev/stdout`)."""

_HEAD = re.compile(r"(.+):([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: what to compare a file with whose last lines may have been cut off."""

    instance: str
    seq: int
    """Of the last record; 0 where there is none yet."""
    digest: str
    """Of its line; where `seq` is 0, of the line that the first record is going to link to."""

    def __str__(self) -> str:
        return f"{self.instance}:{self.seq}:{self.digest}"


def parse_head(text: str) -> Head:
    """What `str` made of a head. ValueError: it is none, and the text says what one looks like."""
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise ValueError("a head is INSTANCE:SEQ:HASH, as `head` in /status and in `audit_closed`")
    return Head(match[1], int(match[2]), match[3])


def digest(line: bytes) -> str:
    """SHA-256 of a line without its line end, in lower-case hex: what `sha256sum` prints of it."""
    return hashlib.sha256(line.removesuffix(b"\n")).hexdigest()


def parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line. None: it is none, so torn or overwritten; no beginning of a JSON
    object is one itself.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def last_whole(lines: list[bytes]) -> bytes | None:
    """The last line that is whole, whatever torn or blank ones stand behind it."""
    return next((line for line in reversed(lines) if parse(line) is not None), None)
