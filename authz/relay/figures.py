"""What the relay counts."""

from dataclasses import dataclass, field

RESULTS = ("written", "repeated", "expired", "unreadable")

SIDES = ("from", "to")


@dataclass(slots=True)
class RelayFigures:
    """Plain integers that only grow, for metrics to read."""

    entries: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    """Revocations of the source by what became of them: written; there already; too old to matter;
    none of ours, so that nobody could act on it."""
    resyncs: int = 0
    """Buckets of which everything was copied (again) from the beginning."""
    scans: int = 0
    """Times that all keys of a node of the source were read, because a stream was not whole."""
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    """Calls that failed, to be tried again, by side."""

    @property
    def total(self) -> int:
        """Entries dealt with, whatever came of them."""
        return sum(self.entries.values())
