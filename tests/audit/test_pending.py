"""The memory of what was let through: bounded, and never too few requests."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.audit.fields import MAX_TEXT
from authz.audit.pending import MAX_SLOTS, Pending, Times
from authz.revocation.record import TokenRef

NOW = 1_800_000_000_000
"""Milliseconds since 1970."""

REF = TokenRef("U" * 43, "T" * 43, 3, 1_800_000_000, 1_800_003_600)


def ref(number: int, bucket: int = 3) -> TokenRef:
    return replace(REF, token=f"{number:043}", bucket=bucket)


def add(pending: Pending, one: TokenRef, at: int = NOW) -> None:
    pending.add("https://issuer.example", "ann", "t-1", one, at)


def times_of(*instants: int, limit: int | None = MAX_SLOTS) -> Times:
    times = Times(limit)
    for at in instants:
        times.add(at)
    return times


# Times


def test_a_request_of_the_same_instant_counts_as_after() -> None:
    times = times_of(NOW, NOW + 1, NOW + 5)
    assert [times.since(NOW + n) for n in (-1, 0, 1, 2, 5, 6)] == [3, 3, 2, 1, 1, 0]


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=MAX_SLOTS), st.integers(0, 10**7))
def test_a_few_requests_are_counted_exactly_in_any_order(instants: list[int], revoked: int) -> None:
    times = times_of(*instants)
    assert times.since(revoked) == sum(at >= revoked for at in instants)
    assert (times.first, times.last, times.total) == (min(instants), max(instants), len(instants))


@given(
    st.lists(st.integers(0, 10**5), min_size=1, max_size=300),
    st.lists(st.integers(0, 10**5), max_size=300),
    st.integers(0, 10**5),
)
def test_many_are_counted_in_bounded_space_and_never_too_few(
    some: list[int], others: list[int], revoked: int
) -> None:
    """Also where two counts of different grain are put together. Too many are at most those of the
    one span that the instant lies in."""
    times = times_of(*some)
    times.merge(times_of(*others))
    instants = some + others
    assert len(list(times.spans())) <= MAX_SLOTS
    assert times.total == len(instants)
    begin = revoked // times.width * times.width
    assert times.since(revoked) >= sum(at >= revoked for at in instants)
    assert times.since(revoked) <= sum(at >= begin for at in instants)


@given(st.lists(st.integers(0, 10**6), max_size=200), st.integers(0, 10**6))
def test_without_a_limit_everything_is_exact(instants: list[int], at: int) -> None:
    times = times_of(*instants, limit=None)
    later = [one for one in instants if one > at]
    assert times.after(at).total == len(later)
    assert times.after(at).first == min(later, default=0)
    if instants:
        assert times.since(at) == sum(one >= at for one in instants)


# Tokens


def test_requests_of_one_token_are_one_entry() -> None:
    pending = Pending()
    add(pending, REF, NOW)
    add(pending, REF, NOW + 7)
    add(pending, ref(1), NOW)
    assert len(pending) == 2
    first, second = pending.take(3, 10)
    assert (first.ref, first.times.total, first.times.last) == (REF, 2, NOW + 7)
    assert (second.ref, second.times.total) == (ref(1), 1)


def test_what_does_not_fit_is_counted_and_what_is_known_goes_on() -> None:
    pending = Pending(limit=2)
    for number in range(4):
        add(pending, ref(number))
    add(pending, ref(0))
    assert (len(pending), pending.dropped) == (2, 2)
    assert [token.times.total for token in pending.take(3, 10)] == [2, 1]


def test_what_is_in_hand_counts_until_it_is_settled() -> None:
    pending = Pending(limit=3)
    for number in range(3):
        add(pending, ref(number))
    taken = pending.take(3, 2)
    assert (len(taken), len(pending)) == (2, 3)
    add(pending, ref(9))
    assert pending.dropped == 1  # no room while they may come back
    pending.settle(2)
    add(pending, ref(9))
    assert len(pending) == 2


def test_what_is_let_through_while_it_is_in_hand_waits_anew() -> None:
    """And is put together with what comes back."""
    pending = Pending()
    add(pending, REF, NOW)
    taken = pending.take(3, 1)
    add(pending, REF, NOW + 1)
    assert len(pending) == 2
    pending.give_back(taken)
    assert len(pending) == 1
    (token,) = pending.take(3, 10)
    assert (token.times.total, token.times.first, token.times.last) == (2, NOW, NOW + 1)


def test_each_bucket_is_taken_by_itself() -> None:
    pending = Pending()
    for number in range(4):
        add(pending, ref(number, bucket=number % 2))
    assert sorted(pending.buckets()) == [0, 1]
    pending.settle(len(pending.take(1, 10)))
    assert pending.buckets() == [0]
    assert (len(pending), pending.take(1, 10)) == (2, [])


@pytest.mark.parametrize("limit", [5])
def test_what_is_restored_is_bounded_as_well(limit: int) -> None:
    source = Pending()
    for number in range(8):
        add(source, ref(number))
    pending = Pending(limit)
    add(pending, ref(0))
    pending.restore(source.take(3, 8))
    assert (len(pending), pending.dropped) == (5, 3)
    assert pending.take(3, 1)[0].times.total == 2


def test_texts_are_kept_no_longer_than_a_record_has_them() -> None:
    pending = Pending()
    pending.add("i" * 9000, "s" * 9000, "t" * 9000, REF, NOW)
    (token,) = pending.take(3, 1)
    assert {len(token.issuer), len(token.subject), len(token.token_id)} == {MAX_TEXT}
