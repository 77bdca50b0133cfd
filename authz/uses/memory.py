"""What was used here, in bounded memory: all that is left to ask while the store is gone."""

from collections.abc import Iterable

MAX_NAMES = 100_000
"""Names remembered. Each takes about 150 bytes, so 15 MB at most, of the 125 MiB that a sidecar may
have. At 200 uses a second, that of ten minutes."""

SPAN = 60
"""Seconds of expiry that share a set: a set of 12,000 names at 200 uses a second."""

NEAR = 15
"""Spans ahead in which lies what runs out within minutes: a proof counts for 600 s and the leeway
twice at most."""

FAR = 1445
"""Spans behind those in which lies what runs out within a day and the leeway, the longest that a
token lives."""

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
        """Make room for one. What runs out within minutes, as proofs do, and what does not, as
        tokens, have half of the room each at least; of its kind what runs out first leaves.
        """
        border = int(now // SPAN) + NEAR
        near = range(int((now - KEPT_FOR) // SPAN), border)
        far = range(border, border + FAR)
        held = sum(len(self._by_span.get(span, ())) for span in near)
        first, second = (near, far) if 2 * held > self._capacity else (far, near)
        span = self._first(first)
        if span is None:
            span = self._first(second)
        if span is None:  # a clock that was set by days
            span = min(span for span, names in self._by_span.items() if names)
        self._by_span[span].pop()
        self.size -= 1
        self.evictions += now < (span + 1) * SPAN

    def _first(self, spans: Iterable[int]) -> int | None:
        return next((span for span in spans if self._by_span.get(span)), None)

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
