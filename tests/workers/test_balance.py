"""When connections move from one worker to another, and how many."""

from collections.abc import Sequence

import pytest

from authz.workers.balance import PATIENCE, RESPITE, Balance


def lasting(balance: Balance, counts: Sequence[int], ticks: int = PATIENCE) -> list[int]:
    """What is sent away at the last of so many ticks."""
    for _ in range(ticks - 1):
        assert not any(balance.excess(counts))
    return balance.excess(counts)


@pytest.mark.parametrize(
    ("counts", "excess"),
    [
        ([2, 0], [1, 0]),
        ([0, 2], [0, 1]),
        ([3, 0], [1, 0]),
        ([2, 2, 0], [0, 1, 0]),
        ([10, 0, 2], [6, 0, 0]),
        ([400, 0], [200, 0]),
        ([1, 0], [0, 0]),
        ([2, 1, 1, 2], [0, 0, 0, 0]),
        ([0, 0], [0, 0]),
        ([5], [0]),
        ([], []),
    ],
)
def test_an_imbalance_that_lasts_is_evened_out_and_no_more(
    counts: list[int], excess: list[int]
) -> None:
    assert lasting(Balance(), counts) == excess
    after = [count - gone for count, gone in zip(counts, excess, strict=True)]
    assert sum(excess) <= sum(counts) - max(after, default=0)


def test_one_that_passes_is_left_alone() -> None:
    balance = Balance()
    for _ in range(10):
        lasting(balance, [2, 0], PATIENCE - 1)
        assert balance.excess([1, 1]) == [0, 0]


def test_who_was_sent_away_has_time_to_come_back() -> None:
    """And clients that don't come back don't make us send away the others."""
    balance = Balance()
    assert lasting(balance, [4, 0]) == [2, 0]
    for _ in range(RESPITE):
        assert balance.excess([4, 0]) == [0, 0]
    assert lasting(balance, [4, 0]) == [2, 0]
