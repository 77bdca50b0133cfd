"""A memory of revocations at a moment that its tests choose."""

from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    CLEAR,
    Clear,
    PossiblyRevoked,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

NOW = 1_800_000_000.0
START = 500.0
"""On the clock that isn't set."""
TIMEOUT = Unavailable("timeout")
KEPT = MAX_LIFETIME + MAX_LEEWAY


def knowledge(negative_ttl: float = 1.0) -> Knowledge:
    return Knowledge(revocations=100, negative_ttl=negative_ttl, false_positives=1e-9, buckets=16)


def follow(known: Knowledge, seconds: float = 2.0) -> None:
    """All buckets have just been verified."""
    known.live_until = [START + seconds] * len(known.live_until)


def recall(
    known: Knowledge, ref: TokenRef, after: float = 0.0, last: Clear = CLEAR
) -> Revoked | PossiblyRevoked | Clear | None:
    return known.recall(ref, NOW + after, START + after, last)


def recalled_clear(known: Knowledge, ref: TokenRef, after: float = 0.0) -> Clear:
    found = recall(known, ref, after)
    assert isinstance(found, Clear)
    return found


def cutoff(not_before: float) -> Revoked:
    return Revoked(not_before + KEPT, not_before)
