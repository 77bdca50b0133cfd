"""Which key signs when, of the moments beside the keys."""

from hypothesis import given
from hypothesis import strategies as st

from authz.keys.issuing.schedule import NEVER, RETAIN, KeyTimes, Plan, in_order, plan, rotation_due

DAY = 86_400
A, B, C = KeyTimes("a", 1000), KeyTimes("b", 2000), KeyTimes("c", 3000)
OLD, OLDER = KeyTimes("old", None), KeyTimes("older", None)
STAGED = KeyTimes("staged", None, staged=True)


def test_without_keys_nothing_signs() -> None:
    assert plan([], 0) == Plan(None, (), (), NEVER)


def test_a_key_signs_from_its_moment_until_the_next_ones() -> None:
    signing = [plan([A, B, C], now).signing for now in (1000, 1999.9, 2000, 2999, 3000, 9e9)]
    assert signing == ["a", "a", "b", "b", "c", "c"]


def test_the_next_key_is_published_before_it_signs() -> None:
    assert plan([A, B], 1500).published == ("a", "b")
    assert plan([A, B], 1500).changes_at == 2000


def test_an_older_key_stays_published_while_a_token_of_it_may_live() -> None:
    """A day and the longest leeway after the last signature, which was when the next key began."""
    assert RETAIN == DAY + 60
    assert plan([A, B], 2000 + RETAIN - 1).published == ("b", "a")
    assert plan([A, B], 2000 + RETAIN - 1).changes_at == 2000 + RETAIN
    assert plan([A, B], 2000 + RETAIN) == Plan("b", ("b",), ("a",), NEVER)


def test_a_key_that_is_alone_signs_although_its_moment_is_to_come() -> None:
    """It has nobody to wait for: it is the first, or its elders were withdrawn."""
    assert plan([B], 1000).signing == "b"
    assert plan([B, C], 1000).signing == "b"


def test_a_staged_key_is_published_and_never_signs_by_itself() -> None:
    assert plan([A, STAGED], 9e9) == Plan("a", ("a", "staged"), (), NEVER)
    assert plan([STAGED], 9e9).signing is None


def test_keys_of_unknown_age_come_before_all_others_in_the_order_of_their_file() -> None:
    assert plan([OLD, OLDER], 0) == Plan("old", ("old", "older"), (), NEVER)
    assert [key.name for key in in_order([A, OLD, OLDER, STAGED])] == [
        "older", "old", "a", "staged",
    ]  # fmt: skip


def test_a_key_of_unknown_age_ended_at_the_latest_when_a_known_one_began() -> None:
    assert plan([A, OLD, OLDER], 1000 + RETAIN - 1).published == ("a", "old", "older")
    assert plan([A, OLD, OLDER], 1000 + RETAIN).expired == ("older", "old")


def test_the_next_key_is_made_so_early_that_it_is_published_long_enough() -> None:
    assert rotation_due([A], rotate_every=500, publish_ahead=100) == 1400
    assert rotation_due([B, A], rotate_every=500, publish_ahead=100) == 2400
    assert rotation_due([OLD], rotate_every=500, publish_ahead=100) < 0
    assert rotation_due([], rotate_every=500, publish_ahead=100) < 0


def test_no_key_is_made_by_itself_where_somebody_does_it_by_hand() -> None:
    assert rotation_due([A], rotate_every=None, publish_ahead=100) == NEVER
    assert rotation_due([A, STAGED], rotate_every=500, publish_ahead=100) == NEVER


moments = st.lists(st.integers(0, 400_000), max_size=8)


@given(moments, st.integers(-100, 600_000), st.integers(1, 200_000))
def test_who_verifies_has_every_key_of_a_token_that_may_live(
    begins: list[int], now: int, retain: int
) -> None:
    """Whatever signed within `retain` before now is published now; each key has one place, and the
    plan stays as it is until it says.
    """
    keys = [KeyTimes(str(number), begin) for number, begin in enumerate(begins)]
    found = plan(keys, now, retain=retain)
    assert sorted((*found.published, *found.expired)) == sorted(key.name for key in keys)
    for earlier in range(max(now - retain + 1, 0), now + 1, max(retain // 7, 1)):
        signed = plan(keys, earlier, retain=retain).signing
        if any(key.signs_from is not None and key.signs_from <= earlier for key in keys):
            assert signed in found.published
    if found.changes_at != NEVER:
        assert found.changes_at > now
        assert plan(keys, found.changes_at - 0.5, retain=retain)[:3] == found[:3]
        assert plan(keys, found.changes_at, retain=retain)[:3] != found[:3]
