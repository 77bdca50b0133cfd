"""Is an audit file whole? Finds lines that are torn, changed in form, removed or out of order.

Records of one sidecar are numbered without a gap (`instance`, `seq`), so a line that is missing
between two others shows. Lines cut off at either end don't, nor does a value that was replaced by
another of its type: that takes a hash chain.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from authz.audit.fields import FAIL_OPEN, VERSION, FailOpen, Stamp

ENTRIES = {FAIL_OPEN: FailOpen}
"""What can be recorded, by `event`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a place."""

    path: Path
    line: int
    """Counted from 1."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class Verification:
    """Reads files of one audit, the oldest first, and collects what is wrong."""

    def __init__(self) -> None:
        self.records = 0
        """Lines that are whole records."""
        self.problems: list[Problem] = []
        self.begins_late = ""
        """Said of the very first record where it is not its sidecar's first: older files were
        deleted, or lines were; nobody can tell which."""
        self._last: dict[str, int] = {}

    @property
    def instances(self) -> int:
        """Starts of a sidecar that the records come from."""
        return len(self._last)

    def read(self, path: Path) -> None:
        """Read one file. OSError: it can't be read."""
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                self.problems.extend(Problem(path, number, text) for text in self._judge(line))

    def _judge(self, line: bytes) -> Iterator[str]:
        if not line.endswith(b"\n"):
            yield "the line is torn: it has no end"
        if not line.strip():
            return  # a fresh line was begun behind a torn one
        try:
            record = json.loads(line)
        except ValueError:
            yield "is not JSON: torn, or overwritten"
            return
        if not isinstance(record, dict):
            yield "is not a JSON object"
            return
        wrong = list(_wrong_fields(record))
        if wrong:
            yield from wrong
            return
        self.records += 1
        yield from self._wrong_number(record["instance"], record["seq"])

    def _wrong_number(self, instance: str, number: int) -> Iterator[str]:
        last = self._last.get(instance, 0)
        if not self._last and number > 1:
            self.begins_late = f"begins with record {number} of {instance}"
        elif number <= last:
            yield f"record {number} of {instance} comes after its record {last}"
        elif number > last + 1:
            gap = (
                f"record {last + 1}"
                if number == last + 2
                else f"records {last + 1} to {number - 1}"
            )
            yield f"{gap} of {instance} missing before this line"
        self._last[instance] = max(last, number)


def _wrong_fields(record: dict[str, Any]) -> Iterator[str]:
    if record.get("v") != VERSION:
        yield f"format version is not {VERSION}"
        return
    event = record.get("event")
    entry = ENTRIES.get(event) if isinstance(event, str) else None
    if entry is None:
        yield "event is none that is known"
        return
    expected = dict(_types(Stamp)) | dict(_types(entry))
    for name in expected.keys() - record.keys():
        yield f"field {name} is missing"
    for name in record.keys() - expected.keys():
        yield f"field {name[:64]!r} is unknown"
    for name, kind in expected.items():
        if name in record and type(record[name]) is not kind:
            yield f"field {name} is not {'a whole number' if kind is int else 'text'}"


def _types(kind: type[Stamp | FailOpen]) -> Iterable[tuple[str, type]]:
    hints = get_type_hints(kind)
    for one in fields(kind):
        hint = hints[one.name]
        yield one.name, str if get_origin(hint) is not None else hint  # a Literal of words
