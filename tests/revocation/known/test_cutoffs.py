"""Which users were logged out everywhere, and when."""

import math
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authz.revocation.known import cutoffs as module
from authz.revocation.known.cutoffs import LIFETIME, TABLES, Cutoffs
from authz.revocation.known.steady import WINDOW
from authz.revocation.record import user_digest
from authz.settings import MAX_LIFETIME

NOW = 1_800_000_000.0


def user(name: object) -> str:
    return user_digest("https://issuer.example", str(name))


@pytest.fixture
def cutoffs() -> Cutoffs:
    return Cutoffs()


def swept(cutoffs: Cutoffs, begin: float, seconds: float, monotonic: float) -> None:
    """All tables, in `seconds`."""
    for step in range(TABLES + 1):
        passed = seconds * step / TABLES
        cutoffs.tidy(begin + passed, monotonic + passed)


def test_a_user_without_a_cut_off_has_nothing_revoked(cutoffs: Cutoffs) -> None:
    assert not cutoffs.revokes(user("ann"), 0)
    assert cutoffs.get(user("ann")) is None
    cutoffs.add(user("bob"), NOW, NOW)
    assert not cutoffs.revokes(user("ann"), 0)


def test_tokens_issued_before_the_cut_off_are_revoked_and_later_ones_are_not(
    cutoffs: Cutoffs,
) -> None:
    assert cutoffs.add(user("ann"), NOW, NOW)
    assert cutoffs.revokes(user("ann"), int(NOW) - 1)
    assert not cutoffs.revokes(user("ann"), int(NOW))
    assert cutoffs.get(user("ann")) == int(NOW)


def test_a_token_of_the_second_of_the_cut_off_is_revoked(cutoffs: Cutoffs) -> None:
    """`iat` has no fractions, so it may be of before the cut-off."""
    cutoffs.add(user("ann"), NOW + 0.001, NOW)
    assert cutoffs.revokes(user("ann"), int(NOW))
    assert not cutoffs.revokes(user("ann"), int(NOW) + 1)


def test_of_several_cut_offs_the_latest_counts_in_any_order(cutoffs: Cutoffs) -> None:
    assert cutoffs.add(user("ann"), NOW - 10, NOW)
    assert cutoffs.add(user("ann"), NOW, NOW)
    assert not cutoffs.add(user("ann"), NOW - 5, NOW)
    assert not cutoffs.add(user("ann"), NOW, NOW)
    assert cutoffs.get(user("ann")) == int(NOW)
    assert cutoffs.users == 1


def test_a_cut_off_whose_tokens_have_all_expired_is_left_out(cutoffs: Cutoffs) -> None:
    assert not cutoffs.add(user("ann"), NOW - LIFETIME - 1, NOW)
    assert not cutoffs.add(user("ann"), -1.0, 0.0)
    assert cutoffs.users == 0
    assert cutoffs.add(user("ann"), NOW - LIFETIME, NOW)


@pytest.mark.parametrize("not_before", [253_370_764_800.0, math.inf])
def test_a_cut_off_in_the_far_future_revokes_all(cutoffs: Cutoffs, not_before: float) -> None:
    assert cutoffs.add(user("ann"), not_before, NOW)
    assert cutoffs.revokes(user("ann"), int(NOW) + 10**9)
    assert not cutoffs.add(user("ann"), not_before, NOW)


def test_what_has_expired_leaves_and_its_memory_is_given_back(cutoffs: Cutoffs) -> None:
    for name in range(20_000):
        cutoffs.add(user(name), NOW + (name % 2) * 7200, NOW)
    full = cutoffs.size_bytes
    swept(cutoffs, NOW + LIFETIME, 1800, 0)
    swept(cutoffs, NOW + LIFETIME + 1800, 600, 1800)
    assert cutoffs.users == 10_000
    assert cutoffs.size_bytes < 0.7 * full
    assert all(cutoffs.get(user(name)) == int(NOW) + 7200 for name in range(1, 20_000, 2))
    swept(cutoffs, NOW + LIFETIME + 7200, 1800, 7200)
    swept(cutoffs, NOW + LIFETIME + 9000, 600, 9000)
    assert (cutoffs.users, cutoffs.size_bytes) == (0, 0)


def test_what_has_expired_makes_room_instead_of_a_table_growing(cutoffs: Cutoffs) -> None:
    """As in a sidecar whose users log out all day long."""
    clock, size = NOW, 0
    for day in range(4):
        for name in range(2000):
            cutoffs.add(user((day, name)), clock, clock)
        swept(cutoffs, clock, 600, day * 2 * LIFETIME)
        size = size or cutoffs.size_bytes
        clock += 2 * LIFETIME
    assert cutoffs.size_bytes <= 2.5 * size


def test_a_clock_that_is_ahead_for_a_moment_drops_nothing(cutoffs: Cutoffs) -> None:
    cutoffs.add(user("ann"), NOW, NOW)
    swept(cutoffs, NOW, 1200, 0)
    swept(cutoffs, NOW + 10 * LIFETIME, WINDOW - 30, 1200)
    assert cutoffs.add(user("bob"), NOW, NOW + 10 * LIFETIME)
    swept(cutoffs, NOW + 1800, 600, 1800)
    assert cutoffs.revokes(user("ann"), int(NOW) - 1)
    assert cutoffs.revokes(user("bob"), int(NOW) - 1)


def test_a_hundred_thousand_take_at_most_24_bytes_each_and_are_all_exact(cutoffs: Cutoffs) -> None:
    users = [f"{name:043d}" for name in range(100_000)]
    for seconds, name in enumerate(users):
        cutoffs.add(name, NOW - seconds % 1000, NOW)
        if seconds == 70_000:
            assert cutoffs.size_bytes <= 24.5 * cutoffs.users
    assert cutoffs.users == 100_000
    assert cutoffs.size_bytes <= 24.5 * cutoffs.users
    assert all(cutoffs.get(name) == int(NOW) - n % 1000 for n, name in enumerate(users))
    assert not any(cutoffs.revokes(f"x{name:042d}", 0) for name in range(100_000))


def _constant(_: str) -> int:
    return 7


def test_two_users_with_one_hash_share_the_later_cut_off(
    cutoffs: Cutoffs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_key_of", _constant)
    cutoffs.add(user("ann"), NOW, NOW)
    assert not cutoffs.add(user("bob"), NOW - 60, NOW)
    assert cutoffs.get(user("bob")) == int(NOW)


def test_users_that_crowd_at_one_slot_are_still_told_apart(
    cutoffs: Cutoffs, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, int] = {user(name): 3 + name * TABLES * 840 for name in range(300)}
    lookup: Callable[[str], int] = keys.__getitem__
    monkeypatch.setattr(module, "_key_of", lookup)
    for number, name in enumerate(keys):
        assert cutoffs.add(name, NOW + number, NOW)
    assert [cutoffs.get(name) for name in keys] == [int(NOW) + n for n in range(300)]


@settings(max_examples=60, stateful_step_count=40, deadline=None)
class CutoffsMachine(RuleBasedStateMachine):
    """Against a dictionary, with a clock that is never ahead for ten minutes in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.cutoffs = Cutoffs()
        self.monotonic = 0.0
        self.ahead = 0.0
        self.right_at = 0.0
        self.model: dict[str, int] = {}

    @property
    def wall(self) -> float:
        return NOW + self.monotonic + self.ahead

    @initialize()
    def begin(self) -> None:
        self.cutoffs.tidy(self.wall, self.monotonic)

    @rule(
        name=st.integers(0, 60),
        ago=st.one_of(st.floats(-10, 10), st.floats(0, LIFETIME - 1)),
    )
    def log_out(self, name: int, ago: float) -> None:
        not_before = NOW + self.monotonic - ago
        known = self.model.get(user(name), 0)
        raised = self.cutoffs.add(user(name), not_before, self.wall)
        if raised or self._counts(known):
            assert raised == (math.ceil(not_before) > known) or not self._counts(known)
        self.model[user(name)] = max(known, math.ceil(not_before))

    @rule(first=st.integers(100, 10**6))
    def log_many_out(self, first: int) -> None:
        for name in range(first, first + 400):
            self.log_out(name, 0.0)

    @rule(ahead=st.sampled_from([-1e6, -7200.0, 0.0, 0.0, 7200.0, 1e9]))
    def set_clock(self, ahead: float) -> None:
        self.ahead = ahead
        self.tick(0.0)

    @rule(
        seconds=st.one_of(st.floats(0, 30), st.floats(0, WINDOW), st.sampled_from([3600.0, 40000]))
    )
    def tick(self, seconds: float) -> None:
        self.monotonic += seconds
        if self.ahead > 0 and self.monotonic - self.right_at >= WINDOW:
            self.ahead = 0.0
        if self.ahead <= 0:
            self.right_at = self.monotonic
        for _ in range(TABLES // 4):
            self.cutoffs.tidy(self.wall, self.monotonic)

    @rule()
    def wait_two_days(self) -> None:
        self.ahead = 0.0
        self.tick(2 * MAX_LIFETIME)
        for _ in range(6):
            self.tick(WINDOW)
        self.model.clear()
        assert (self.cutoffs.users, self.cutoffs.size_bytes) == (0, 0)

    def _counts(self, not_before: int) -> bool:
        """There may still be a token of before it."""
        return not_before + LIFETIME >= NOW + self.monotonic

    @invariant()
    def the_latest_cut_off_counts(self) -> None:
        for name, not_before in self.model.items():
            if self._counts(not_before):
                assert self.cutoffs.get(name) == not_before
                assert self.cutoffs.revokes(name, not_before - 1)
                assert not self.cutoffs.revokes(name, not_before)

    @invariant()
    def nobody_else_has_one(self) -> None:
        assert self.cutoffs.get(user("never")) is None


TestCutoffs = CutoffsMachine.TestCase
