"""How soon a process that ended is started again."""

FIRST_WAIT = 0.5
"""Seconds before the second restart; the first comes at once, for most deaths are one of a kind."""

LONGEST_WAIT = 30.0
"""Seconds between two restarts at most. A start costs about a second of CPU, so a worker that
always fails takes 3 % of a core; and a cause that went away is noticed within half a minute."""

WELL_AFTER = 60.0
"""Seconds of life after which an end counts as the first one again: twice the longest wait, as in
systemd's rule that what ran longer than its start limit's interval is not in a loop."""


class Backoff:
    """Of one worker. No clock: the caller says how long the process lived."""

    def __init__(self) -> None:
        self._next = 0.0

    def wait(self, lived: float) -> float:
        """Seconds to wait before the next start, now that a process ended after `lived` seconds."""
        wait = 0.0 if lived >= WELL_AFTER else self._next
        self._next = min(LONGEST_WAIT, 2 * wait or FIRST_WAIT)
        return wait
