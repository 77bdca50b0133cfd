"""The order of keys in a key file, and how it changes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.keys.errors import KeySourceError
from authz.keys.issuing.schedule import RETAIN, plan
from authz.keys.rotation import (
    SIGNS_FROM,
    STAGED,
    Rotation,
    activate,
    arranged,
    rotate,
    schedule,
    stage,
    times_of,
    withdraw,
)

A, B, C, NEW = ({"kid": kid} for kid in ("a", "b", "c", "new"))
NOW = 1_800_000_000.5


def order(keys: list[dict[str, Any]]) -> list[Any]:
    return [key["kid"] for key in keys]


def signing(keys: list[dict[str, Any]], now: float = NOW) -> str | None:
    return plan([times_of(key) for key in keys], now).signing


def since(key: dict[str, Any], moment: float) -> dict[str, Any]:
    return {**key, SIGNS_FROM: int(moment)}


def test_the_new_key_signs_and_the_oldest_go() -> None:
    result = rotate([A, B, C], NEW, keep=2, now=NOW)
    assert order(result.keys) == ["new", "a"]
    assert result.dropped == [B, C]
    assert signing(result.keys) == "new"


def test_when_a_key_began_to_sign_is_written_beside_it() -> None:
    assert rotate([A], NEW, keep=2, now=NOW).keys == [{**NEW, SIGNS_FROM: 1_800_000_000}, A]


def test_keeping_one_drops_all_others() -> None:
    assert rotate([A, B], NEW, keep=1, now=NOW) == Rotation([since(NEW, NOW)], [A, B])


def test_keeping_more_than_there_are_drops_nothing() -> None:
    assert order(rotate([A], NEW, keep=9, now=NOW).keys) == ["new", "a"]


def test_a_staged_key_does_not_sign_and_drops_nothing() -> None:
    result = stage([A, B, C], NEW, now=NOW)
    assert order(result.keys) == ["a", "b", "c", "new"]
    assert result.dropped == []
    assert signing(result.keys) == "a"


def test_an_activated_key_signs_and_the_oldest_go() -> None:
    result = activate(stage([A, B, C], NEW, now=NOW).keys, keep=2, now=NOW)
    assert result == Rotation([since(NEW, NOW), A], [B, C])


def test_without_a_staged_key_there_is_nothing_to_activate() -> None:
    with pytest.raises(KeySourceError, match="holds no staged key"):
        activate([A, B], keep=2, now=NOW)


def test_a_staged_key_is_not_forgotten() -> None:
    """Rotating past it would drop a key that is published for nothing, or let it sign unasked."""
    staged: list[dict[str, Any]] = [A, {**B, STAGED: True}]
    with pytest.raises(KeySourceError, match="key 'b' is staged"):
        rotate(staged, NEW, keep=2, now=NOW)
    with pytest.raises(KeySourceError, match="key 'b' is staged"):
        stage(staged, NEW, now=NOW)
    with pytest.raises(KeySourceError, match="key 'b' is staged"):
        schedule(staged, NEW, now=NOW, ahead=60)


def test_a_scheduled_key_signs_by_itself_when_it_is_time() -> None:
    keys = schedule([A, B], NEW, now=NOW, ahead=60).keys
    assert order(keys) == ["a", "b", "new"]
    assert [signing(keys, NOW + after) for after in (0, 60, 61)] == ["a", "a", "new"]
    assert order(arranged(keys, NOW + 61)) == ["new", "a", "b"]
    with pytest.raises(KeySourceError, match="key 'new' is published already"):
        schedule(keys, C, now=NOW + 1, ahead=60)


def test_scheduling_drops_only_what_no_token_can_need() -> None:
    keys = [since(C, NOW - 10), since(B, NOW - RETAIN), since(A, NOW - 2 * RETAIN)]
    result = schedule(keys, NEW, now=NOW, ahead=60)
    assert order(result.keys) == ["c", "b", "new"]
    assert order(result.dropped) == ["a"]


def test_a_withdrawn_key_that_signed_is_followed_by_a_new_one() -> None:
    result = withdraw([A, B], "a", lambda: NEW, now=NOW)
    assert result == Rotation([since(NEW, NOW), B], [A])
    assert signing(result.keys) == "new"


@pytest.mark.parametrize("waiting", [{**C, STAGED: True}, since(C, NOW + 60)])
def test_a_key_that_waits_already_takes_over_at_once(waiting: dict[str, Any]) -> None:
    """Everybody has it already, so no token is refused."""
    result = withdraw([A, B, waiting], "a", lambda: NEW, now=NOW)
    assert result == Rotation([since(C, NOW), B], [A])
    assert signing(result.keys) == "c"


def test_an_older_key_does_not_come_back_to_sign() -> None:
    keys = [since(B, NOW - 10), since(A, NOW - 20)]
    assert signing(withdraw(keys, "b", lambda: NEW, now=NOW).keys) == "new"


def test_withdrawing_another_key_leaves_the_one_that_signs() -> None:
    for name in ("b", "c"):
        result = withdraw([A, B, since(C, NOW + 60)], name, lambda: NEW, now=NOW)
        assert signing(result.keys) == "a"
        assert name not in order(result.keys)
        assert len(result.keys) == 2


def test_a_key_that_is_not_there_can_not_be_withdrawn() -> None:
    with pytest.raises(KeySourceError, match="holds no key 'x'; it has a, b"):
        withdraw([A, B], "x", lambda: NEW, now=NOW)


@pytest.mark.parametrize("value", [None, "soon", True, [], {}])
def test_a_moment_that_can_not_be_read_was_not_written_down(value: object) -> None:
    assert times_of({**A, SIGNS_FROM: value}).signs_from is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 2 * int(RETAIN))),
        st.tuples(st.just("schedule"), st.integers(0, 1000)),
        st.tuples(st.sampled_from(["rotate", "stage", "activate"]), st.just(0)),
        st.tuples(st.just("withdraw"), st.integers(0, 9)),
    ),
    max_size=25,
)


@given(STEPS)
def test_whatever_is_done_one_key_signs_and_none_comes_back(steps: list[tuple[str, int]]) -> None:
    """Some key always signs, and stands first; one that was followed by another or withdrawn never
    signs again, and one that was withdrawn is never there again.
    """
    now = NOW
    keys: list[dict[str, Any]] = [since({"kid": "0"}, NOW)]
    made, over, gone = 0, set[str | None](), set[str]()
    signs = "0"
    for step, number in steps:
        made += 1
        new = {"kid": str(made)}
        try:
            match step:
                case "wait":
                    now += number
                case "schedule":
                    keys = schedule(keys, new, now=now, ahead=number).keys
                case "rotate":
                    keys = rotate(keys, new, keep=9, now=now).keys
                case "stage":
                    keys = stage(keys, new, now=now).keys
                case "activate":
                    keys = activate(keys, keep=9, now=now).keys
                case _:
                    name = order(keys)[number % len(keys)]
                    keys = withdraw(keys, name, new.copy, now=now).keys
                    gone.add(name)
        except KeySourceError:
            continue  # the next key is there already, or none is staged
        current = signing(keys, now)
        assert current is not None
        if current != signs:
            over.add(signs)
            signs = current
        assert signs not in over | gone
        assert not gone & set(order(keys))
        assert len(set(order(keys))) == len(keys)
        assert order(arranged(keys, now))[0] == signs
