"""When connections should move from one worker to another, and how many.

A connection that breaks with its worker comes back at once, to another one. When the worker is
restarted it has none, and would stay idle for as long as the connections of the others live.
"""

from collections.abc import Sequence

PATIENCE = 5
"""Ticks that an imbalance has to last before something is done: connections that come and go
settle by themselves, since new ones go to who has the fewest."""

RESPITE = 30
"""Ticks until the next intervention. A client that was sent away may come back only with its next
request; and one that doesn't come back must not make us go on sending others away."""


class Balance:
    """Looks at the counts of open connections once per tick. No clock, no sockets."""

    def __init__(self) -> None:
        self._uneven = 0
        self._respite = 0

    def excess(self, counts: Sequence[int]) -> list[int]:
        """Connections that each worker should send away now, in the order of `counts`.

        Two apart is the least that moving one makes better, so what is one apart stays.
        """
        nothing = [0] * len(counts)
        if self._respite:
            self._respite -= 1
            return nothing
        if len(counts) < 2 or max(counts) - min(counts) < 2:  # noqa: PLR2004
            self._uneven = 0
            return nothing
        self._uneven += 1
        if self._uneven < PATIENCE:
            return nothing
        self._uneven, self._respite = 0, RESPITE
        return _above_fair(counts)


def _above_fair(counts: Sequence[int]) -> list[int]:
    share, rest = divmod(sum(counts), len(counts))
    fullest_first = sorted(range(len(counts)), key=lambda one: -counts[one])
    keeps_one_more = set(fullest_first[:rest])
    return [max(0, count - share - (one in keeps_one_more)) for one, count in enumerate(counts)]
