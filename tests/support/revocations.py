"""A `RedisStore` in the test's own loop, and tokens to ask it about."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pydantic import SecretStr

from authz.revocation.memory import MemoryStore
from authz.revocation.record import (
    Answer,
    Clear,
    Note,
    Revoked,
    TokenRef,
    Unavailable,
    bucket_of,
    token_digest,
    user_digest,
)
from authz.revocation.redis.outage import Breaker
from authz.revocation.redis.store import RedisStore
from authz.revocation.store import TokenRevocation, UserRevocation
from authz.settings import StoreSettings
from support.jwks import ISSUER
from support.waiting import eventually

BUCKETS = 16
PATIENT = 1.0
"""Seconds, for `timeout` where a test is about the answer and not about its time."""

_numbers = count(1)


@dataclass
class Opened:
    """A store, and what it told."""

    store: RedisStore
    learnt: list[tuple[TokenRef, Revoked | Clear]] = field(default_factory=list)
    pipelines: list[int] = field(default_factory=list)
    """Look-ups of each pipeline that was answered."""

    async def find(self, ref: TokenRef) -> Answer:
        return await find(self.store, ref)

    async def timed_find(self, ref: TokenRef) -> tuple[Answer, float]:
        """The finding and the seconds that it was waited for."""
        started = time.monotonic()
        finding = await find(self.store, ref)
        return finding, time.monotonic() - started


@asynccontextmanager
async def opened(
    url: str,
    *,
    start: bool = True,
    connected: bool = True,
    learn: Callable[[TokenRef, Revoked | Clear], None] | None = None,
    **settings: Any,
) -> AsyncIterator[Opened]:
    """A started store at `url`; with `connected`, once it reached all primaries. Closing it must
    not take long, whatever state the nodes are in. Without `start` it is as `authz revoke` has it.
    `learn` is told its answers, too.
    """
    told: Opened

    def learnt(ref: TokenRef, finding: Revoked | Clear) -> None:
        told.learnt.append((ref, finding))
        if learn is not None:
            learn(ref, finding)

    store = RedisStore(
        StoreSettings(url=SecretStr(url), **{"timeout": PATIENT, **settings}),
        make_breaker=lambda: Breaker(time.monotonic(), random.random),
        learn=learnt,
        observe=lambda _, lookups: told.pipelines.append(lookups),
    )
    told = Opened(store)
    if start:
        await store.start()
    try:
        if start and connected:
            await eventually(lambda: store.status()["connected"], f"connected: {store.status()}")
        yield told
    finally:
        async with asyncio.timeout(5):
            await store.aclose()


async def find(store: RedisStore | MemoryStore, ref: TokenRef) -> Answer:
    """The finding, whether it comes at once or later."""
    answer = store.find(ref)
    return answer if isinstance(answer, Revoked | Clear | Unavailable) else await answer


def token_ref(
    subject: str | None = None,
    *,
    bucket: int | None = None,
    issued_at: float | None = None,
    lifetime: float = 600,
) -> TokenRef:
    """A token never seen before, of a new user in `bucket` or of `subject`."""
    if subject is None:
        subject = new_subject(bucket)
    issued = int(time.time() if issued_at is None else issued_at)
    return TokenRef(
        user=user_digest(ISSUER, subject),
        token=token_digest(ISSUER, f"jti-{next(_numbers)}", b""),
        bucket=bucket_of(ISSUER, subject, BUCKETS),
        issued_at=issued,
        expires_at=issued + round(lifetime),
    )


def named_ref(name: str = "t", user: str = "ann", issued_at: int = 1_799_999_940) -> TokenRef:
    """The token of this name and user: the same each time it is asked for. Lives for an hour."""
    return TokenRef(
        user=user_digest(ISSUER, user),
        token=token_digest(ISSUER, name, b""),
        bucket=bucket_of(ISSUER, user, BUCKETS),
        issued_at=issued_at,
        expires_at=issued_at + 3600,
    )


def new_subject(bucket: int | None = None) -> str:
    """A user never seen before, in this bucket."""
    while True:
        subject = f"user-{next(_numbers)}"
        if bucket is None or bucket_of(ISSUER, subject, BUCKETS) == bucket:
            return subject


def of_token(ref: TokenRef, *, userless: bool = False, reason: str = "stolen") -> TokenRevocation:
    return TokenRevocation(
        token=ref.token,
        user=None if userless else ref.user,
        bucket=None if userless else ref.bucket,
        expires_at=ref.expires_at,
        note=note(reason),
    )


def of_user(ref: TokenRef, before: float, *, reason: str = "password changed") -> UserRevocation:
    """Of the user of this token."""
    return UserRevocation(ref.user, ref.bucket, before, 86_400, note(reason))


def note(reason: str = "stolen") -> Note:
    return Note(reason, "a test", time.time())
