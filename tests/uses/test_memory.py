"""What this process remembers of what was used: all of it while it counts, in bounded memory."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from authz.uses.memory import KEPT_FOR, MAX_NAMES, SPAN, UsedHere

NOW = 1_800_000_000.0


def test_a_name_can_be_added_once() -> None:
    here = UsedHere()
    assert here.add("a", NOW + 60, NOW)
    assert not here.add("a", NOW + 60, NOW)
    assert here.add("b", NOW + 60, NOW)
    assert here.size == 2


def test_what_was_discarded_can_be_added_again() -> None:
    here = UsedHere()
    here.add("a", NOW + 60, NOW)
    here.discard("a", NOW + 60)
    here.discard("never", NOW + 60)
    here.discard("never", NOW + 6000)
    assert here.size == 0
    assert here.add("a", NOW + 60, NOW)


def test_what_ran_out_is_forgotten_after_a_while() -> None:
    here = UsedHere()
    for number in range(10):
        here.add(str(number), NOW + 60, NOW)
    later = NOW + 60 + KEPT_FOR + 2 * SPAN
    here.add("later", later, later)
    assert here.size == 1
    assert here.evictions == 0


def test_a_clock_that_was_wrong_for_a_moment_makes_nothing_forgotten() -> None:
    here = UsedHere()
    here.add("a", NOW + 60, NOW)
    here.add("b", NOW + KEPT_FOR / 2, NOW + KEPT_FOR / 2)
    assert not here.add("a", NOW + 60, NOW + 1)


def test_where_there_is_no_room_what_runs_out_first_leaves() -> None:
    for offset in (0, 5000):
        here = UsedHere(capacity=3)
        for name, lifetime in (("short", 100), ("long", 300), ("longer", 500)):
            here.add(name, NOW + offset + lifetime, NOW)
        here.add("new", NOW + offset + 400, NOW)
        assert (here.size, here.evictions) == (3, 1)
        assert not here.knows("short", NOW + offset + 100)


def test_what_runs_out_soon_and_what_does_not_have_half_of_the_room_each() -> None:
    """Else a day's one-time tokens would leave no room for proofs, or proofs none for these."""
    here = UsedHere(capacity=4)
    for number in range(4):
        here.add(f"token {number}", NOW + 5000 + 100 * number, NOW)
    for number in range(6):
        here.add(f"proof {number}", NOW + 65 + 60 * number, NOW)
        assert here.knows(f"proof {number}", NOW + 65 + 60 * number)
    assert here.knows("proof 4", NOW + 65 + 60 * 4)
    assert [here.knows(f"token {number}", NOW + 5000 + 100 * number) for number in range(4)] == [
        False, False, True, True,
    ]  # fmt: skip
    here.add("token 4", NOW + 5400, NOW)
    assert here.knows("proof 4", NOW + 65 + 60 * 4)
    assert not here.knows("token 2", NOW + 5200)
    assert here.size == 4


def test_what_leaves_when_it_no_longer_counts_is_no_eviction() -> None:
    here = UsedHere(capacity=1)
    here.add("a", NOW, NOW)
    here.add("b", NOW + 200, NOW + 200)
    assert (here.size, here.evictions) == (1, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(0, 2000), st.booleans()), max_size=60
    ),
    st.integers(1, 4),
)
def test_it_is_never_larger_than_allowed_and_counts_what_it_holds(
    steps: list[tuple[str, int, bool]], capacity: int
) -> None:
    """Names with one expiry each, added and discarded while time goes on: what is held is counted,
    and a name that was pushed out is the only one that can be added twice.
    """
    here = UsedHere(capacity)
    held: set[str] = set()
    for name, passed, discard in steps:
        until = NOW + 2000 + 100 * ord(name)
        if discard:
            here.discard(name, until)
            held.discard(name)
        elif here.add(name, until, NOW + passed):
            assert name not in held or here.evictions
            held.add(name)
        else:
            assert name in held
        assert here.size == sum(map(len, here._by_span.values())) <= capacity


def test_a_full_memory_takes_as_little_as_is_said() -> None:
    """150 bytes a name: of the text, and of its place in a set."""
    name = "x" * 43
    names = {f"{number:043}" for number in range(MAX_NAMES // 8)}
    bytes_each = sys.getsizeof(name) + sys.getsizeof(names) / len(names)
    assert bytes_each < 150
