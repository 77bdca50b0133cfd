"""A verdict that memory gave out is repeated, unlooked, as long as nothing was learnt."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from revocation.entries import cutoff_entry, token_entry
from revocation.known.knowing import (
    NOW,
    START,
    cutoff,
    follow,
    knowledge,
    recall,
    recalled_clear,
)

from authz.revocation.known.filter import Presence
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    CLEAR,
    Clear,
    Revoked,
    TokenRef,
)
from support.revocations import named_ref as token


@pytest.fixture
def known() -> Knowledge:
    return knowledge()


def learnt(known: Knowledge, ref: TokenRef, not_before: float) -> None:
    known.learn(ref, cutoff(not_before), NOW)


def heard(known: Knowledge, ref: TokenRef, not_before: float) -> None:
    known.hear(cutoff_entry(ref, not_before), NOW, just_now=False)


def test_a_clear_answer_is_repeated_for_its_ttl_and_counted(known: Knowledge) -> None:
    known.learn(token(), CLEAR, NOW)
    last = recalled_clear(known, token())
    assert recall(known, token(), 0.999, last) is last
    assert recall(known, token(), 1.0, last) is None
    assert (known.cache.hits_clear, known.cache.misses) == (2, 1)


def test_the_filters_no_is_repeated_while_the_feed_is_live(known: Knowledge) -> None:
    follow(known)
    last = recalled_clear(known, token())
    assert recall(known, token(), 1.999, last) is last
    assert recall(known, token(), 2.0, last) is None
    follow(known, 10.0)
    assert recall(known, token(), 9.0, last) is last
    assert known.filtered[Presence.NO] == 2  # it wasn't looked for where `last` was repeated


LESSONS: dict[str, Callable[[Knowledge], None]] = {
    "token learnt": lambda known: known.learn(token(), Revoked(NOW + 10), NOW),
    "cut-off learnt": lambda known: learnt(known, token(), NOW),
    "token pushed": lambda known: known.hear(token_entry(token(), NOW + 10), NOW, just_now=True),
    "token of any user pushed": lambda known: known.hear(
        token_entry(token(), NOW + 10, any_user=True), NOW, just_now=True
    ),
    "cut-off heard": lambda known: heard(known, token(), NOW),
}


@pytest.mark.parametrize("lesson", LESSONS)
@pytest.mark.parametrize("live", [True, False], ids=["followed", "said by the store"])
def test_a_verdict_is_not_repeated_once_a_revocation_came(
    known: Knowledge, lesson: str, live: bool
) -> None:
    if live:
        follow(known)
    else:
        known.learn(token(), CLEAR, NOW)
    last = recalled_clear(known, token())
    LESSONS[lesson](known)
    assert isinstance(recall(known, token(), 0.0, last), Revoked)


@pytest.mark.parametrize("live", [True, False], ids=["followed", "said by the store"])
def test_a_verdict_is_not_repeated_once_the_filter_has_the_token(
    known: Knowledge, live: bool
) -> None:
    if live:
        follow(known)
    else:
        known.learn(token(), CLEAR, NOW)
    last = recalled_clear(known, token())
    known.hear(token_entry(token(), NOW + 10), NOW, just_now=False)
    assert recall(known, token(), 0.0, last) is None


def test_anothers_revocation_voids_nothing(known: Knowledge) -> None:
    """Unless they share a counter by chance: once in 8,192, for each of theirs with each of its."""
    follow(known)
    kept = 0
    for number in range(20):
        ref = token(f"t-{number}")
        last = recalled_clear(known, ref)
        known.hear(token_entry(token(f"other-{number}", user="bob"), NOW + 10), NOW, just_now=True)
        kept += recall(known, ref, 0.0, last) is last
    assert kept >= 18


@pytest.mark.parametrize("live", [True, False], ids=["followed", "said by the store"])
def test_a_verdict_is_not_repeated_when_the_clock_jumped_back(known: Knowledge, live: bool) -> None:
    """A revocation that had run out by then may count again."""
    known.learn(token(), Revoked(NOW + 10), NOW)
    if live:
        follow(known)
    else:
        known.learn(token(), CLEAR, NOW + 10)
    last = known.recall(token(), NOW + 10, START)
    assert isinstance(last, Clear)
    assert known.recall(token(), NOW + 9.999, START, last) == Revoked(NOW + 10)


def test_what_the_store_said_is_nothing_to_repeat(known: Knowledge) -> None:
    assert recall(known, token(), 0.0, CLEAR) is None
    assert known.recall(token(), 0.0, 0.0, CLEAR) is None


# In any order


_findings = st.one_of(
    st.just(CLEAR),
    st.builds(Revoked, until=st.integers(0, 60).map(float)),
    st.builds(Revoked, until=st.just(60.0), not_before=st.integers(0, 40).map(float)),
)
_tokens = st.builds(
    replace,
    st.just(token(user="ann")),
    token=st.sampled_from("ab"),
    issued_at=st.sampled_from([0, 20]),
)
_moments = st.integers(0, 240).map(lambda quarter: quarter / 4)
_events = _findings | st.sampled_from(["heard", "pushed", "live", "lost", None, None])


@given(st.lists(st.tuples(_tokens, _moments, _events), max_size=30))
def test_repeating_verdicts_changes_none_of_them(
    steps: list[tuple[TokenRef, float, Clear | Revoked | str | None]],
) -> None:
    """Against knowledge that is never shown its last verdict; None is a question. Only where the
    clock was set back may a good answer be repeated that a later one, from earlier, replaced.
    """
    known, plain = knowledge(), knowledge()
    last: dict[TokenRef, Clear] = {}
    said_clear: dict[TokenRef, list[float]] = {}
    for monotonic, (ref, now, event) in enumerate(steps):
        if event is not None:
            for one in (known, plain):
                _happen(one, event, ref, now, monotonic)
            if isinstance(event, Clear):
                said_clear.setdefault(ref, []).append(now)
            continue
        found = known.recall(ref, now, monotonic, last.get(ref, CLEAR))
        expected = plain.recall(ref, now, monotonic)
        if isinstance(found, Clear):
            last[ref] = found
        if expected is None and found is not None:
            assert isinstance(found, Clear)
            assert any(said <= now < said + 1.0 for said in said_clear[ref])
        else:
            assert found == expected


def _happen(
    known: Knowledge, event: Clear | Revoked | str, ref: TokenRef, now: float, monotonic: float
) -> None:
    if not isinstance(event, str):
        known.learn(ref, event, now)
    elif event == "live":
        known.live_until[ref.bucket] = monotonic + 2
    elif event == "lost":
        known.lose_history()
    else:
        known.hear(token_entry(ref, now + 10), now, just_now=event == "pushed")
