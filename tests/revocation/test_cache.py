"""What a sidecar knows about revocations without asking."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.revocation.cache import RevocationCache
from authz.revocation.record import Clear, Revoked, TokenRef, token_digest, user_digest

NOW = 1_800_000_000.0
CLEAR = Clear()


def token(name: str = "t", user: str = "ann", issued_at: int = int(NOW) - 60) -> TokenRef:
    return TokenRef(
        user=user_digest("https://issuer.example", user),
        token=token_digest("https://issuer.example", name, b""),
        bucket=3,
        issued_at=issued_at,
        expires_at=issued_at + 3600,
    )


@pytest.fixture
def cache() -> RevocationCache:
    return RevocationCache(revocations=4, negative_ttl=1.0)


def test_what_was_never_seen_is_unknown(cache: RevocationCache) -> None:
    assert cache.find(token(), NOW) is None
    assert (cache.hits_revoked, cache.hits_clear, cache.misses) == (0, 0, 1)


def test_a_revocation_is_known_until_its_time_and_no_longer(cache: RevocationCache) -> None:
    cache.remember(token(), Revoked(NOW + 10), NOW)
    assert cache.find(token(), NOW + 9.99) == Revoked(NOW + 10)
    assert cache.find(token(), NOW + 10) is None
    assert (cache.hits_revoked, cache.misses) == (1, 1)


def test_a_clock_that_was_ahead_for_a_moment_erases_no_revocation(cache: RevocationCache) -> None:
    cache.remember(token(), Revoked(NOW + 10), NOW)
    assert cache.find(token(), NOW + 1000) is None
    assert cache.find(token(), NOW + 1) == Revoked(NOW + 10)


def test_a_clear_answer_is_believed_for_its_ttl(cache: RevocationCache) -> None:
    cache.remember(token(), CLEAR, NOW)
    assert cache.find(token(), NOW) == CLEAR
    assert cache.find(token(), NOW + 0.999) == CLEAR
    assert cache.find(token(), NOW + 1.0) is None
    assert (cache.hits_clear, cache.misses) == (2, 1)


def test_a_clear_answer_is_not_believed_when_the_clock_jumped_back(cache: RevocationCache) -> None:
    """Else an hour's jump would keep `not revoked` alive for an hour."""
    cache.remember(token(), CLEAR, NOW)
    assert cache.find(token(), NOW - 3600) is None


def test_with_no_ttl_no_clear_answer_is_kept() -> None:
    cache = RevocationCache(revocations=4, negative_ttl=0.0)
    cache.remember(token(), CLEAR, NOW)
    assert cache.find(token(), NOW) is None
    assert cache.size_clear == 0


def test_a_clear_answer_never_hides_a_revocation(cache: RevocationCache) -> None:
    """An answer that was under way when the revocation came is dropped, in either order."""
    cache.remember(token(), CLEAR, NOW)
    cache.remember(token(), Revoked(NOW + 10), NOW)
    cache.remember(token(), CLEAR, NOW)
    assert cache.find(token(), NOW) == Revoked(NOW + 10)
    assert cache.size_clear == 0


def test_a_revocation_is_never_shortened(cache: RevocationCache) -> None:
    cache.remember(token(), Revoked(NOW + 10), NOW)
    cache.remember(token(), Revoked(NOW + 5), NOW)
    assert cache.find(token(), NOW + 9) == Revoked(NOW + 10)


def test_a_cutoff_revokes_every_earlier_token_of_its_user(cache: RevocationCache) -> None:
    """Also tokens that were never asked about; not later ones, nor another user's."""
    cutoff = Revoked(NOW + 86400, not_before=NOW - 30)
    cache.remember(token("seen"), cutoff, NOW)
    assert cache.find(token("other"), NOW) == cutoff
    assert cache.find(token("later", issued_at=int(NOW) - 30), NOW) is None
    assert cache.find(token("seen", user="bob"), NOW) is None


def test_of_several_cutoffs_the_latest_counts(cache: RevocationCache) -> None:
    late = Revoked(NOW + 86400, not_before=NOW - 30)
    early = Revoked(NOW + 86000, not_before=NOW - 300)
    cache.remember(token(), late, NOW)
    cache.remember(token(), early, NOW)
    assert cache.find(token(), NOW) == late


def test_a_clear_answer_from_before_the_cutoff_was_known_is_void(cache: RevocationCache) -> None:
    """Nobody can tell on which side of the cut-off it was given."""
    new = token("new", issued_at=int(NOW))
    cache.remember(new, CLEAR, NOW)
    cache.remember(token("old"), Revoked(NOW + 86400, not_before=NOW - 1), NOW + 0.1)
    assert cache.find(new, NOW + 0.2) is None


def test_a_renewed_token_of_the_same_jti_vouches_only_for_itself(cache: RevocationCache) -> None:
    """A cut-off between the two `iat` revokes the older one, and the store has to be asked."""
    cache.remember(token("same", issued_at=int(NOW)), CLEAR, NOW)
    assert cache.find(token("same", issued_at=int(NOW)), NOW) == CLEAR
    assert cache.find(token("same", issued_at=int(NOW) - 60), NOW) is None


def test_after_a_new_log_in_clear_answers_are_kept_again(cache: RevocationCache) -> None:
    """Else every check of this user would ask Redis for a day."""
    cache.remember(token("old"), Revoked(NOW + 86400, not_before=NOW - 1), NOW)
    new = token("new", issued_at=int(NOW))
    cache.remember(new, CLEAR, NOW + 5)
    assert cache.find(new, NOW + 5.5) == CLEAR


def test_a_clear_answer_for_a_token_before_the_cutoff_is_not_kept(cache: RevocationCache) -> None:
    cache.remember(token("seen"), Revoked(NOW + 86400, not_before=NOW), NOW)
    cache.remember(token("other"), CLEAR, NOW)
    assert cache.size_clear == 0


def test_a_flood_of_clear_answers_pushes_out_no_revocation(cache: RevocationCache) -> None:
    cache.remember(token("bad"), Revoked(NOW + 10), NOW)
    for number in range(100):
        cache.remember(token(f"good {number}"), CLEAR, NOW)
    assert cache.find(token("bad"), NOW) == Revoked(NOW + 10)
    assert (cache.size_revoked, cache.size_clear) == (1, 4)
    assert (cache.evictions_revoked, cache.evictions_clear) == (0, 96)


def test_the_revocation_that_was_used_least_recently_goes_first(cache: RevocationCache) -> None:
    for number in range(4):
        cache.remember(token(str(number)), Revoked(NOW + 10), NOW)
    cache.find(token("0"), NOW)
    cache.remember(token("4"), Revoked(NOW + 10), NOW)
    assert cache.find(token("0"), NOW) == Revoked(NOW + 10)
    assert cache.find(token("1"), NOW) is None
    assert (cache.size_revoked, cache.evictions_revoked) == (4, 1)


def test_pushing_out_what_has_run_out_is_no_eviction(cache: RevocationCache) -> None:
    """The counter is there to alarm: it means a revocation that still counted was lost."""
    for number in range(8):
        cache.remember(token(str(number)), Revoked(NOW + number), NOW + number)
        cache.remember(token(str(number)), CLEAR, NOW + 10 * number)
    assert (cache.evictions_revoked, cache.evictions_clear) == (0, 0)


def test_clear_answers_that_ran_out_take_no_room() -> None:
    """With tokens that come once they would be nearly all."""
    cache = RevocationCache(revocations=1000, negative_ttl=1.0)
    for second in range(100):
        cache.remember(token(f"first-{second}"), CLEAR, NOW + second)
        cache.remember(token(f"second-{second}"), CLEAR, NOW + second)
    assert (cache.size_clear, cache.evictions_clear) == (2, 0)


def test_a_clear_answer_that_is_given_again_counts_from_then(cache: RevocationCache) -> None:
    cache.remember(token("first"), CLEAR, NOW)
    cache.remember(token("second"), CLEAR, NOW + 0.5)
    cache.remember(token("first"), CLEAR, NOW + 0.9)
    cache.remember(token("third"), CLEAR, NOW + 1.6)
    assert cache.find(token("first"), NOW + 1.8) is not None
    assert cache.find(token("second"), NOW + 1.8) is None


def test_forgetting_a_clear_answer_leaves_revocations_alone(cache: RevocationCache) -> None:
    cache.remember(token("good"), CLEAR, NOW)
    cache.remember(token("bad"), Revoked(NOW + 10), NOW)
    for name in ("good", "bad", "unknown"):
        cache.forget_clear(token(name))
    assert cache.find(token("good"), NOW) is None
    assert cache.find(token("bad"), NOW) == Revoked(NOW + 10)


# An answer that is repeated


def remembered_as_clear(cache: RevocationCache, ref: TokenRef, now: float = NOW) -> Clear:
    cache.remember(ref, CLEAR, now)
    found = cache.find(ref, now)
    assert isinstance(found, Clear)
    return found


def test_a_clear_answer_is_repeated_for_its_ttl_and_counted(cache: RevocationCache) -> None:
    last = remembered_as_clear(cache, token())
    assert cache.find(token(), NOW + 0.999, last) is last
    assert cache.find(token(), NOW + 1.0, last) is None
    assert (cache.hits_clear, cache.misses) == (2, 1)


@pytest.mark.parametrize("finding", [Revoked(NOW + 10), Revoked(NOW + 10, not_before=NOW)])
def test_a_clear_answer_is_not_repeated_once_a_revocation_came(
    cache: RevocationCache, finding: Revoked
) -> None:
    last = remembered_as_clear(cache, token())
    cache.remember(token(), finding, NOW)
    assert cache.find(token(), NOW, last) == finding


def test_a_clear_answer_that_was_forgotten_is_not_repeated(cache: RevocationCache) -> None:
    last = remembered_as_clear(cache, token())
    cache.forget_clear(token())
    assert cache.find(token(), NOW, last) is None


def test_anothers_revocation_costs_a_look_and_no_more(cache: RevocationCache) -> None:
    last = remembered_as_clear(cache, token())
    cache.remember(token("other", user="bob"), Revoked(NOW + 10), NOW)
    again = cache.find(token(), NOW + 0.5, last)
    assert isinstance(again, Clear)
    assert again is not last
    assert cache.find(token(), NOW + 0.6, again) is again


def test_a_clear_answer_is_not_repeated_when_the_clock_jumped_back(cache: RevocationCache) -> None:
    """A revocation that had run out by then may count again."""
    cache.remember(token(), Revoked(NOW + 10), NOW)
    last = remembered_as_clear(cache, token(), NOW + 10)
    assert cache.find(token(), NOW + 9.999, last) == Revoked(NOW + 10)


def test_what_the_store_said_is_nothing_to_repeat(cache: RevocationCache) -> None:
    assert cache.find(token(), NOW, CLEAR) is None
    assert cache.find(token(), 0.0, CLEAR) is None


_findings = st.one_of(
    st.just(CLEAR),
    st.builds(Revoked, until=st.integers(0, 60).map(float)),
    st.builds(Revoked, until=st.integers(0, 60).map(float), not_before=st.integers(0, 40)),
)
_steps = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), _findings), max_size=25)


@given(_steps, st.integers(0, 60))
def test_whatever_came_in_between_a_known_revocation_is_found(
    steps: list[tuple[str, int, Clear | Revoked]], now: int
) -> None:
    """Against the plain reading of all that was said, with room for everything."""
    cache = RevocationCache(revocations=100, negative_ttl=1.0)
    base = token(user="ann")
    for name, issued_at, finding in steps:
        cache.remember(replace(base, token=name, issued_at=issued_at), finding, 0.0)
    cutoffs = [f for _, _, f in steps if isinstance(f, Revoked) and f.not_before is not None]
    for name in "abc":
        for issued_at in (0, 20, 39):
            own = [
                f.until
                for n, _, f in steps
                if n == name and isinstance(f, Revoked) and f.not_before is None
            ]
            latest = max((f.not_before or 0 for f in cutoffs), default=0)
            revoked = any(now < until for until in own) or (
                issued_at < latest and any(now < f.until for f in cutoffs)
            )
            found = cache.find(replace(base, token=name, issued_at=issued_at), now)
            assert isinstance(found, Revoked) == revoked


_tokens = st.builds(
    replace,
    st.just(token(user="ann")),
    token=st.sampled_from("ab"),
    issued_at=st.sampled_from([0, 20]),
)
_moments = st.integers(0, 240).map(lambda quarter: quarter / 4)


@given(st.lists(st.tuples(_tokens, _moments, _findings | st.none()), max_size=30))
def test_repeating_answers_changes_none_of_them(
    steps: list[tuple[TokenRef, float, Clear | Revoked | None]],
) -> None:
    """Against a cache that is never shown its last answer; None is a question. Only where the
    clock was set back may a good answer be repeated that a later one, from earlier, replaced.
    """
    cache, plain = RevocationCache(100, 1.0), RevocationCache(100, 1.0)
    last: dict[TokenRef, Clear] = {}
    said_clear: dict[TokenRef, list[float]] = {}
    for ref, now, finding in steps:
        if finding is not None:
            cache.remember(ref, finding, now)
            plain.remember(ref, finding, now)
            if isinstance(finding, Clear):
                said_clear.setdefault(ref, []).append(now)
            continue
        found, expected = cache.find(ref, now, last.get(ref, CLEAR)), plain.find(ref, now)
        if isinstance(found, Clear):
            last[ref] = found
        if expected is None and found is not None:
            assert isinstance(found, Clear)
            assert any(said <= now < said + 1.0 for said in said_clear[ref])
        else:
            assert found == expected
