"""What the feed counts."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class FeedFigures:
    """Plain integers that only grow, for metrics to read."""

    entries: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("pushed", "read", "synced"), 0)
    )
    """Revocations heard of, by how: pushed, read from a stream where one was missing, or read with
    all others."""
    gaps: int = 0
    """Times that something was missing."""
    syncs: int = 0
    """Buckets that were read whole."""
    scans: int = 0
    """Times that all keys of a node were walked over, since a stream wasn't whole."""
    lost: int = 0
    """Buckets of which the store had lost revocations that are known here."""
    failures: int = 0
    """Readings that failed, to be tried again."""
