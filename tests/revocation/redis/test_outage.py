"""The breaker in front of one Redis node."""

import math
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from authz.revocation.redis.outage import (
    HISTORY,
    MAX_IN_A_ROW,
    MAX_IN_HISTORY,
    PROBE_INTERVAL,
    PROBE_JITTER,
    Breaker,
    BreakerError,
    Event,
    State,
)


def new_breaker(now: float = 0.0, random: float = 0.5) -> Breaker:
    return Breaker(now, lambda: random)


def opened_breaker(now: float = 0.0, random: float = 0.5) -> Breaker:
    breaker = new_breaker(now, random)
    for _ in range(MAX_IN_A_ROW):
        breaker.failure(now)
    assert breaker.state is State.OPEN
    return breaker


def test_four_failures_in_a_row_are_tolerated_and_the_fifth_opens() -> None:
    breaker = new_breaker()
    for _ in range(4):
        breaker.failure(1.0)
    assert breaker.allows(1.0)
    breaker.failure(2.0)
    assert not breaker.allows(2.0)
    assert (breaker.state, breaker.since, breaker.opened) == (State.OPEN, 2.0, 1)


def test_a_success_between_failures_starts_the_row_anew() -> None:
    breaker = new_breaker()
    for failed in [True] * 4 + [False] + [True] * 4:
        breaker.failure(0.0) if failed else breaker.success(0.0)
    assert breaker.allows(0.0)


def test_a_node_that_fails_every_other_time_is_caught_at_ten_failures() -> None:
    breaker = new_breaker()
    for turn in range(MAX_IN_HISTORY - 1):
        breaker.success(turn)
        breaker.failure(turn)
    assert breaker.allows(0.0)
    breaker.failure(9.0)
    assert breaker.state is State.OPEN


def test_failures_further_back_than_twenty_results_are_forgotten() -> None:
    breaker = new_breaker()
    for _ in range(3):
        for failed in [True] * 3 + [False] * 5:
            breaker.failure(0.0) if failed else breaker.success(0.0)
    for _ in range(HISTORY):
        breaker.success(0.0)
    for _ in range(MAX_IN_A_ROW - 1):
        breaker.failure(0.0)
    assert breaker.allows(0.0)


@given(st.floats(min_value=0, max_value=1e9))
def test_time_alone_never_closes(later: float) -> None:
    """However long ago it opened, no check is sent to try."""
    breaker = opened_breaker()
    assert not breaker.allows(later)


def test_a_late_answer_of_a_check_neither_closes_nor_counts() -> None:
    """A node that always answers just after the timeout must not flap."""
    breaker = opened_breaker()
    breaker.success(0.01)
    breaker.failure(0.01)
    assert (breaker.state, breaker.opened) == (State.OPEN, 1)


def test_one_good_probe_closes_and_clears_the_history() -> None:
    breaker = opened_breaker()
    breaker.probe_succeeded(0.5)
    assert (breaker.state, breaker.since) == (State.CLOSED, 0.5)
    for _ in range(MAX_IN_A_ROW - 1):
        breaker.failure(0.6)
    assert breaker.allows(0.6)


def test_there_is_nothing_to_probe_while_closed() -> None:
    assert new_breaker().next_probe(5.0) == math.inf


def test_probes_are_due_every_half_second_from_when_the_last_was_due() -> None:
    """The time a probe takes doesn't stretch the interval."""
    breaker = opened_breaker(now=10.0)
    assert breaker.next_probe(10.0) == pytest.approx(PROBE_INTERVAL)
    breaker.probe_failed(10.6)
    assert breaker.next_probe(10.6) == pytest.approx(0.4)
    assert breaker.probes_failed == 1


def test_a_prober_that_was_held_up_does_not_fire_a_burst() -> None:
    breaker = opened_breaker(now=0.0)
    assert breaker.next_probe(60.0) == 0.0
    breaker.probe_failed(60.0)
    assert breaker.next_probe(60.0) == 0.0
    breaker.probe_failed(60.1)
    assert breaker.next_probe(60.1) > 0.0


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_jitter_stays_within_its_share_of_the_interval(random: float) -> None:
    wait = opened_breaker(random=random).next_probe(0.0)
    assert PROBE_INTERVAL * (1 - PROBE_JITTER) <= wait <= PROBE_INTERVAL * (1 + PROBE_JITTER)


def test_every_pair_of_state_and_event_is_in_the_table_or_raises() -> None:
    """The one impossible pair: the limit is only looked at while closed."""
    impossible = []
    for state, event in product(State, Event):
        breaker = opened_breaker() if state is State.OPEN else new_breaker()
        try:
            breaker._on(event, 1.0)
        except BreakerError:
            impossible.append((state, event))
    assert impossible == [(State.OPEN, Event.LIMIT)]


def test_status_is_fit_for_json() -> None:
    breaker = opened_breaker(now=1.0)
    breaker.allows(2.0)
    assert breaker.status(3.5) == {
        "state": "open",
        "for_seconds": 2.5,
        "failures_in_a_row": 5,
        "opened": 1,
        "probes_failed": 0,
        "refused": 1,
    }


def _numbers() -> Iterator[float]:
    while True:
        yield from (0.0, 0.99, 0.5)


class BreakerAgainstModel(RuleBasedStateMachine):
    """Whatever happens in whatever order, the breaker does as a list of all results would say."""

    def __init__(self) -> None:
        super().__init__()
        numbers = _numbers()
        self.now = 0.0
        self.breaker = Breaker(self.now, lambda: next(numbers))
        self.results: list[bool] = []  # since it last closed; True: failed
        self.open = False

    @rule(seconds=st.floats(min_value=0, max_value=10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(failed=st.lists(st.booleans(), min_size=1, max_size=30))
    def checks_return(self, failed: list[bool]) -> None:
        for one in failed:
            self.breaker.failure(self.now) if one else self.breaker.success(self.now)
            if not self.open:
                self.results.append(one)
                self.open = one and (
                    self.results[-5:] == [True] * 5 or sum(self.results[-20:]) >= 10
                )

    @rule(good=st.booleans())
    def a_probe_returns(self, good: bool) -> None:
        self.breaker.probe_succeeded(self.now) if good else self.breaker.probe_failed(self.now)
        if good and self.open:
            self.open = False
            self.results.clear()

    @invariant()
    def it_refuses_exactly_while_open(self) -> None:
        assert self.breaker.allows(self.now) is not self.open

    @invariant()
    def a_probe_is_due_soon_exactly_while_open(self) -> None:
        wait = self.breaker.next_probe(self.now)
        if self.open:
            assert 0 <= wait <= PROBE_INTERVAL * (1 + PROBE_JITTER)
        else:
            assert wait == math.inf


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
