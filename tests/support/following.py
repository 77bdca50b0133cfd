"""A feed in the test's own loop, and the view over it, as a sidecar has them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from authz.revocation.feed.feed import Feed
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import (
    Clear,
    Finding,
    PossiblyRevoked,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.revocation.view import Revocations
from authz.settings import FeedSettings
from support.revocations import BUCKETS, Opened, opened
from support.waiting import eventually

MAX_STALENESS = 2.0


@dataclass
class Follower:
    """What follows a store, and the same store for writing."""

    told: Opened
    knowledge: Knowledge
    view: Revocations
    feed: Feed
    lags: list[float] = field(default_factory=list)
    withdrawals: list[float] = field(default_factory=list)
    """When the feed said that signing keys were withdrawn."""

    async def find(self, ref: TokenRef) -> Finding:
        answer = self.view.find(ref, time.time())
        if isinstance(answer, Revoked | PossiblyRevoked | Clear | Unavailable):
            return answer
        return await answer

    @property
    def live(self) -> bool:
        return self.feed.live_buckets == BUCKETS

    async def is_live(self) -> None:
        """Wait for it."""
        await eventually(lambda: self.live, f"live: {self.feed.status()}")

    async def hears(self, ref: TokenRef) -> None:
        """Wait until the token is known to be revoked, without asking the store."""
        await eventually(
            lambda: isinstance(self.knowledge.recall(ref, time.time(), time.monotonic()), Revoked),
            f"heard of {ref}: {self.feed.status()}",
        )

    def knows(self, ref: TokenRef) -> bool:
        """Whether it would be refused although no store answered."""
        silent = Unavailable("timeout")
        found = self.knowledge.conclude(ref, silent, time.time(), time.monotonic())
        return isinstance(found, Revoked | PossiblyRevoked)


@asynccontextmanager
async def following(url: str, *, live: bool = True, **settings: Any) -> AsyncIterator[Follower]:
    """A feed of the store at `url`; with `live`, once it is. `settings` are those of the store."""
    lags: list[float] = []
    withdrawals: list[float] = []
    knowledge = Knowledge(
        revocations=10_000, negative_ttl=1.0, false_positives=1e-6, buckets=BUCKETS
    )
    view = Revocations(knowledge, time.time, time.monotonic)
    async with opened(url, connected=live, learn=view.learn, **settings) as told:
        feed = told.store.follow(
            FeedSettings(max_staleness=MAX_STALENESS),
            knowledge,
            clock=time.time,
            monotonic=time.monotonic,
            observe_lag=lags.append,
            keys_withdrawn=lambda: withdrawals.append(time.monotonic()),
        )
        view.use(told.store, feed.remembers)
        follower = Follower(told, knowledge, view, feed, lags, withdrawals)
        feed.start()
        try:
            if live:
                await follower.is_live()
                await eventually(lambda: feed.subscribed, f"subscribed: {feed.status()}")
            yield follower
        finally:
            await feed.aclose()
