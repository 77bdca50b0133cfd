"""Equal look-ups are shared, and what the store said is remembered. The store is a small fake."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from revocation.entries import token_entry

from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    CLEAR,
    POSSIBLY_REVOKED,
    Answer,
    Clear,
    Finding,
    PossiblyRevoked,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.revocation.store import Acknowledgement, TokenRevocation, UserRevocation
from authz.revocation.view import Revocations
from support.revocations import token_ref

NOW = 1000.0
START = 50.0
"""On the clock that isn't set."""


class FakeStore:
    """Answers when the test says so, or at once."""

    def __init__(self, at_once: Answer | None = None) -> None:
        self.at_once = at_once
        self.asked: list[asyncio.Future[Answer]] = []

    def find(self, ref: TokenRef) -> Answer | Awaitable[Answer]:
        del ref
        if self.at_once is not None:
            return self.at_once
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        raise NotImplementedError

    async def revoke_user(self, revocation: UserRevocation) -> Acknowledgement:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


def new_knowledge() -> Knowledge:
    return Knowledge(revocations=100, negative_ttl=1.0, false_positives=1e-9, buckets=16)


def view_of(store: FakeStore, knowledge: Knowledge | None = None) -> Revocations:
    view = Revocations(knowledge or new_knowledge(), lambda: NOW, lambda: START)
    view.use(store)
    return view


async def ask(view: Revocations, ref: TokenRef) -> Finding:
    answer = view.find(ref, NOW)
    if isinstance(answer, Revoked | PossiblyRevoked | Clear | Unavailable):
        return answer
    return await answer


async def test_equal_look_ups_in_flight_ask_the_store_once() -> None:
    store, ref = FakeStore(), token_ref()
    view = view_of(store)
    waiting = [asyncio.create_task(ask(view, ref)) for _ in range(50)]
    other = asyncio.create_task(ask(view, token_ref()))
    await asyncio.sleep(0)
    assert len(store.asked) == 2
    store.asked[0].set_result(Revoked(2000.0))
    store.asked[1].set_result(Clear())
    assert await asyncio.gather(*waiting) == [Revoked(2000.0)] * 50
    assert await other == Clear()
    assert view.results == {"revoked": 1, "clear": 1}


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_client_that_goes_away_does_not_take_the_answer_from_others(cancelled: int) -> None:
    """Neither the first, who asked, nor one who joined."""
    store, ref = FakeStore(), token_ref()
    view = view_of(store)
    waiting = [asyncio.create_task(ask(view, ref)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop(cancelled).cancel()
    await asyncio.sleep(0)
    store.asked[0].set_result(Clear())
    assert await asyncio.gather(*waiting) == [Clear(), Clear()]
    assert len(store.asked) == 1


async def test_once_answered_the_next_look_up_asks_again() -> None:
    """What is kept and for how long is the cache's affair, not that of sharing."""
    store, ref = FakeStore(), token_ref()
    view = view_of(store)
    for turn in range(2):
        waiting = asyncio.create_task(ask(view, ref))
        await asyncio.sleep(0)
        store.asked[turn].set_result(Unavailable("timeout"))
        assert await waiting == Unavailable("timeout")
    assert view.results == {"timeout": 2}


async def test_an_error_is_never_remembered() -> None:
    store, ref = FakeStore(Unavailable("breaker_open")), token_ref()
    view = view_of(store)
    assert await ask(view, ref) == Unavailable("breaker_open")
    store.at_once = Clear()
    assert await ask(view, ref) == Clear()
    store.at_once = Unavailable("breaker_open")
    assert await ask(view, ref) == Clear()  # remembered for `negative_ttl`
    assert view.results == {"breaker_open": 1, "clear": 1}


@pytest.mark.parametrize("answer", [Clear(), Unavailable("timeout")], ids=repr)
async def test_a_revocation_that_comes_while_the_store_is_asked_counts(answer: Answer) -> None:
    """What the store says may be of the time before."""
    store, ref = FakeStore(), token_ref()
    view = view_of(store)
    waiting = [asyncio.create_task(ask(view, ref)) for _ in range(2)]
    await asyncio.sleep(0)
    view.learn(ref, Revoked(2000.0))
    store.asked[0].set_result(answer)
    assert await asyncio.gather(*waiting) == [Revoked(2000.0)] * 2


async def test_a_clear_answer_is_repeated_until_something_is_learnt() -> None:
    store, ref = FakeStore(Clear()), token_ref()
    view = view_of(store)
    assert await ask(view, ref) == Clear()
    last = view.find(ref, NOW)
    assert isinstance(last, Clear)
    assert view.find(ref, NOW, last) is last
    view.learn(ref, Revoked(2000.0))
    assert view.find(ref, NOW, last) == Revoked(2000.0)
    assert view.results == {"clear": 1}


async def test_what_is_learnt_late_settles_the_next_look_up() -> None:
    store, ref = FakeStore(Unavailable("timeout")), token_ref()
    view = view_of(store)
    assert await ask(view, ref) == Unavailable("timeout")
    view.learn(ref, Revoked(2000.0))
    assert await ask(view, ref) == Revoked(2000.0)


async def test_an_answer_at_once_is_remembered_too() -> None:
    store, ref = FakeStore(Revoked(2000.0)), token_ref()
    view = view_of(store)
    assert view.find(ref, NOW) == Revoked(2000.0)
    store.at_once = Clear()
    assert view.find(ref, NOW) == Revoked(2000.0)


# With a feed


@pytest.mark.parametrize("answer", [Clear(), Unavailable("timeout")], ids=repr)
async def test_a_revocation_that_is_pushed_while_the_store_is_asked_counts(answer: Answer) -> None:
    store, ref, knowledge = FakeStore(), token_ref(), new_knowledge()
    view = view_of(store, knowledge)
    waiting = [asyncio.create_task(ask(view, ref)) for _ in range(2)]
    await asyncio.sleep(0)
    knowledge.hear(token_entry(ref, 2000.0), NOW, just_now=True)
    store.asked[0].set_result(answer)
    assert await asyncio.gather(*waiting) == [Revoked(2000.0)] * 2


async def test_while_the_feed_is_live_nobody_is_asked_about_what_it_never_named() -> None:
    store, ref, knowledge = FakeStore(), token_ref(), new_knowledge()
    view = view_of(store, knowledge)
    knowledge.live_until[ref.bucket] = START + 1
    assert view.find(ref, NOW) == CLEAR
    assert (store.asked, view.results) == ([], {})


async def test_a_feed_that_becomes_live_answers_for_a_store_that_does_not() -> None:
    """As of its last time: nothing is asked again for it."""
    store, ref, knowledge = FakeStore(), token_ref(), new_knowledge()
    view = view_of(store, knowledge)
    waiting = asyncio.create_task(ask(view, ref))
    await asyncio.sleep(0)
    knowledge.live_until[ref.bucket] = START + 1
    store.asked[0].set_result(Unavailable("timeout"))
    assert await waiting == CLEAR
    assert view.results == {"timeout": 1}


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_silence_about_what_the_filter_may_have_is_possibly_revoked(later: bool) -> None:
    store, ref, knowledge = FakeStore(), token_ref(), new_knowledge()
    view = view_of(store, knowledge)
    knowledge.hear(token_entry(ref, 2000.0), NOW, just_now=False)
    if not later:
        store.at_once = Unavailable("breaker_open")
    waiting = asyncio.create_task(ask(view, ref))
    await asyncio.sleep(0)
    if later:
        store.asked[0].set_result(Unavailable("timeout"))
    assert await waiting == POSSIBLY_REVOKED


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_a_store_that_lost_its_history_cannot_clear_what_was_revoked(later: bool) -> None:
    """Also where that was found out while it was asked."""
    store, ref, knowledge = FakeStore(), token_ref(), new_knowledge()
    view = view_of(store, knowledge)
    knowledge.hear(token_entry(ref, 2000.0), NOW, just_now=False)
    if not later:
        knowledge.lose_history()
        store.at_once = Clear()
    waiting = asyncio.create_task(ask(view, ref))
    await asyncio.sleep(0)
    if later:
        knowledge.lose_history()
        view.learn(ref, Clear())  # as the store does, before it answers
        store.asked[0].set_result(Clear())
    assert await waiting == POSSIBLY_REVOKED
    store.at_once = Clear()
    assert await ask(view, ref) == POSSIBLY_REVOKED
    assert view.results == {"clear": 2}


async def test_a_store_that_does_not_show_that_it_remembers_clears_nobody() -> None:
    """Of those that the filter lists. It was emptied a moment ago, perhaps."""
    store, ref, knowledge = FakeStore(), token_ref(), new_knowledge()
    view = view_of(store, knowledge)
    answers = [False, True]

    async def shows(bucket: int, since: float) -> bool:
        assert (bucket, since) == (ref.bucket, START)
        return answers.pop()

    view.use(store, shows)
    knowledge.hear(token_entry(ref, 2000.0), NOW, just_now=False)
    for expected in (Clear(), POSSIBLY_REVOKED):
        waiting = asyncio.create_task(ask(view, ref))
        await asyncio.sleep(0)
        store.asked[-1].set_result(Clear())
        assert await waiting == expected
