"""Word that signing keys were withdrawn, as it stands in the tips of all buckets: is it news?

A number, and no matter which: another one than before is news. So neither a flushed store nor a
number that somebody made up can hide what comes after it.
"""

KEYS = "keys"
"""The field of a tip."""

MAX_DIGITS = 16
"""Milliseconds since 1970 have 13 of them until the year 2286."""


def announced(value: bytes | None) -> int:
    """The number in `KEYS`; 0: there is none, or nothing that can be read."""
    if value is None or not value.isdigit() or len(value) > MAX_DIGITS:
        return 0
    return int(value)


class KeysNews:
    """What the tips have said so far."""

    def __init__(self) -> None:
        self._said: dict[int, int] = {}

    def hear(self, bucket: int, number: int) -> bool:
        """Whether this is news. What one bucket has said the others say once more: that isn't."""
        is_news = bool(number) and number not in self._said.values()
        self._said[bucket] = number
        return is_news
