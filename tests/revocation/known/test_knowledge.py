"""What this process knows about revocations, without asking anyone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from revocation.entries import cutoff_entry, token_entry
from revocation.known.knowing import (
    NOW,
    START,
    TIMEOUT,
    cutoff,
    follow,
    knowledge,
    recall,
)

from authz.revocation.known.filter import Presence
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    CLEAR,
    POSSIBLY_REVOKED,
    Clear,
    Finding,
    Revoked,
    TokenRef,
    Unavailable,
)
from support.revocations import named_ref as token


@pytest.fixture
def known() -> Knowledge:
    return knowledge()


# What the store said


def test_of_what_was_never_seen_the_store_is_asked(known: Knowledge) -> None:
    assert recall(known, token()) is None
    assert (known.cache.hits_revoked, known.cache.hits_clear, known.cache.misses) == (0, 0, 1)


def test_a_revocation_that_was_learnt_is_known_until_its_time(known: Knowledge) -> None:
    known.learn(token(), Revoked(NOW + 10), NOW)
    assert recall(known, token(), 9.99) == Revoked(NOW + 10)
    assert recall(known, token(), 10) is None
    assert (known.cache.hits_revoked, known.cache.misses) == (1, 1)


def test_a_clear_answer_is_believed_for_its_ttl(known: Knowledge) -> None:
    known.learn(token(), CLEAR, NOW)
    assert recall(known, token()) == CLEAR
    assert recall(known, token(), 0.999) == CLEAR
    assert recall(known, token(), 1.0) is None
    assert (known.cache.hits_clear, known.cache.misses) == (2, 1)


def test_a_clear_answer_never_hides_a_revocation(known: Knowledge) -> None:
    """An answer that was under way when the revocation came is dropped, in either order."""
    known.learn(token(), CLEAR, NOW)
    known.learn(token(), Revoked(NOW + 10), NOW)
    known.learn(token(), CLEAR, NOW)
    assert recall(known, token()) == Revoked(NOW + 10)
    assert recall(known, token(), 10) is None  # nor is it remembered for later


def test_a_revocation_is_never_shortened(known: Knowledge) -> None:
    known.learn(token(), Revoked(NOW + 10), NOW)
    known.learn(token(), Revoked(NOW + 5), NOW)
    assert recall(known, token(), 9) == Revoked(NOW + 10)


# Cut-offs


def learnt(known: Knowledge, ref: TokenRef, not_before: float) -> None:
    known.learn(ref, cutoff(not_before), NOW)


def heard(known: Knowledge, ref: TokenRef, not_before: float) -> None:
    known.hear(cutoff_entry(ref, not_before), NOW, just_now=False)


both_ways = pytest.mark.parametrize("tell", [learnt, heard])
Tell = Callable[[Knowledge, TokenRef, float], None]


@both_ways
def test_a_cutoff_revokes_every_earlier_token_of_its_user(known: Knowledge, tell: Tell) -> None:
    """Also tokens that were never asked about; not later ones, nor another user's."""
    tell(known, token("seen"), NOW - 30)
    assert recall(known, token("seen")) == cutoff(NOW - 30)
    assert recall(known, token("other")) == cutoff(NOW - 30)
    assert recall(known, token("later", issued_at=int(NOW) - 30)) is None
    assert recall(known, token("seen", user="bob")) is None


@both_ways
def test_of_several_cutoffs_the_latest_counts(known: Knowledge, tell: Tell) -> None:
    tell(known, token(), NOW - 30)
    tell(known, token(), NOW - 300)
    assert recall(known, token()) == cutoff(NOW - 30)
    tell(known, token(), NOW - 20)
    assert recall(known, token(issued_at=int(NOW) - 25)) == cutoff(NOW - 20)


@both_ways
def test_a_cutoff_between_two_seconds_revokes_the_tokens_of_the_earlier(
    known: Knowledge, tell: Tell
) -> None:
    tell(known, token(), NOW + 0.25)
    assert isinstance(recall(known, token(issued_at=int(NOW))), Revoked)
    assert recall(known, token(issued_at=int(NOW) + 1)) is None


@both_ways
def test_a_clear_answer_from_before_the_cutoff_was_known_is_void(
    known: Knowledge, tell: Tell
) -> None:
    """Nobody can tell on which side of the cut-off it was given."""
    new = token("new", issued_at=int(NOW))
    known.learn(new, CLEAR, NOW)
    tell(known, token("old"), NOW - 1)
    assert recall(known, new, 0.2) is None


@both_ways
def test_after_a_new_log_in_clear_answers_are_kept_again(known: Knowledge, tell: Tell) -> None:
    """Else every check of this user would ask Redis for a day. Hearing of the cut-off again, or of
    an earlier one, changes nothing.
    """
    tell(known, token("old"), NOW - 1)
    new = token("new", issued_at=int(NOW))
    known.learn(new, CLEAR, NOW)
    tell(known, token("old"), NOW - 1)
    tell(known, token("old"), NOW - 100)
    assert recall(known, new, 0.5) == CLEAR


@both_ways
def test_a_clear_answer_for_a_token_before_the_cutoff_is_not_kept(
    known: Knowledge, tell: Tell
) -> None:
    tell(known, token("seen"), NOW)
    known.learn(token("other"), CLEAR, NOW)
    assert known.cache.size_clear == 0


@both_ways
def test_a_cutoff_is_exact_whether_or_not_the_feed_is_live(known: Knowledge, tell: Tell) -> None:
    tell(known, token(), NOW)
    for after in (0.0, 5.0):
        follow(known)
        assert isinstance(recall(known, token(), after), Revoked)
    assert known.filtered == dict.fromkeys(Presence, 0)


# What the feed tells


def test_what_was_never_heard_of_is_clear_as_long_as_the_feed_is_live(known: Knowledge) -> None:
    follow(known)
    assert recall(known, token()) == CLEAR
    assert recall(known, token(), 1.999) == CLEAR
    assert recall(known, token(), 2.0) is None
    assert (known.cache.hits_clear, known.cache.misses) == (2, 1)
    assert known.filtered == {Presence.NO: 3, Presence.MAYBE: 0, Presence.FORGOTTEN: 0}


def test_each_bucket_is_live_by_itself(known: Knowledge) -> None:
    known.live_until[token().bucket] = START + 2
    other = replace(token("other"), bucket=(token().bucket + 1) % 16)
    assert recall(known, token()) == CLEAR
    assert recall(known, other) is None


def test_the_wall_clock_makes_no_feed_live(known: Knowledge) -> None:
    """An hour back is no hour more."""
    follow(known)
    assert known.recall(token(), NOW - 3600, START + 1.999) == CLEAR
    assert known.recall(token(), NOW - 3600, START + 2.0) is None
    assert known.recall(token(), NOW + 3600, START + 1.999) == CLEAR


@pytest.mark.parametrize("user", ["its own", "any"])
def test_what_was_pushed_is_revoked_for_certain(known: Knowledge, user: str) -> None:
    entry = token_entry(token(), NOW + 10, any_user=user == "any")
    known.hear(entry, NOW, just_now=True)
    assert recall(known, token()) == Revoked(NOW + 10)
    follow(known)
    assert recall(known, token()) == Revoked(NOW + 10)


def test_what_was_read_with_all_the_others_is_asked_about_once_it_comes(known: Knowledge) -> None:
    """Only the filter has it: exact memory is for what somebody may be using."""
    known.hear(token_entry(token(), NOW + 10), NOW, just_now=False)
    assert known.cache.size_revoked == 0
    follow(known)
    assert recall(known, token()) is None
    assert known.filtered[Presence.MAYBE] == 1
    assert recall(known, token("other")) == CLEAR


def test_what_the_store_said_settles_a_maybe_only_if_it_revokes(known: Knowledge) -> None:
    """That it is clear has to be said anew each time, by a store that shows that it remembers."""
    known.hear(token_entry(token(), NOW + 10), NOW, just_now=False)
    known.learn(token(), CLEAR, NOW)
    follow(known)
    assert recall(known, token(), 0.001) is None
    known.learn(token(), Revoked(NOW + 10), NOW + 1)
    assert recall(known, token(), 1.0) == Revoked(NOW + 10)


def test_a_revocation_that_is_heard_voids_what_the_store_said(known: Knowledge) -> None:
    known.learn(token(), CLEAR, NOW)
    known.hear(token_entry(token(), NOW + 10), NOW, just_now=False)
    assert recall(known, token()) is None


def test_the_filter_knows_a_token_that_memory_had_no_room_for() -> None:
    known = Knowledge(revocations=1, negative_ttl=1.0, false_positives=1e-9, buckets=16)
    for name in ("first", "second"):
        known.hear(token_entry(token(name), NOW + 10), NOW, just_now=True)
    follow(known)
    assert recall(known, token("second")) == Revoked(NOW + 10)
    assert recall(known, token("first")) is None  # to be asked about: no allow
    assert known.cache.evictions_revoked == 1


# A store that lost its history


def test_once_history_is_lost_a_clear_answer_for_what_was_revoked_is_no_allow(
    known: Knowledge,
) -> None:
    """A store that lost its memory clears everybody."""
    known.hear(token_entry(token(), NOW + 3600), NOW, just_now=False)
    known.lose_history()
    follow(known)
    assert recall(known, token()) is None
    assert known.conclude(token(), CLEAR, NOW, START) == POSSIBLY_REVOKED
    known.learn(token(), CLEAR, NOW)
    assert recall(known, token(), 0.5) is None
    assert known.filtered[Presence.FORGOTTEN] == 2


def test_hearing_of_it_again_makes_nothing_less_careful(known: Knowledge) -> None:
    known.hear(token_entry(token(), NOW + 3600), NOW, just_now=False)
    known.lose_history()
    known.hear(token_entry(token(), NOW + 3600), NOW, just_now=False)
    assert known.conclude(token(), CLEAR, NOW, START) == POSSIBLY_REVOKED
    assert known.conclude(token(), Revoked(NOW + 10), NOW, START) == Revoked(NOW + 10)


def test_losing_history_touches_neither_the_good_nor_what_is_exact(known: Knowledge) -> None:
    known.hear(token_entry(token("bad"), NOW + 10), NOW, just_now=True)
    known.hear(cutoff_entry(token(user="bob"), NOW), NOW, just_now=True)
    known.lose_history()
    follow(known)
    assert recall(known, token("good")) == CLEAR
    assert recall(known, token("bad")) == Revoked(NOW + 10)
    assert recall(known, token(user="bob")) == cutoff(NOW)


def test_what_is_heard_after_the_loss_is_the_stores_to_say(known: Knowledge) -> None:
    known.lose_history()
    known.hear(token_entry(token(), NOW + 3600), NOW, just_now=False)
    assert known.conclude(token(), CLEAR, NOW, START) == CLEAR
    assert known.conclude(token(), TIMEOUT, NOW, START) == POSSIBLY_REVOKED


# What an answer means, with what is known by then


def make_filter_say(known: Knowledge, presence: Presence) -> None:
    """About `token()`."""
    if presence is not Presence.NO:
        known.hear(token_entry(token(), NOW + 3600), NOW, just_now=False)
    if presence is Presence.FORGOTTEN:
        known.lose_history()


@pytest.mark.parametrize("presence", Presence)
@pytest.mark.parametrize("live", [True, False], ids=["live", "stale"])
@pytest.mark.parametrize("answer", [CLEAR, Revoked(NOW + 10), TIMEOUT], ids=repr)
def test_an_answer_is_read_in_the_light_of_the_filter(
    known: Knowledge, presence: Presence, live: bool, answer: Clear | Revoked | Unavailable
) -> None:
    make_filter_say(known, presence)
    if live:
        follow(known)
    expected: Finding = answer
    if presence is Presence.FORGOTTEN and answer == CLEAR:
        expected = POSSIBLY_REVOKED
    if answer == TIMEOUT and presence is not Presence.NO:
        expected = POSSIBLY_REVOKED
    if answer == TIMEOUT and presence is Presence.NO and live:
        expected = CLEAR
    assert known.conclude(token(), answer, NOW, START) == expected


@pytest.mark.parametrize("answer", [CLEAR, TIMEOUT], ids=repr)
def test_a_revocation_that_came_meanwhile_counts_more_than_the_answer(
    known: Knowledge, answer: Clear | Unavailable
) -> None:
    known.hear(token_entry(token(), NOW + 10), NOW, just_now=True)
    assert known.conclude(token(), answer, NOW, START) == Revoked(NOW + 10)
    known.hear(cutoff_entry(token("other"), NOW), NOW, just_now=True)
    assert known.conclude(token("other"), answer, NOW, START) == cutoff(NOW)


def test_what_is_concluded_from_an_answer_is_nothing_to_repeat(known: Knowledge) -> None:
    """Only what memory gave out is; the store's word is kept by `learn`."""
    found = known.conclude(token(), CLEAR, NOW, START)
    assert isinstance(found, Clear)
    assert recall(known, token(), last=found) is None
    assert known.recall(token(), 0.0, START, found) is None


# In any order


_findings = st.one_of(
    st.just(CLEAR),
    st.builds(Revoked, until=st.integers(0, 60).map(float)),
    st.builds(Revoked, until=st.just(60.0), not_before=st.integers(0, 40).map(float)),
)
_steps = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), _findings), max_size=25)


@given(_steps, st.integers(0, 60))
def test_whatever_came_in_between_a_known_revocation_is_found(
    steps: list[tuple[str, int, Clear | Revoked]], now: int
) -> None:
    """Against the plain reading of all that was said, with room for everything."""
    known = knowledge()
    base = token(user="ann")
    for name, issued_at, finding in steps:
        known.learn(replace(base, token=name, issued_at=issued_at), finding, 0.0)
    revocations = [(name, one) for name, _, one in steps if isinstance(one, Revoked)]
    latest = max((one.not_before or 0 for _, one in revocations), default=0)
    for name in "abc":
        until = max(
            (one.until for n, one in revocations if n == name and one.not_before is None),
            default=0.0,
        )
        for issued_at in (0, 20, 39):
            ref = replace(base, token=name, issued_at=issued_at)
            found = known.recall(ref, now, START)
            assert isinstance(found, Revoked) == (now < until or issued_at < latest)
