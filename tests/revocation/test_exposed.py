"""Tokens that came in the clear are taken back, while nobody waits for it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from authz.check.token import Identity
from authz.observe import events
from authz.revocation import exposed as module
from authz.revocation.exposed import MAX_WAITING, WRITERS, ExposedTokens
from authz.revocation.memory import MemoryStore
from authz.revocation.record import Clear, Revoked, TokenRef
from authz.revocation.store import Acknowledgement, StoreError, TokenRevocation
from authz.settings import MAX_LEEWAY
from support.waiting import eventually

NOW = int(time.time())


def identity(name: str = "one", *, expires_in: int = 600) -> Identity:
    ref = TokenRef("user", name, 3, NOW - 60, NOW + expires_in)
    return Identity("https://issuer.example", "alice", name, (), ("api",), ref)


class Store(MemoryStore):
    """Keeps what it was told, unless it fails."""

    def __init__(self, *, down: bool = False) -> None:
        super().__init__()
        self.down = down
        self.attempts = 0
        self.revocations: list[TokenRevocation] = []

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        self.attempts += 1
        if self.down:
            raise StoreError("the store is down")
        self.revocations.append(revocation)
        return await super().revoke_token(revocation)


class World:
    """A store, and what the sidecar learnt by itself."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.learnt: dict[TokenRef, Revoked | Clear] = {}
        self.exposed = ExposedTokens(store, self.learnt.__setitem__, clock=lambda: NOW)


@asynccontextmanager
async def started(store: Store) -> AsyncIterator[World]:
    world = World(store)
    world.exposed.start()
    yield world
    await world.exposed.aclose()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER", 0.01)


async def test_a_token_that_is_told_of_is_revoked_with_the_reason() -> None:
    with capture_logs() as logs:
        async with started(Store()) as world:
            world.exposed.tell(identity())
            assert world.learnt == {identity().ref: Revoked(NOW + 600 + MAX_LEEWAY)}
            await eventually(lambda: world.store.revocations, "revoked")
    (revocation,) = world.store.revocations
    assert (revocation.token, revocation.user, revocation.bucket) == ("one", "user", 3)
    assert revocation.expires_at == NOW + 600
    assert revocation.note.reason == "came over plain HTTP"
    assert isinstance(world.store.find(identity().ref), Revoked)
    assert [(one["event"], one["token"]) for one in logs] == [(events.EXPOSED_REVOKED, "one")]


async def test_a_token_that_comes_again_and_again_is_revoked_once() -> None:
    async with started(Store()) as world:
        for _ in range(100):
            world.exposed.tell(identity())
            await asyncio.sleep(0)
        world.exposed.tell(identity("two"))
        await eventually(lambda: len(world.store.revocations) == 2, "both")
    assert world.exposed.results == {"revoked": 2, "failed": 0, "dropped": 0}


async def test_while_the_store_is_away_the_sidecar_knows_and_goes_on_trying() -> None:
    """It says so once, and not with every attempt."""
    with capture_logs() as logs:
        async with started(Store(down=True)) as world:
            for number in range(20):
                world.exposed.tell(identity(f"token-{number}"))
            assert len(world.learnt) == 20
            await eventually(lambda: world.store.attempts > 40, "attempts")
            world.store.down = False
            await eventually(lambda: len(world.store.revocations) == 20, "all")
            assert world.exposed.waiting == 0
    told = [one["event"] for one in logs]
    assert told.count(events.EXPOSED_NOT_REVOKED) == 1
    assert told.count(events.EXPOSED_REVOKED) == 20
    assert world.exposed.results["failed"] >= 40


async def test_what_has_expired_meanwhile_is_not_revoked() -> None:
    async with started(Store()) as world:
        world.exposed.tell(identity("old", expires_in=-int(MAX_LEEWAY)))
        world.exposed.tell(identity("late", expires_in=1 - int(MAX_LEEWAY)))
        await eventually(lambda: world.store.revocations, "the one that counts")
        assert world.exposed.waiting == 0
    assert [one.token for one in world.store.revocations] == ["late"]


async def test_only_so_many_wait_and_the_rest_is_told_of_again() -> None:
    """Here they are refused all the same."""
    world = World(Store(down=True))
    with capture_logs() as logs:
        for number in range(MAX_WAITING + 10):
            world.exposed.tell(identity(f"token-{number}"))
    assert (world.exposed.waiting, world.exposed.results["dropped"]) == (MAX_WAITING, 10)
    assert len(world.learnt) == MAX_WAITING + 10
    assert [one["event"] for one in logs] == [events.EXPOSED_DROPPED]
    world.store.down = False
    world.exposed.start()
    await eventually(lambda: world.exposed.waiting == 0, "room")
    world.exposed.tell(identity(f"token-{MAX_WAITING}"))
    await eventually(lambda: len(world.store.revocations) == MAX_WAITING + 1, "told again")
    await world.exposed.aclose()


async def test_a_hanging_node_does_not_hold_up_the_others() -> None:
    class HangsOnce(Store):
        async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
            if revocation.token == "hangs":
                await asyncio.Event().wait()
            return await super().revoke_token(revocation)

    assert WRITERS > 1
    async with started(HangsOnce()) as world:
        world.exposed.tell(identity("hangs"))
        world.exposed.tell(identity("next"))
        await eventually(lambda: world.store.revocations, "the next one")


async def test_an_error_of_our_own_ends_no_writer() -> None:
    class BreaksFirst(Store):
        async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
            self.attempts += 1
            if self.attempts <= 2 * WRITERS:
                raise RuntimeError("a bug")
            return await super().revoke_token(revocation)

    with capture_logs() as logs:
        async with started(BreaksFirst()) as world:
            world.exposed.tell(identity())
            await eventually(lambda: world.store.revocations, "revoked all the same")
    assert [one["event"] for one in logs].count(events.EXPOSED_FAILED) == 2 * WRITERS


async def test_what_is_left_at_the_end_is_said() -> None:
    with capture_logs() as logs:
        async with started(Store(down=True)) as world:
            world.exposed.tell(identity("one"))
            world.exposed.tell(identity("two"))
            await eventually(lambda: world.store.attempts >= 2, "attempts")
    assert logs[-1]["event"] == events.EXPOSED_ABANDONED
    assert logs[-1]["tokens"] == 2
