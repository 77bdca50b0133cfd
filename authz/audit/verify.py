"""Is an audit whole? Finds lines that are torn, changed, removed or out of order.

Records of one sidecar are numbered without a gap (`instance`, `seq`), so a line that is missing
between two others shows; each holds the hash of the one before (`prev`), so a changed one shows;
and the first of a sidecar holds the hash of the last line it found, so one that is missing between
two sidecars shows. What was cut off at the very end shows against a head that was kept elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from authz.audit import chain
from authz.audit.chain import Head
from authz.audit.schema import wrong_fields


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file."""

    path: Path
    line: int
    """Counted from 1; 0 in a file that is empty."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a place."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True, slots=True)
class _Last:
    """The last record of a chain, so far."""

    head: Head
    place: Place


class Verification:
    """Reads files of one audit, the oldest first, and collects what is wrong.

    Remembers the hash of every line, about 110 bytes, a fifth of what a record takes in the file.
    """

    def __init__(self, heads: Iterable[Head] = ()) -> None:
        """`heads`: ends of chains, as `/status` or the log told them, that the files must reach."""
        self.records = 0
        """Lines that are whole records."""
        self.problems: list[Problem] = []
        self.begins_late = ""
        """Said of the very first record where it is not its sidecar's first, or follows a line that
        is not there: older files were deleted, or lines were; nobody can tell which."""
        self.unlinked: list[Problem] = []
        """First records that link to nothing although lines stand before them. The file was new
        when their sidecar started, as after a rotation; what was cut off before can't be told."""
        self._last: dict[str, _Last] = {}
        self._seen: set[str] = set()
        self._expected = list(heads)
        self._place = Place(Path(), 0)

    @property
    def instances(self) -> int:
        """Starts of a sidecar that the records come from."""
        return len(self._last)

    def read(self, path: Path) -> None:
        """Read one file. OSError: it can't be read."""
        self._place = Place(path, 0)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                self._place = Place(path, number)
                self._judge(line)

    def finish(self) -> None:
        """All files were read: find what is missing at their end."""
        for head in self._expected:
            if head.seq == 0:
                if head.digest != chain.GENESIS and head.digest not in self._seen:
                    self._problem(f"the line that {head.instance} found at its start is missing")
                continue
            last = self._last.get(head.instance)
            if last is not None and last.head.seq < head.seq:
                missing = _records(last.head.seq + 1, head.seq)
                self._problem(f"{missing} of {head.instance} missing after this line", last.place)
            else:
                self._problem(f"record {head.seq} of {head.instance} is not in these files")

    def _problem(self, text: str, place: Place | None = None) -> None:
        self.problems.append(Problem(place or self._place, text))

    def _judge(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            self._problem("the line is torn: it has no end")
        if not line.strip():
            return  # a fresh line was begun behind a torn one
        record = chain.parse(line)
        if record is None:
            self._problem("is not a JSON object: torn, or overwritten")
            return
        wrong = list(wrong_fields(record))
        for text in wrong:
            self._problem(text)
        digest = chain.digest(line)
        if not wrong:
            self.records += 1
            self._follow(Head(record["instance"], record["seq"], digest), record["prev"])
        self._seen.add(digest)  # also of a record that is none to us: the next may link to it

    def _follow(self, head: Head, link: str) -> None:
        """Does the record at the end of `head` follow what stands before it?"""
        last = self._last.get(head.instance)
        done = 0 if last is None else last.head.seq
        if last is None and not self._seen and (head.seq > 1 or link != chain.GENESIS):
            self.begins_late = f"begins with record {head.seq} of {head.instance}"
        elif head.seq <= done:
            self._problem(f"record {head.seq} of {head.instance} comes after its record {done}")
        elif head.seq > done + 1:
            missing = _records(done + 1, head.seq - 1)
            self._problem(f"{missing} of {head.instance} missing before this line")
        elif last is None:
            self._follow_another(head, link)
        elif link != last.head.digest:
            self._problem(
                f"record {done} of {head.instance}, or the hash of it in the next at "
                f"{self._place}, was changed",
                last.place,
            )
        if head.seq > done:
            self._last[head.instance] = _Last(head, self._place)
        self._meet(head)

    def _follow_another(self, head: Head, link: str) -> None:
        """The first record of a chain."""
        if link == chain.GENESIS:
            if self._seen:
                text = f"the chain of {head.instance} begins here and links to no line before it"
                self.unlinked.append(Problem(self._place, text))
        elif link not in self._seen:
            self._problem(
                f"the line that {head.instance} found at its start is missing before this line, "
                "or was changed"
            )

    def _meet(self, reached: Head) -> None:
        for head in [one for one in self._expected if one.instance == reached.instance]:
            if head.seq == reached.seq:
                self._expected.remove(head)
                if head != reached:
                    self._problem(
                        f"record {head.seq} of {head.instance} was changed: it is not that of the "
                        "head"
                    )


def _records(first: int, last: int) -> str:
    return f"record {first}" if first == last else f"records {first} to {last}"
