"""How late it surely is."""

import math

from hypothesis import given
from hypothesis import strategies as st

from authz.revocation.known.steady import WINDOW, SteadyClock

NOW = 1_800_000_000.0


def ticked(clock: SteadyClock, now: float, monotonic: float, seconds: int) -> None:
    for second in range(seconds):
        clock.tick(now + second, monotonic + second)


def test_for_ten_minutes_nothing_is_surely_over() -> None:
    clock = SteadyClock()
    ticked(clock, NOW, 5.0, int(WINDOW))
    assert clock.surely == -math.inf
    clock.tick(NOW + WINDOW, 5.0 + WINDOW)
    assert clock.surely == NOW


def test_it_follows_the_wall_clock_ten_to_twenty_minutes_behind() -> None:
    clock = SteadyClock()
    ticked(clock, NOW, 0.0, 7200)
    assert NOW + 7200 - 2 * WINDOW <= clock.surely <= NOW + 7200 - WINDOW


def test_a_clock_that_is_set_back_is_followed_at_once() -> None:
    clock = SteadyClock()
    ticked(clock, NOW, 0.0, 3600)
    clock.tick(NOW - 86400, 3600)
    assert clock.surely == NOW - 86400
    assert clock.at(NOW + 3600) == NOW - 86400


def test_what_comes_in_expired_is_judged_by_the_clock_of_the_start() -> None:
    """Else the expired entries of a whole day would have to be taken in."""
    clock = SteadyClock()
    assert clock.at(NOW) == NOW
    clock.tick(NOW, 0.0)
    assert clock.at(NOW + 5) == NOW
    assert clock.at(NOW - 5) == NOW - 5


@given(
    st.lists(st.tuples(st.floats(0.1, 300.0), st.booleans()), max_size=60),
    st.floats(1.0, 1e9),
)
def test_a_clock_that_is_ahead_for_less_than_ten_minutes_is_never_believed(
    steps: list[tuple[float, bool]], ahead: float
) -> None:
    """`steps`: how long until the next tick, and whether the wall clock is ahead from then on."""
    clock = SteadyClock()
    monotonic, right_at = 0.0, 0.0
    clock.tick(NOW, monotonic)
    for wait, wrong in steps:
        monotonic += wait
        is_ahead = wrong and monotonic - right_at < WINDOW
        if not is_ahead:
            right_at = monotonic
        now = NOW + monotonic + ahead * is_ahead
        clock.tick(now, monotonic)
        assert clock.surely <= NOW + monotonic
        assert clock.at(now) <= NOW + monotonic
