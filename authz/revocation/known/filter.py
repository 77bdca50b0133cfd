"""Which tokens may have been revoked: a Bloom filter, one chain of them for each hour of expiry.

The filter answers for every token that comes for the first time, so that Redis needn't. It has
a tenth of a set's size or less, at the price of a rare `MAYBE` about a token that nobody
revoked. The Bloom filters are those of `rbloom`: in Python alone a look-up takes six times as long
(0.36 µs against 0.06), and there can be a hundred for one token.

A chain grows by another link when its last one is full, which copies nothing, and
expired entries leave with their hour.
"""

from dataclasses import dataclass
from enum import StrEnum

from rbloom import Bloom

from authz.revocation.known.steady import SteadyClock
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

HOUR = 3600
"""Seconds."""

HORIZON = MAX_LIFETIME + HOUR
"""Seconds. No token that is revoked now counts for longer: the longest lifetime, and an hour for an
issuer whose clock is ahead. An expiry beyond (somebody stated the year 9999) is taken as this."""

LINKS = (
    (0, 1_024),
    (1_024, 8_192),
    (9_216, 32_768),
    (524_288, 131_072),
)
"""(entries that the hour has, items of its next link). What a link costs at 40.3 bits an item: 5,
41, 165 or 660 kB, in one allocation.

Memory: an hour has room for at most 32,768 more than it needs, from 533,504 entries on for 131,072
more. So a million, in 25 hours, have room for 1,918,000 at worst, which is 9.7 MB; in one hour for
1,058,000, which is 5.3 MB. Where the store forgets a thousand times meanwhile, 15.6 MB were seen.
Time: a million have 22 links in one hour, and a look-up takes 1.2 µs; 75 to 98 in 25 hours, and up
to 4.4 µs. With one link it takes 0.14 µs."""

FIRST_LINKS = 128
"""How many links have the largest rate. A million entries in 25 hours have 98 at most."""

MORE_LINKS = 4
"""How many times more there may be at each next rate, see `_rate`."""


class Presence(StrEnum):
    """What the filter knows of a token."""

    NO = "no"
    """It was never added, or its hour is over."""
    MAYBE = "maybe"
    """It was added, or looks as if it had been. The store knows."""
    FORGOTTEN = "forgotten"
    """It was added before the store lost its history, or looks as if it had been. If the store says
    that it is clear, that means nothing."""


@dataclass(slots=True)
class _Link:
    bloom: Bloom
    items: int
    rate: float
    """Of false positives, once it is full."""
    entries: int = 0

    def take_over(self, other: "_Link") -> bool:
        """Whether the entries of the other fit in here, and now are. Same size and rate only."""
        if (other.items, other.rate) != (self.items, self.rate):
            return False
        if self.entries + other.entries > self.items:
            return False
        self.bloom.update(other.bloom)
        self.entries += other.entries
        return True


class _Hour:
    """The links of the tokens that expire in one hour."""

    __slots__ = ("capped", "forgotten", "fresh", "held_until")

    def __init__(self) -> None:
        self.fresh: list[_Link] = []
        """The last one is being filled."""
        self.forgotten: list[_Link] = []
        """Those of before the store lost its history. None is ever filled further."""
        self.capped = False
        """Holds an entry whose stated expiry was beyond the horizon, and `tidy` hasn't seen it."""
        self.held_until = 0.0
        """Monotonic. Not dropped before this, whatever the wall clock says."""

    @property
    def links(self) -> list[_Link]:
        return self.forgotten + self.fresh

    @property
    def entries(self) -> int:
        return sum(link.entries for link in self.links)

    def has(self, token: str) -> bool:
        return any(token in link.bloom for link in self.fresh) or any(
            token in link.bloom for link in self.forgotten
        )

    def forget(self) -> None:
        """Two links that are less than half full become one, so that however often a store forgets,
        two of a size hold more than one of that size can.
        """
        for link in self.fresh:
            if not any(other.take_over(link) for other in self.forgotten):
                self.forgotten.append(link)
        self.fresh = []


class RevocationFilter:
    """Revoked tokens, by TID. What was added is found until its hour is over; what wasn't is found
    with a probability of `false_positives` at most, however many there are. (A million entries in
    25 hours, 20 million look-ups, 1e-6 asked for: 5 were wrong, 2.5e-7.)

    Times are seconds since 1970; the caller passes the present one in.
    """

    def __init__(self, false_positives: float) -> None:
        """`false_positives`: between 0 and 1, of one `find` over all that the filter holds."""
        self._false_positives = false_positives
        self._clock = SteadyClock()
        self._hours: dict[int, _Hour] = {}
        # What `find` goes through: the blooms of all hours, in two lists.
        self._fresh: list[Bloom] = []
        self._forgotten: list[Bloom] = []

    def find(self, token: str) -> Presence:
        """Looks in all hours, not only in that which the token claims: whoever revoked it may have
        misstated the expiry, or its issuer may use a `jti` twice. FORGOTTEN where both would be
        right: the more careful of the two.
        """
        for bloom in self._forgotten:
            if token in bloom:
                return Presence.FORGOTTEN
        for bloom in self._fresh:
            if token in bloom:
                return Presence.MAYBE
        return Presence.NO

    def add(self, token: str, expires_at: float, now: float) -> None:
        """`token`: the TID. It is found until `expires_at` and the longest leeway are over, and for
        up to 80 minutes more.

        Left out is what is over already, by a clock that isn't ahead only for a moment
        (`SteadyClock.at`). What its hour has is not added again. That holds for what was there
        before the store forgot, too: it stays FORGOTTEN, and filling the filter anew costs nothing.
        """
        present = self._clock.at(now)
        if expires_at + MAX_LEEWAY < present:
            return
        horizon = present + HORIZON
        capped = not expires_at <= horizon
        number = int((horizon if capped else expires_at) // HOUR)
        hour = self._hours.get(number)
        if hour is None:
            hour = self._hours[number] = _Hour()
        # Where the present is wrong, so is the horizon: it may be over before the token is.
        hour.capped = hour.capped or capped
        if not hour.has(token):
            link = self._open_link(hour)
            link.bloom.add(token)
            link.entries += 1

    def mark_forgotten(self) -> None:
        """The store lost its history: what it says of the tokens that are in here means less."""
        for hour in self._hours.values():
            hour.forget()
        self._list_blooms()

    def tidy(self, now: float, monotonic: float) -> None:
        """Drop the hours that have been over for ten minutes, see `SteadyClock`. For a call about
        once a second; `monotonic` are seconds of a clock that nobody sets.
        """
        self._clock.tick(now, monotonic)
        for hour in self._hours.values():
            if hour.capped:
                hour.capped, hour.held_until = False, monotonic + HORIZON
        past = self._clock.surely - MAX_LEEWAY
        over = [
            number
            for number, hour in self._hours.items()
            if (number + 1) * HOUR <= past and hour.held_until <= monotonic
        ]
        for number in over:
            del self._hours[number]
        if over:
            self._list_blooms()

    @property
    def entries(self) -> int:
        """Tokens that were added; those added twice count once for each hour that was stated."""
        return sum(hour.entries for hour in self._hours.values())

    @property
    def blooms(self) -> int:
        return len(self._fresh) + len(self._forgotten)

    @property
    def hours(self) -> int:
        return len(self._hours)

    @property
    def forgotten_hours(self) -> int:
        """Hours that hold something of before the store lost its history."""
        return sum(bool(hour.forgotten) for hour in self._hours.values())

    @property
    def size_bytes(self) -> int:
        """Of the bits. What Python needs around them is some 300 bytes a bloom."""
        return sum(bloom.size_in_bits for bloom in self._fresh + self._forgotten) // 8

    def _open_link(self, hour: _Hour) -> _Link:
        """The one to fill, new if need be."""
        if hour.fresh and hour.fresh[-1].entries < hour.fresh[-1].items:
            return hour.fresh[-1]
        entries = hour.entries
        items = max(items for least, items in LINKS if least <= entries)
        rate = _rate(self._false_positives, self.blooms)
        link = _Link(Bloom(items, rate), items, rate)
        hour.fresh.append(link)
        self._fresh.append(link.bloom)
        return link

    def _list_blooms(self) -> None:
        hours = self._hours.values()
        self._fresh = [link.bloom for hour in hours for link in hour.fresh]
        self._forgotten = [link.bloom for hour in hours for link in hour.forgotten]


def _rate(false_positives: float, links: int) -> float:
    """The rate of the next link where there are `links`, such that all that can ever be there at
    once stay below `false_positives` in sum.

    The first 128 share half of it, what comes beside them up to 512 a quarter, up to 2,048 an
    eighth, and so on. A link is made at a rate only while there are fewer than the rate's number,
    so no more than that have it at once, and 1/2 + 1/4 + 1/8 + … < 1. By default (1e-6) the first
    have 3.9e-9, and a link of n items has n · log2(1/3.9e-9) / ln 2 = 40.3 n bits; the second have
    4.9e-10 and 44.6.
    """
    share, most = false_positives / 2, FIRST_LINKS
    while links >= most:
        share, most = share / 2, most * MORE_LINKS
    return share / most
