"""Which tokens may have been revoked."""

import hashlib
from base64 import urlsafe_b64encode

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rbloom import Bloom

from authz.revocation.known import filter as module
from authz.revocation.known.filter import (
    FIRST_LINKS,
    HORIZON,
    HOUR,
    LINKS,
    Presence,
    RevocationFilter,
    _rate,
)
from authz.revocation.known.steady import WINDOW
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

NOW = 1_800_000_000.0 // HOUR * HOUR
"""The beginning of an hour."""

YEAR_9999 = 253_370_764_800.0

MEGABYTE = 1_000_000


def token(name: object) -> str:
    return urlsafe_b64encode(hashlib.sha256(str(name).encode()).digest())[:43].decode()


@pytest.fixture
def known() -> RevocationFilter:
    return RevocationFilter(1e-9)


def fill(known: RevocationFilter, names: range, expires_at: float = NOW + 60) -> None:
    for name in names:
        known.add(token(name), expires_at, NOW)


def tidied(known: RevocationFilter, begin: float, seconds: float, monotonic: float = 0.0) -> None:
    """As it goes when `tidy` is called now and then for `seconds`."""
    for second in range(0, int(seconds) + 1, 30):
        known.tidy(begin + second, monotonic + second)


def test_what_was_never_added_is_not_there(known: RevocationFilter) -> None:
    assert known.find(token("a")) is Presence.NO
    known.add(token("b"), NOW + 60, NOW)
    assert known.find(token("a")) is Presence.NO
    assert known.find(token("b")) is Presence.MAYBE


def test_an_empty_filter_takes_no_memory(known: RevocationFilter) -> None:
    known.mark_forgotten()
    known.tidy(NOW, 0.0)
    assert (known.entries, known.blooms, known.hours, known.size_bytes) == (0, 0, 0, 0)


def test_a_token_is_found_whatever_expiry_was_stated(known: RevocationFilter) -> None:
    """Look-ups don't say when the token expires, so no misstated expiry can hide one."""
    for hours in range(25):
        known.add(token(hours), NOW + hours * HOUR, NOW)
    assert known.hours == 25
    assert all(known.find(token(hours)) is Presence.MAYBE for hours in range(25))


def test_a_repeated_revocation_takes_no_room(known: RevocationFilter) -> None:
    for _ in range(3):
        known.add(token("a"), NOW + 60, NOW)
    assert known.entries == 1
    known.add(token("a"), NOW + 60 + HOUR, NOW)  # lives longer than what is known
    assert known.entries == 2


def test_an_hour_is_dropped_ten_minutes_after_its_last_token_and_leeway(
    known: RevocationFilter,
) -> None:
    known.add(token("a"), NOW + HOUR - 1, NOW)
    tidied(known, NOW, HOUR + MAX_LEEWAY + WINDOW - 30)
    assert known.find(token("a")) is Presence.MAYBE
    tidied(known, NOW, HOUR + MAX_LEEWAY + 2 * WINDOW + 30, 2 * HOUR)
    assert known.find(token("a")) is Presence.NO
    assert (known.entries, known.blooms, known.hours, known.size_bytes) == (0, 0, 0, 0)


def test_a_clock_that_is_ahead_for_a_moment_drops_nothing(known: RevocationFilter) -> None:
    known.add(token("a"), NOW + 60, NOW)
    tidied(known, NOW, 1200)
    tidied(known, NOW + 86400, WINDOW - 30, 1200)
    tidied(known, NOW + 1800, 60, 1800)
    assert known.find(token("a")) is Presence.MAYBE


def test_what_arrives_while_the_clock_is_ahead_for_a_moment_is_not_lost(
    known: RevocationFilter,
) -> None:
    known.tidy(NOW, 0.0)
    known.tidy(NOW + 86400, 1.0)
    known.add(token("a"), NOW + 60, NOW + 86400)
    assert known.find(token("a")) is Presence.MAYBE


def test_what_has_expired_is_left_out(known: RevocationFilter) -> None:
    known.add(token("over"), NOW - MAX_LEEWAY - 1, NOW)
    known.add(token("within the leeway"), NOW - MAX_LEEWAY + 1, NOW)
    assert known.find(token("over")) is Presence.NO
    assert known.find(token("within the leeway")) is Presence.MAYBE


@pytest.mark.parametrize("expires_at", [YEAR_9999, float("inf"), float("nan")])
def test_an_expiry_in_the_far_future_is_kept_for_the_longest_lifetime(
    known: RevocationFilter, expires_at: float
) -> None:
    known.add(token("a"), expires_at, NOW)
    tidied(known, NOW, MAX_LIFETIME + MAX_LEEWAY)
    assert known.find(token("a")) is Presence.MAYBE
    tidied(known, NOW + MAX_LIFETIME, 4 * HOUR, MAX_LIFETIME)
    assert known.find(token("a")) is Presence.NO


def test_far_expiries_open_no_more_hours_than_there_are_in_a_day(known: RevocationFilter) -> None:
    for hours in range(2000):
        known.add(token(hours), NOW + hours * HOUR, NOW)
    assert known.hours <= HORIZON // HOUR + 1


def test_what_arrives_while_the_clock_is_behind_is_kept_for_the_longest_lifetime(
    known: RevocationFilter,
) -> None:
    """As on a machine that starts in 1970: all expiries are in the far future, so all go to an hour
    that will be long over as soon as the clock is right.
    """
    known.tidy(0.0, 0.0)
    known.add(token("a"), NOW + MAX_LIFETIME, 1.0)
    known.add(token("b"), HORIZON, 1.0)  # the same hour, stated
    assert known.hours == 1
    known.tidy(2.0, 2.0)
    tidied(known, NOW, MAX_LIFETIME, 3.0)
    assert known.find(token("a")) is Presence.MAYBE
    tidied(known, NOW + MAX_LIFETIME, 2 * HOUR, MAX_LIFETIME)
    assert known.find(token("a")) is Presence.NO


def test_what_was_added_before_the_store_forgot_is_told_from_what_came_after(
    known: RevocationFilter,
) -> None:
    known.add(token("before"), NOW + 60, NOW)
    known.mark_forgotten()
    known.add(token("after"), NOW + 60, NOW)
    assert known.find(token("before")) is Presence.FORGOTTEN
    assert known.find(token("after")) is Presence.MAYBE
    assert (known.forgotten_hours, known.hours, known.blooms) == (1, 1, 2)
    known.mark_forgotten()
    assert known.find(token("after")) is Presence.FORGOTTEN


def test_what_is_written_again_after_the_store_forgot_stays_forgotten(
    known: RevocationFilter,
) -> None:
    """A resync adds all that the store still has. It must not take the same memory again; and the
    store says `revoked` of these, which settles it.
    """
    fill(known, range(5000))
    size = known.size_bytes
    known.mark_forgotten()
    fill(known, range(5000))
    assert known.find(token(1)) is Presence.FORGOTTEN
    assert (known.entries, known.size_bytes) == (5000, size)


def test_forgotten_wins_where_a_token_is_in_two_hours(known: RevocationFilter) -> None:
    known.add(token("a"), NOW + 60, NOW)
    known.mark_forgotten()
    known.add(token("a"), NOW + 60 + HOUR, NOW)
    assert known.find(token("a")) is Presence.FORGOTTEN
    tidied(known, NOW, HOUR + MAX_LEEWAY + 2 * WINDOW + 30)
    assert known.find(token("a")) is Presence.MAYBE
    assert known.forgotten_hours == 0


@pytest.mark.parametrize("between", [0, 1, 700, 1500])
def test_a_store_that_forgets_again_and_again_takes_no_memory(between: int) -> None:
    """Links that were less than half full are put together."""
    known = RevocationFilter(1e-6)
    for mark in range(30):
        fill(known, range(mark * between, (mark + 1) * between))
        known.mark_forgotten()
        known.mark_forgotten()
    fill(known, range(-1, 0))
    assert known.entries == 30 * between + 1
    assert all(known.find(token(n)) is Presence.FORGOTTEN for n in range(30 * between))
    assert known.blooms <= 9
    most = 2 * known.entries + 2 * LINKS[0][1] + 2 * LINKS[2][1]
    assert known.size_bytes <= most * 5.04


def _hours_of(shape: str) -> list[int]:
    """A million entries: how many in each hour."""
    match shape:
        case "one hour":
            return [1_000_000]
        case "25 hours":
            return [40_000] * 25
        case _:  # one entry more than there was room for, in as many hours as can be
            return [533_505, *[9_217] * 17, *[42_000] * 7]


@pytest.mark.parametrize("shape", ["one hour", "25 hours", "worst"])
def test_a_million_revocations_take_less_than_ten_megabytes(shape: str) -> None:
    known = RevocationFilter(1e-6)
    name = 0
    for hour, count in enumerate(_hours_of(shape)):
        for _ in range(count):
            name += 1
            known.add(f"{name:043d}", NOW + hour * HOUR, NOW)
    assert known.entries >= 980_000
    assert known.size_bytes < 10 * MEGABYTE
    assert known.blooms <= FIRST_LINKS
    assert all(known.find(f"{n:043d}") is Presence.MAYBE for n in range(1, name, 1009))


@pytest.mark.parametrize("hours", [1, 24])
def test_false_positives_stay_below_what_was_asked_for(hours: int) -> None:
    """Over all links together, with the last one of each hour full. Of 100,000 look-ups at most 100
    should be wrong. About 20 are: half of what is allowed is for the first 128 links.
    """
    known = RevocationFilter(1e-3)
    for n in range(41_984 * 3):
        known.add(f"{n:043d}", NOW + n % hours * HOUR, NOW)
    wrong = sum(known.find(f"x{n:042d}") is not Presence.NO for n in range(100_000))
    assert wrong <= 100


def test_the_rates_of_all_links_stay_below_what_was_asked_for_however_many_there_are() -> None:
    total = sum(_rate(1e-6, links) for links in range(100_000))
    assert 0.8e-6 < total <= 1e-6


def test_no_link_is_larger_than_a_megabyte() -> None:
    """Also beyond a million entries, where an item has 5 bits more."""
    largest = max(items for _, items in LINKS)
    for links in (0, FIRST_LINKS):
        assert Bloom(largest, _rate(1e-6, links)).size_in_bits / 8 < MEGABYTE


@settings(max_examples=100, stateful_step_count=40, deadline=None)
class FilterMachine(RuleBasedStateMachine):
    """Against a dictionary, with a clock that is never ahead for ten minutes in a row. The links
    are small, so that there are many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "LINKS", ((0, 4), (4, 16), (20, 32)))
        self.known = RevocationFilter(1e-9)
        self.monotonic = 0.0
        self.ahead = 0.0
        self.right_at = 0.0
        self.until: dict[str, float] = {}
        """In true time."""
        self.forgotten: set[str] = set()

    @property
    def true(self) -> float:
        return NOW + self.monotonic

    @property
    def wall(self) -> float:
        return self.true + self.ahead

    @initialize()
    def begin(self) -> None:
        self.known.tidy(self.wall, self.monotonic)

    @rule(
        name=st.integers(0, 30),
        lives=st.one_of(st.floats(0, 300), st.floats(0, MAX_LIFETIME)),
        stated=st.sampled_from(["right", "9999"]),
    )
    def revoke(self, name: int, lives: float, stated: str) -> None:
        expires_at = self.true + lives
        self.known.add(token(name), expires_at if stated == "right" else YEAR_9999, self.wall)
        until = expires_at + MAX_LEEWAY
        self.until[token(name)] = max(until, self.until.get(token(name), 0.0))

    @rule(first=st.integers(0, 10**6))
    def revoke_many(self, first: int) -> None:
        for name in range(first, first + 15):
            self.revoke(1000 + name, 600.0, "right")

    @rule()
    def forget(self) -> None:
        self.known.mark_forgotten()
        self.forgotten |= self.until.keys()

    @rule(ahead=st.sampled_from([-86400.0, -7200.0, 0.0, 0.0, 3600.0, 86400.0, 1e9]))
    def set_clock(self, ahead: float) -> None:
        self.ahead = ahead
        self.tick(0.0)

    @rule(
        seconds=st.one_of(st.floats(0, 30), st.floats(0, WINDOW), st.sampled_from([HOUR, 20000.0]))
    )
    def tick(self, seconds: float) -> None:
        self.monotonic += seconds
        if self.ahead > 0 and self.monotonic - self.right_at >= WINDOW:
            self.ahead = 0.0
        if self.ahead <= 0:
            self.right_at = self.monotonic
        self.known.tidy(self.wall, self.monotonic)

    @rule()
    def wait_a_day(self) -> None:
        """All is over then."""
        self.set_clock(0.0)
        for _ in range(4):
            self.tick((HORIZON + 2 * HOUR) / 4)
        self.tick(WINDOW)
        self.tick(WINDOW)
        self.until.clear()
        self.forgotten.clear()
        assert (self.known.entries, self.known.size_bytes) == (0, 0)

    @invariant()
    def no_is_never_wrong(self) -> None:
        for name, until in self.until.items():
            if self.true <= until:
                assert self.known.find(name) is not Presence.NO

    @invariant()
    def forgotten_is_what_the_store_may_have_lost(self) -> None:
        for name, until in self.until.items():
            if self.true <= until and name not in self.forgotten:
                assert self.known.find(name) is Presence.MAYBE
        assert self.known.forgotten_hours == 0 or self.forgotten

    @invariant()
    def what_was_never_added_is_not_there(self) -> None:
        assert self.known.find(token("never")) is Presence.NO

    @invariant()
    def the_figures_agree(self) -> None:
        links = [link for hour in self.known._hours.values() for link in hour.links]
        assert self.known.blooms == len(links)
        assert all(0 < link.entries <= link.items for link in links)

    def teardown(self) -> None:
        self.patch.undo()


TestFilter = FilterMachine.TestCase
