"""Which users were logged out everywhere, and when: for each the latest cut-off.

A million of these in a dictionary would take over 100 MB. Here they are in tables of plain numbers,
64 bits of the user's hash and 32 bits of seconds, found by open addressing: 16 to 24 MB, and 0.4 to
0.6 µs to find one.
"""

import math
from array import array

from authz.revocation.known.steady import SteadyClock
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

LIFETIME = MAX_LIFETIME + MAX_LEEWAY
"""Seconds. All tokens that a cut-off speaks of have expired by then."""

TABLES = 256
"""Into how many tables the users are spread, so that the copying of one, when it grows, is short.
A million are 3,900 in each: 1.3 ms."""

MIN_SLOTS = 8
"""Of a table with any entry at all."""

FULL = 0.75
"""A table grows before it is fuller than this. To look for a user who isn't in it then takes 8.5
steps on the average (Knuth, 6.4: (1 + 1/(1 - FULL)²)/2), and 2.5 when it has just grown."""

SLOTS_PER_USER = 2
"""Of a table that was just made. With FULL, a user takes 16 to 24 bytes: 12 a slot."""

_HASH_MASK = 2**64 - 1
_MAX_SECONDS = 2**32 - 1  # in the year 2106


class Cutoffs:
    """The latest cut-off of each user: tokens issued before it are revoked.

    Users are told apart by 64 bits of Python's hash, which nobody outside can foresee. Among a
    million cut-offs, a user who has none is taken for one who has with a probability of 5e-14, and
    any two coincide with 3e-8. They then share the later cut-off: one of them has to log in once
    more, and no revoked token ever passes.

    Times are seconds since 1970; the caller passes the present one in.
    """

    def __init__(self) -> None:
        self._clock = SteadyClock()
        self._tables: list[_Table | None] = [None] * TABLES
        self._next_swept = 0

    def add(self, user: str, not_before: float, now: float) -> bool:
        """Whether more tokens are revoked by it than were. `user`: the digest.

        A cut-off whose tokens have all expired is left out. It is taken up to whole seconds, which
        changes nothing: `iat` has no fractions.
        """
        seconds = _MAX_SECONDS if not_before >= _MAX_SECONDS else math.ceil(not_before)
        if seconds <= 0 or seconds + LIFETIME < self._clock.at(now):
            return False
        key = _key_of(user)
        number = key % TABLES
        table = self._tables[number]
        if table is None:
            table = self._tables[number] = _Table(MIN_SLOTS)
        elif table.full:
            table = self._tables[number] = table.since(self._oldest())
        return table.put(key, seconds)

    def revokes(self, user: str, issued_at: int) -> bool:
        """`user`: the digest. `issued_at`: the token's `iat`."""
        not_before = self.get(user)
        return not_before is not None and issued_at < not_before

    def get(self, user: str) -> int | None:
        """The user's latest cut-off: tokens with an `iat` below this are revoked. None where there
        is none. One whose tokens have all expired may still be here.
        """
        key = _key_of(user)
        table = self._tables[key % TABLES]
        return None if table is None else table.get(key)

    def tidy(self, now: float, monotonic: float) -> None:
        """Drop what has expired from the next one of the tables, by a clock that isn't ahead only
        for a moment (`SteadyClock`). For a call about once a second, which makes a round of all
        tables four minutes. `monotonic` are seconds of a clock that nobody sets.
        """
        self._clock.tick(now, monotonic)
        number = self._next_swept
        self._next_swept = (number + 1) % TABLES
        table = self._tables[number]
        if table is None:
            return
        left = table.count_since(self._oldest())
        if left == 0:
            self._tables[number] = None
        elif left < table.used:
            self._tables[number] = table.since(self._oldest())

    @property
    def users(self) -> int:
        """Cut-offs held, whether or not they still count."""
        return sum(table.used for table in self._tables if table is not None)

    @property
    def size_bytes(self) -> int:
        """Of the tables. What Python needs around them is some 80 kB in all."""
        return sum(table.size_bytes for table in self._tables if table is not None)

    def _oldest(self) -> float:
        """Cut-offs before this have surely no token left to revoke."""
        return self._clock.surely - LIFETIME


class _Table:
    """Keys, not 0, and numbers over 0 in two arrays. The search for a key begins at a slot that the
    key gives and goes on to the next ones. It ends at the key or at an empty slot. Nothing is taken
    out: who wants less makes a new table.
    """

    __slots__ = ("_keys", "_most", "_values", "used")

    def __init__(self, slots: int) -> None:
        self._keys = array("Q", bytes(8 * slots))
        self._values = array("I", bytes(4 * slots))
        self._most = int(FULL * slots)
        self.used = 0

    @property
    def full(self) -> bool:
        return self.used >= self._most

    @property
    def size_bytes(self) -> int:
        return sum(len(column) * column.itemsize for column in (self._keys, self._values))

    def get(self, key: int) -> int | None:
        slot = self._slot_of(key)
        return self._values[slot] if self._keys[slot] else None

    def put(self, key: int, value: int) -> bool:
        """Whether it was raised to `value`. A key that isn't there yet needs a table that isn't
        full.
        """
        slot = self._slot_of(key)
        if not self._keys[slot]:
            self._keys[slot] = key
            self.used += 1
        elif self._values[slot] >= value:
            return False
        self._values[slot] = value
        return True

    def count_since(self, oldest: float) -> int:
        return sum(value >= oldest for value in self._values if value)

    def since(self, oldest: float) -> "_Table":
        """A new one of what is not below `oldest`, with room for as many again."""
        table = _Table(max(MIN_SLOTS, SLOTS_PER_USER * self.count_since(oldest)))
        for key, value in zip(self._keys, self._values, strict=True):
            if value and value >= oldest:
                table.put(key, value)
        return table

    def _slot_of(self, key: int) -> int:
        """Where it is, or else where it would go. There always is an empty slot: FULL < 1."""
        keys = self._keys
        slot = key // TABLES % len(keys)
        while (found := keys[slot]) != key and found:
            slot = slot + 1 if slot + 1 < len(keys) else 0
        return slot


def _key_of(user: str) -> int:
    """0 is an empty slot's."""
    return hash(user) & _HASH_MASK or 1
