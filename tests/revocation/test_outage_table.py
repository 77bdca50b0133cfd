"""What becomes of a token while Redis is there, answers only look-ups, or is gone.

Every cell of the table in DESIGN section 6: what is known here of the token, against what the feed
and the store can do. The store and the audit are small fakes, all else is real.
"""

from collections.abc import Awaitable, Callable

import pytest
from check.fakes import (
    KID,
    NOW,
    FakeKeys,
    FakeRecorder,
    http_request,
    make_verifier,
    public_keys,
)
from revocation.entries import token_entry

from authz.check.authorizer import Authorizer
from authz.check.claims import identity_of
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.policy import RoutePolicies
from authz.check.verdict import Decision, Reason, Verdict
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.memory import MemoryStore
from authz.revocation.record import Answer, Clear, Revoked, TokenRef, Unavailable
from authz.revocation.view import Revocations
from authz.settings import IssuerlessSettings
from authz.uses.ledger import Ledger
from support import jwks
from support.jwks import ISSUER, rsa_key, sign

MAX_STALENESS = 2.0
CLAIMS = jwks.claims(now=NOW)
TEXT = sign(CLAIMS, rsa_key(), kid=KID)
REF = identity_of(CLAIMS, ISSUER, TEXT.rpartition(".")[0].encode(), 16).ref
UNTIL = REF.expires_at + 60.0
GONE = Unavailable("breaker_open")

ALLOWED = (Decision.ALLOW, Reason.OK)
DENIED = (Decision.DENY, Reason.TOKEN_REVOKED)
POSSIBLY = (Decision.DENY, Reason.POSSIBLY_REVOKED)
FAILED_OPEN = (Decision.FAIL_OPEN, Reason.STORE_UNAVAILABLE)
FAILED_CLOSED = (Decision.DENY, Reason.STORE_UNAVAILABLE)


class Store(MemoryStore):
    """Answers as it is told, and counts who asks."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer
        self.asked = 0

    def find(self, ref: TokenRef) -> Answer:
        assert ref == REF
        self.asked += 1
        return self.answer


class World:
    """A sidecar that is asked about one good token."""

    def __init__(self, answer: Answer) -> None:
        self.monotonic = 100.0
        self.store = Store(answer)
        self.recorder = FakeRecorder()
        self.knowledge = Knowledge(
            revocations=100, negative_ttl=1.0, false_positives=1e-9, buckets=16
        )
        view = Revocations(self.knowledge, lambda: NOW, lambda: self.monotonic)
        view.use(self.store)
        self.authorizer = Authorizer(
            credentials=CredentialFinder(["header:authorization"]),
            verifier=make_verifier(FakeKeys(public_keys((rsa_key(), KID)))),
            revocations=view,
            policies=RoutePolicies("open"),
            guards=all_guards(IssuerlessSettings()),
            ledger=Ledger(None),
            recorder=self.recorder,
            clock=lambda: NOW,
        )

    def feed_was_verified(self, seconds_ago: float) -> None:
        until = self.monotonic - seconds_ago + MAX_STALENESS
        self.knowledge.live_until[REF.bucket] = until

    async def check(self, **extensions: str) -> tuple[Decision, Reason]:
        named = {f"authz.{name}": value for name, value in extensions.items()}
        verdict: Verdict | Awaitable[Verdict] = self.authorizer.check(
            http_request(token=TEXT, extensions=named)
        )
        if not isinstance(verdict, Verdict):
            verdict = await verdict
        return verdict.decision, verdict.reason


def feed_live(answer: Answer = GONE) -> World:
    world = World(answer)
    world.feed_was_verified(seconds_ago=0.5)
    return world


def feed_stale_redis_answers(answer: Answer) -> World:
    world = World(answer)
    world.feed_was_verified(seconds_ago=MAX_STALENESS)
    return world


def redis_unreachable(feed_verified: float) -> World:
    """`feed_verified`: how many seconds ago."""
    world = World(GONE)
    world.feed_was_verified(seconds_ago=feed_verified)
    return world


def know_it_is_revoked(world: World) -> None:
    """In the LRU: it was pushed, or the store said so."""
    world.knowledge.hear(token_entry(REF, UNTIL), NOW, just_now=True)


def have_it_in_the_filter(world: World) -> None:
    world.knowledge.hear(token_entry(REF, UNTIL), NOW, just_now=False)


# Known exactly to be revoked


EVERYWHERE = {
    "feed live": lambda: feed_live(Clear()),
    "feed stale, Redis answers": lambda: feed_stale_redis_answers(Clear()),
    "Redis unreachable": lambda: redis_unreachable(feed_verified=0.5),
    "Redis unreachable for long": lambda: redis_unreachable(feed_verified=1000.0),
}


@pytest.mark.parametrize("column", EVERYWHERE)
@pytest.mark.parametrize("source", ["pushed", "said by the store"])
async def test_exactly_known_to_be_revoked_is_denied(column: str, source: str) -> None:
    """Without asking anyone, and also if the store says that it is clear."""
    world = EVERYWHERE[column]()
    if source == "pushed":
        know_it_is_revoked(world)
    else:
        world.knowledge.learn(REF, Revoked(UNTIL), NOW)
    for fail_mode in ("open", "closed"):
        assert await world.check(fail_mode=fail_mode) == DENIED
    assert world.store.asked == 0
    assert world.recorder.records == []


@pytest.mark.parametrize("column", EVERYWHERE)
async def test_revoked_by_a_cutoff_of_its_user_is_denied(column: str) -> None:
    world = EVERYWHERE[column]()
    world.knowledge.learn(REF, Revoked(UNTIL, NOW + 1.0), NOW)
    assert await world.check() == DENIED
    assert world.store.asked == 0


# Filter says no


async def test_filter_says_no_and_feed_live_is_allowed_without_asking() -> None:
    world = feed_live()
    assert [await world.check() for _ in range(3)] == [ALLOWED] * 3
    assert world.store.asked == 0
    assert world.recorder.records == []


@pytest.mark.parametrize(
    ("answer", "expected"), [(Clear(), ALLOWED), (Revoked(UNTIL), DENIED)], ids=repr
)
async def test_filter_says_no_and_feed_stale_is_the_stores_to_say(
    answer: Answer, expected: tuple[Decision, Reason]
) -> None:
    world = feed_stale_redis_answers(answer)
    have_another_in_the_filter(world)
    assert await world.check() == expected
    assert world.store.asked == 1


async def test_filter_says_no_and_redis_unreachable_is_allowed_within_max_staleness() -> None:
    """As of the feed's last time, and nothing of it is a fail-open. A moment later it is."""
    world = redis_unreachable(feed_verified=MAX_STALENESS - 0.25)
    have_another_in_the_filter(world)
    assert await world.check() == ALLOWED
    assert await world.check(fail_mode="closed") == ALLOWED
    assert (world.store.asked, world.recorder.records) == (0, [])
    world.monotonic += 0.25
    assert await world.check() == FAILED_OPEN
    assert len(world.recorder.records) == 1


async def test_filter_says_no_and_redis_unreachable_for_longer_is_the_fail_modes() -> None:
    world = redis_unreachable(feed_verified=MAX_STALENESS)
    have_another_in_the_filter(world)
    assert await world.check() == FAILED_OPEN
    assert [cause for _, _, cause in world.recorder.records] == ["breaker_open"]
    assert await world.check(fail_mode="closed") == FAILED_CLOSED
    assert len(world.recorder.records) == 1


def have_another_in_the_filter(world: World) -> None:
    other = TokenRef("someone", "another", REF.bucket, NOW, NOW + 60)
    world.knowledge.hear(token_entry(other, UNTIL), NOW, just_now=False)


# Filter says maybe


@pytest.mark.parametrize(
    ("answer", "expected", "asked"),
    [(Clear(), ALLOWED, 3), (Revoked(UNTIL), DENIED, 1)],
    ids=["clear", "revoked"],
)
@pytest.mark.parametrize("column", [feed_live, feed_stale_redis_answers])
async def test_filter_says_maybe_is_the_stores_to_say(
    column: Callable[[Answer], World],
    answer: Answer,
    expected: tuple[Decision, Reason],
    asked: int,
) -> None:
    """Each time, until it says that it is revoked."""
    world = column(answer)
    have_it_in_the_filter(world)
    assert [await world.check() for _ in range(3)] == [expected] * 3
    assert world.store.asked == asked
    assert world.recorder.records == []


@pytest.mark.parametrize("feed_verified", [0.5, MAX_STALENESS, 1000.0])
@pytest.mark.parametrize("fail_mode", ["open", "closed"])
async def test_filter_says_maybe_and_redis_unreachable_is_denied_as_possibly_revoked(
    feed_verified: float, fail_mode: str
) -> None:
    world = redis_unreachable(feed_verified)
    have_it_in_the_filter(world)
    assert await world.check(fail_mode=fail_mode) == POSSIBLY
    assert world.recorder.records == []


async def test_possibly_revoked_ends_when_redis_answers_again() -> None:
    world = redis_unreachable(feed_verified=1000.0)
    have_it_in_the_filter(world)
    assert await world.check() == POSSIBLY
    world.store.answer = Clear()
    assert await world.check() == ALLOWED


@pytest.mark.parametrize("column", EVERYWHERE)
async def test_forgotten_by_the_store_is_never_allowed_again(column: str) -> None:
    """Beyond the table: the filter has it of before the store lost its history."""
    world = EVERYWHERE[column]()
    have_it_in_the_filter(world)
    world.knowledge.lose_history()
    assert await world.check() == POSSIBLY
    assert world.recorder.records == []


# Never asked before: nothing is known, and the filter has nothing at all


async def test_never_asked_before_and_feed_live_is_decided_by_the_filter() -> None:
    world = feed_live()
    assert await world.check() == ALLOWED
    have_it_in_the_filter(world)
    assert await world.check() == POSSIBLY
    know_it_is_revoked(world)
    assert await world.check() == DENIED


@pytest.mark.parametrize(
    ("answer", "expected"), [(Clear(), ALLOWED), (Revoked(UNTIL), DENIED)], ids=repr
)
async def test_never_asked_before_and_feed_stale_is_the_stores_to_say(
    answer: Answer, expected: tuple[Decision, Reason]
) -> None:
    world = feed_stale_redis_answers(answer)
    assert await world.check() == expected
    assert world.store.asked == 1


async def test_never_asked_before_and_redis_unreachable_is_the_fail_modes() -> None:
    """A sidecar that started during the outage: it was never verified."""
    world = World(GONE)
    assert await world.check() == FAILED_OPEN
    assert await world.check(fail_mode="closed") == FAILED_CLOSED
    assert await world.check(scopes="admin") == (Decision.DENY, Reason.INSUFFICIENT_SCOPE)
    assert len(world.recorder.records) == 1
