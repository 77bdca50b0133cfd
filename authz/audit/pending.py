"""The memory of tokens that were let through unasked and have yet to be looked at again.

Bounded: what doesn't fit is counted, and still on record in the audit, where
`authz audit reconcile` finds it.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from authz.audit.fields import bounded
from authz.revocation.record import TokenRef

MAX_TOKENS = 20_000
"""Distinct tokens: as many as `cache.tokens` holds by default. One takes 1.0 KB with a single
request and 1.5 KB with `MAX_SLOTS` of them, so 30 MB at the most, for as long as an outage lasts;
3 KB more where its three texts are as long and as foreign as they may be."""

MAX_SLOTS = 32
"""Spans of time in which a token's requests are counted. They are of a millisecond, the grain of
the audit, until there are more, and then of two, four … So up to 32 requests are kept exactly; of
an outage of an hour a span is two minutes."""


class Times:
    """When requests were let through, in milliseconds since 1970."""

    __slots__ = ("_counts", "_limit", "_slots", "first", "last", "total", "width")

    def __init__(self, limit: int | None = MAX_SLOTS) -> None:
        """`limit`: of spans. None: every millisecond is kept."""
        self.first = 0
        self.last = 0
        self.total = 0
        """Requests."""
        self._limit = limit
        self.width = 1
        """Of a span. Milliseconds."""
        self._slots = array("q")  # rising; a span begins at its number times the width
        self._counts = array("q")

    def add(self, at: int, requests: int = 1) -> None:
        """So many requests were let through at an instant."""
        self._extend(at, at, requests)
        self._put(at // self.width, requests)

    def since(self, at: int) -> int:
        """Requests at an instant or later. Exact where it lies outside of all of them or spans are
        of a millisecond; else an upper bound, since the whole span that holds it counts.
        """
        if at <= self.first:
            return self.total
        if at > self.last:
            return 0
        return sum(self._counts[bisect_left(self._slots, at // self.width) :])

    def after(self, at: int) -> "Times":
        """What came later than an instant. Exact where spans are of a millisecond."""
        later = Times(self._limit)
        for begin, count in self.spans():
            if begin > at:
                later.add(begin, count)
        return later

    def spans(self) -> Iterator[tuple[int, int]]:
        """When each span begins, and its requests."""
        for slot, count in zip(self._slots, self._counts, strict=True):
            yield slot * self.width, count

    def bounded(self) -> "Times":
        """The same in at most `MAX_SLOTS` spans."""
        times = Times()
        times.merge(self)
        return times

    def merge(self, other: "Times") -> None:
        """Add the requests of another."""
        if not other.total:
            return
        self._extend(other.first, other.last, other.total)
        while self.width < other.width:
            self._double()
        for begin, count in other.spans():
            self._put(begin // self.width, count)

    def _extend(self, first: int, last: int, requests: int) -> None:
        self.first = min(self.first, first) if self.total else first
        self.last = max(self.last, last) if self.total else last
        self.total += requests

    def _put(self, slot: int, requests: int) -> None:
        place = bisect_left(self._slots, slot)
        if place < len(self._slots) and self._slots[place] == slot:
            self._counts[place] += requests
            return
        self._slots.insert(place, slot)
        self._counts.insert(place, requests)
        while self._limit is not None and len(self._slots) > self._limit:
            self._double()

    def _double(self) -> None:
        slots, counts = array("q"), array("q")
        for slot, count in zip(self._slots, self._counts, strict=True):
            if slots and slots[-1] == slot // 2:
                counts[-1] += count
            else:
                slots.append(slot // 2)
                counts.append(count)
        self.width *= 2
        self._slots, self._counts = slots, counts


@dataclass(slots=True, eq=False)
class LetThrough:
    """A token with which requests were let through."""

    issuer: str
    subject: str
    token_id: str
    """As in the audit: `jti`, or TID where it has none."""
    ref: TokenRef
    times: Times


class Pending:
    """Tokens to be looked at, by bucket."""

    def __init__(self, limit: int = MAX_TOKENS) -> None:
        """`limit`: of distinct tokens."""
        self.dropped = 0
        """Requests whose token did not fit in."""
        self._limit = limit
        self._tokens: dict[int, dict[TokenRef, LetThrough]] = {}
        self._size = 0  # those in hand included

    def __len__(self) -> int:
        """Tokens that are not settled, those that were taken included."""
        return self._size

    def add(self, issuer: str, subject: str, token_id: str, ref: TokenRef, at: int) -> None:
        """A request was let through at an instant, in milliseconds since 1970."""
        known = self._tokens.get(ref.bucket, {}).get(ref)
        if known is not None:
            known.times.add(at)
            return
        times = Times()
        times.add(at)
        texts = bounded(issuer), bounded(subject), bounded(token_id)
        self.restore([LetThrough(*texts, ref, times)])

    def restore(self, tokens: Iterable[LetThrough]) -> None:
        """Add what is known from elsewhere, as far as it fits."""
        for token in tokens:
            waiting = token.ref in self._tokens.get(token.ref.bucket, {})
            if not waiting and self._size >= self._limit:
                self.dropped += token.times.total
            elif self._insert(token):
                self._size += 1

    def buckets(self) -> list[int]:
        """Buckets of which something waits."""
        return [bucket for bucket, tokens in self._tokens.items() if tokens]

    def take(self, bucket: int, most: int) -> list[LetThrough]:
        """Take some of a bucket's in hand. What is let through meanwhile waits anew."""
        tokens = self._tokens.get(bucket, {})
        taken = list(islice(tokens.values(), most))
        for token in taken:
            del tokens[token.ref]
        return taken

    def settle(self, tokens: int) -> None:
        """So many of those in hand are done with."""
        self._size -= tokens

    def give_back(self, tokens: Iterable[LetThrough]) -> None:
        """Those in hand that are not done with wait again, behind the others."""
        for token in tokens:
            if not self._insert(token):  # let through again meanwhile, and counted as such
                self._size -= 1

    def _insert(self, token: LetThrough) -> bool:
        """Whether it is a new one."""
        tokens = self._tokens.setdefault(token.ref.bucket, {})
        known = tokens.get(token.ref)
        if known is None:
            tokens[token.ref] = token
            return True
        known.times.merge(token.times)
        return False
