"""What was used here, in bounded memory: all that is left to ask while the store is gone."""

MAX_NAMES = 100_000
"""Names remembered. Each takes about 150 bytes, so 15 MB at most, of the 125 MiB that a sidecar may
have. At 200 uses a second, that of ten minutes."""

SPAN = 60
"""Seconds of expiry that share a set: a set of 12,000 names at 200 uses a second."""

KEPT_FOR = 600
"""Seconds for which a name is kept after it ran out, if there is room: a clock that was wrong for a
moment must not make us forget what counts again once it is set right."""


class UsedHere:
    """Names of what was used, each until it can't be used any more.

    Names are kept in a set for each minute of expiry, so that neither a look-up nor forgetting the
    expired costs more with many. The same name must come with the same `until` each time.
    """

    def __init__(self, capacity: int = MAX_NAMES) -> None:
        self._capacity = capacity
        self._by_span: dict[int, set[str]] = {}
        self._soonest = 0
        """The span that runs out first, of those that hold names; or one that holds none."""
        self._tidied_in = 0
        self.size = 0
        """Names held, whether or not they still count."""
        self.evictions = 0
        """Names that were pushed out while they still counted. While the store answers, it still
        knows them."""

    def add(self, name: str, until: float, now: float) -> bool:
        """Remember a use. Whether it is the first. Times are seconds since 1970."""
        self._tidy(now)
        span = int(until // SPAN)
        names = self._by_span.setdefault(span, set())
        if name in names:
            return False
        names.add(name)
        self._soonest = min(self._soonest, span)
        self.size += 1
        if self.size > self._capacity:
            self._push_out(now)
        return True

    def knows(self, name: str, until: float) -> bool:
        """Whether it was added."""
        return name in self._by_span.get(int(until // SPAN), ())

    def discard(self, name: str, until: float) -> None:
        """Forget a use that did not come about."""
        names = self._by_span.get(int(until // SPAN), set())
        if name in names:
            names.remove(name)
            self.size -= 1

    def _push_out(self, now: float) -> None:
        """Make room for one: of those that run out first, any."""
        if not self._by_span.get(self._soonest):
            self._soonest = min(span for span, names in self._by_span.items() if names)
        self._by_span[self._soonest].pop()
        self.size -= 1
        self.evictions += now < (self._soonest + 1) * SPAN

    def _tidy(self, now: float) -> None:
        """Forget what ran out long ago, and empty sets: once in a span."""
        current = int(now // SPAN)
        if current == self._tidied_in:
            return
        self._tidied_in = current
        oldest = int((now - KEPT_FOR) // SPAN)
        self._by_span = {
            span: names for span, names in self._by_span.items() if span >= oldest and names
        }
        self.size = sum(map(len, self._by_span.values()))
