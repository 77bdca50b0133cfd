"""How late it surely is, where the wall clock may be wrong for a moment."""

import math

WINDOW = 600.0
"""Seconds of monotonic time. An instant counts as over once the wall clock has shown a later one
for this long without a break. A step that somebody notices and mends takes minutes, and what is
kept ten minutes more costs nothing."""


class SteadyClock:
    """The least that the wall clock showed in the last 10 to 20 minutes.

    A clock that jumps ahead and back again must make nobody forget a revocation: what expires is
    dropped by this clock, not by the wall's. It is told the time about once a second. It is blind
    to what the wall clock shows in between, and to one that is wrong all along.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._before = math.inf  # the least of the window before this one
        self._least = math.inf  # and of this one, so far
        self._whole = False  # there is a window before this one

    def tick(self, now: float, monotonic: float) -> None:
        """`now`: seconds since 1970. `monotonic`: seconds of a clock that nobody sets."""
        if self._began is None:
            self._began = monotonic
        elif monotonic >= self._began + WINDOW:
            self._before, self._least = self._least, math.inf
            self._began, self._whole = monotonic, True
        self._least = min(self._least, now)

    @property
    def surely(self) -> float:
        """All before this is over. Seconds since 1970; minus infinity for the first ten minutes,
        when a clock that is ahead can't be told from one that is right.
        """
        return min(self._before, self._least) if self._whole else -math.inf

    def at(self, now: float) -> float:
        """`now`, or less where the wall clock showed less not long ago. For what comes in already
        expired. Unlike `surely`, this believes the clock that it began with: else all the expired
        entries of a day would have to be taken in at every start.
        """
        return min(self._before, self._least, now)
