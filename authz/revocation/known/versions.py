"""When was anything learnt about this token or this user? Kept in a small table of counters.

A verdict that was given from memory stays true until something is learnt that concerns it. Instead
of walking all verdicts when a revocation arrives, each remembers the counters of its token and of
its user, and holds while they are the same. Tokens that share a counter by chance are looked at
once more without need.
"""

from array import array

SLOTS = 1 << 14
"""Counters: 64 KiB. At a thousand revocations a second a token that is checked ten times a second
meets one of another in its slots once in 80 checks; looking again costs microseconds."""

_MASK = SLOTS - 1
_WRAP = 0xFFFF_FFFF


class Versions:
    """A counter for each token and each user, shared by few."""

    def __init__(self) -> None:
        self.counters = array("I", bytes(4 * SLOTS))
        """Read directly on the way of a check; changed here only."""

    def touch(self, name: str) -> None:
        """Something was learnt of this token or user (a digest)."""
        slot = hash(name) & _MASK
        self.counters[slot] = (self.counters[slot] + 1) & _WRAP

    def touch_all(self) -> None:
        """Something was learnt that concerns everybody. Takes about a millisecond."""
        counters = self.counters
        for slot, counter in enumerate(counters):
            counters[slot] = (counter + 1) & _WRAP


def slot_of(name: str) -> int:
    """The index of a digest's counter."""
    return hash(name) & _MASK
