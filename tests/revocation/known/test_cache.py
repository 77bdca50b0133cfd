"""What this process was told about single tokens."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.revocation.known.cache import RevocationCache
from authz.revocation.record import ANY_USER, Revoked
from support.revocations import named_ref as token

NOW = 1_800_000_000.0


@pytest.fixture
def cache() -> RevocationCache:
    return RevocationCache(revocations=4, negative_ttl=1.0)


def keep(cache: RevocationCache, name: str, until: float, now: float = NOW) -> bool:
    ref = token(name)
    return cache.keep_revoked(ref.user, ref.token, until, now)


# Revoked


def test_of_what_was_never_told_nothing_is_known(cache: RevocationCache) -> None:
    assert cache.revoked(token(), NOW) is None
    assert cache.clear_since(token(), 0, NOW) is None


def test_a_revocation_is_known_until_its_time_and_no_longer(cache: RevocationCache) -> None:
    assert keep(cache, "t", NOW + 10)
    assert cache.revoked(token("t"), NOW + 9.99) == Revoked(NOW + 10)
    assert cache.revoked(token("t"), NOW + 10) is None
    assert cache.revoked(token("t", user="bob"), NOW) is None


def test_a_clock_that_was_ahead_for_a_moment_erases_no_revocation(cache: RevocationCache) -> None:
    keep(cache, "t", NOW + 10)
    assert cache.revoked(token("t"), NOW + 1000) is None
    assert cache.revoked(token("t"), NOW + 1) == Revoked(NOW + 10)


def test_a_revocation_is_never_shortened(cache: RevocationCache) -> None:
    """And who repeats it, or says less, is told that it was nothing new."""
    assert keep(cache, "t", NOW + 10)
    assert not keep(cache, "t", NOW + 10)
    assert not keep(cache, "t", NOW + 5)
    assert cache.revoked(token("t"), NOW + 9) == Revoked(NOW + 10)
    assert keep(cache, "t", NOW + 11)
    assert cache.revoked(token("t"), NOW + 10.5) == Revoked(NOW + 11)


def test_a_token_revoked_without_its_user_is_revoked_whosever_it_is(cache: RevocationCache) -> None:
    cache.keep_revoked(ANY_USER, token("t").token, NOW + 10, NOW)
    for user in ("ann", "bob"):
        assert cache.revoked(token("t", user=user), NOW) == Revoked(NOW + 10)
    assert cache.revoked(token("other"), NOW) is None


def test_where_it_was_revoked_in_both_ways_the_longer_one_counts(cache: RevocationCache) -> None:
    cache.keep_revoked(ANY_USER, token("t").token, NOW + 20, NOW)
    keep(cache, "t", NOW + 10)
    assert cache.revoked(token("t"), NOW + 15) == Revoked(NOW + 20)


def test_a_renewed_token_of_the_same_jti_is_revoked_with_the_old_one(
    cache: RevocationCache,
) -> None:
    keep(cache, "t", NOW + 10)
    assert cache.revoked(replace(token("t"), issued_at=int(NOW)), NOW) == Revoked(NOW + 10)


def test_the_revocation_that_was_used_least_recently_goes_first(cache: RevocationCache) -> None:
    for number in range(4):
        keep(cache, str(number), NOW + 10)
    cache.revoked(token("0"), NOW)
    keep(cache, "4", NOW + 10)
    assert cache.revoked(token("0"), NOW) == Revoked(NOW + 10)
    assert cache.revoked(token("1"), NOW) is None
    assert (cache.size_revoked, cache.evictions_revoked) == (4, 1)


def test_pushing_out_what_has_run_out_is_no_eviction(cache: RevocationCache) -> None:
    """The counter is there to alarm: it means a revocation that still counted was lost."""
    for number in range(8):
        keep(cache, str(number), NOW + number, NOW + number)
        cache.keep_clear(token(str(number)), 0, NOW + 10 * number)
    assert (cache.evictions_revoked, cache.evictions_clear) == (0, 0)


def test_what_is_known_already_pushes_nothing_out(cache: RevocationCache) -> None:
    for _ in range(2):
        for number in range(4):
            keep(cache, str(number), NOW + 10)
    keep(cache, "0", NOW + 20)
    assert (cache.size_revoked, cache.evictions_revoked) == (4, 0)


# Not revoked


def test_a_clear_answer_is_believed_for_its_ttl(cache: RevocationCache) -> None:
    cache.keep_clear(token(), 7, NOW)
    assert cache.clear_since(token(), 7, NOW) == NOW
    assert cache.clear_since(token(), 7, NOW + 0.999) == NOW
    assert cache.clear_since(token(), 7, NOW + 1.0) is None


def test_a_clear_answer_is_void_once_something_was_learnt(cache: RevocationCache) -> None:
    """Its version is another then, whatever it was before: nobody can tell of which side it is."""
    cache.keep_clear(token(), 7, NOW)
    for version in (6, 8, 0, -1):
        assert cache.clear_since(token(), version, NOW) is None
    assert cache.clear_since(token(), 7, NOW) == NOW


def test_a_clear_answer_is_not_believed_when_the_clock_jumped_back(cache: RevocationCache) -> None:
    """Else an hour's jump would keep `not revoked` alive for an hour."""
    cache.keep_clear(token(), 0, NOW)
    assert cache.clear_since(token(), 0, NOW - 3600) is None


def test_with_no_ttl_no_clear_answer_is_kept() -> None:
    cache = RevocationCache(revocations=4, negative_ttl=0.0)
    cache.keep_clear(token(), 0, NOW)
    assert cache.clear_since(token(), 0, NOW) is None
    assert cache.size_clear == 0


def test_a_renewed_token_of_the_same_jti_vouches_only_for_itself(cache: RevocationCache) -> None:
    """A cut-off between the two `iat` revokes the older one, and the store has to be asked."""
    cache.keep_clear(token("same", issued_at=int(NOW)), 0, NOW)
    assert cache.clear_since(token("same", issued_at=int(NOW)), 0, NOW) == NOW
    assert cache.clear_since(token("same", issued_at=int(NOW) - 60), 0, NOW) is None


def test_a_clear_answer_that_is_given_again_counts_from_then(cache: RevocationCache) -> None:
    cache.keep_clear(token("first"), 0, NOW)
    cache.keep_clear(token("second"), 0, NOW + 0.5)
    cache.keep_clear(token("first"), 0, NOW + 0.9)
    cache.keep_clear(token("third"), 0, NOW + 1.6)
    assert cache.clear_since(token("first"), 0, NOW + 1.8) == NOW + 0.9
    assert cache.clear_since(token("second"), 0, NOW + 1.8) is None


def test_a_flood_of_clear_answers_pushes_out_no_revocation(cache: RevocationCache) -> None:
    keep(cache, "bad", NOW + 10)
    for number in range(100):
        cache.keep_clear(token(f"good {number}"), 0, NOW)
    assert cache.revoked(token("bad"), NOW) == Revoked(NOW + 10)
    assert (cache.size_revoked, cache.size_clear) == (1, 4)
    assert (cache.evictions_revoked, cache.evictions_clear) == (0, 96)


def test_clear_answers_that_ran_out_take_no_room() -> None:
    """With tokens that come once they would be nearly all."""
    cache = RevocationCache(revocations=1000, negative_ttl=1.0)
    for second in range(100):
        cache.keep_clear(token(f"first-{second}"), 0, NOW + second)
        cache.keep_clear(token(f"second-{second}"), 0, NOW + second)
    assert (cache.size_clear, cache.evictions_clear) == (2, 0)


_steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(0, 60).map(float)), max_size=25
)


@given(_steps, st.integers(0, 60))
def test_whatever_came_in_between_a_known_revocation_is_found(
    steps: list[tuple[str, bool, float]], now: int
) -> None:
    """Against the plain reading of all that was said, with room for everything."""
    cache = RevocationCache(revocations=100, negative_ttl=1.0)
    untils: dict[str, float] = {}
    for name, of_any_user, until in steps:
        ref = token(name)
        cache.keep_revoked(ANY_USER if of_any_user else ref.user, ref.token, until, 0.0)
        untils[name] = max(until, untils.get(name, 0.0))
    for name in "abc":
        found = cache.revoked(token(name), now)
        assert isinstance(found, Revoked) == (now < untils.get(name, 0.0))
