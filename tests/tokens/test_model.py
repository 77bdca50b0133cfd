"""Any course of log-ins, refreshes and log-outs, compared with a model of a few lines.

Two processes of the service share a store and are asked in turn. After each step every access token
that was ever given out is looked up, as a sidecar would, and every refresh token's fate is known.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from authz.tokens.grant import Issued, RefreshRefused, Refusal
from support.tokens import CLIENT, Service, a_note, claims_of, serving
from support.valkey import ValkeyServer

GRACE = 10.0
IDLE = 5000.0
MOST = 3
"""Sessions of one user."""

PAUSES = st.sampled_from([0.4, 0.7, 3.0, 9.9, 10.1, 11.0, 700.0, 4000.0])
"""Seconds before a step: within a second, in and out of grace, until a token or a session ends."""

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["log_in", "log_in", "refresh", "refresh", "replay", "end", "end_all", "revoke"]
        ),
        PAUSES,
        st.integers(0, MOST - 1),
        st.integers(0, 2),
    ),
    min_size=20,
    max_size=30,
)

_users = count(1)


@dataclass
class Chain:
    """A session, as the model has it."""

    sid: str
    issued: float
    refreshed: float
    tokens: list[str]
    """Its refresh tokens, the latest last."""
    used: list[float] = field(default_factory=list)
    """When each was first used."""
    over: bool = False

    def lives(self, now: float) -> bool:
        return not self.over and now < self.refreshed + IDLE

    def fate(self, index: int, now: float) -> str:
        """Of a refresh token that is presented."""
        if not self.lives(now):
            return "unknown"
        if index == len(self.tokens) - 1:
            return "rotated"
        if index == len(self.tokens) - 2 and now < self.used[index] + GRACE:
            return "raced"
        return "reused"


class Course:
    """One user's steps."""

    def __init__(self, services: list[Service]) -> None:
        self._services = services
        self._subject = f"user-of-model-{next(_users)}"
        self._now = float(int(time.time())) + 0.1
        self._chains: list[Chain] = []
        self._given: list[tuple[Chain, Issued]] = []
        self._revoked: set[str] = set()

    async def run(self, steps: list[tuple[str, float, int, int]]) -> None:
        for number, (what, pause, which, index) in enumerate(steps):
            self._now = round(self._now + pause, 3)
            service = self._services[number % len(self._services)]
            await self._step(service, what, which, index)
            await self._compare(service)

    async def _step(self, service: Service, what: str, which: int, index: int) -> None:
        if what == "log_in":
            await self._log_in(service)
        elif what == "end_all":
            await service.issuer.end_all(self._subject, a_note(), self._now)
            for chain in self._chains:
                self._end(chain)
        elif self._chains:
            chain = self._chains[-1 - which % len(self._chains)]
            if what == "refresh":
                await self._present(service, chain, len(chain.tokens) - 1)
            elif what == "replay":
                await self._present(service, chain, max(0, len(chain.tokens) - 1 - index))
            elif what == "end":
                lived = chain.lives(self._now)
                end = service.issuer.end_session(self._subject, chain.sid, a_note(), self._now)
                assert await end == lived
                self._end(chain)
            else:
                await self._revoke(service, index)

    async def _log_in(self, service: Service) -> None:
        issued = await service.log_in(self._subject, now=self._now)
        assert issued.sid is not None
        assert issued.refresh_token is not None
        living = [chain for chain in self._chains if chain.lives(self._now)]
        for chain in living[: max(0, len(living) + 1 - MOST)]:
            self._end(chain)
        chain = Chain(issued.sid, self._now, self._now, [issued.refresh_token])
        self._chains.append(chain)
        self._given.append((chain, issued))

    async def _present(self, service: Service, chain: Chain, index: int) -> None:
        fate = chain.fate(index, self._now)
        result = await service.refresh(chain.tokens[index], now=self._now)
        if isinstance(result, RefreshRefused):
            assert fate in {"unknown", "reused"}
            assert result.refusal is (Refusal.REUSED if fate == "reused" else Refusal.UNKNOWN)
            if fate == "reused":
                self._end(chain)
            return
        assert result.refresh_token is not None
        if fate == "rotated":
            assert result.refresh_token not in chain.tokens
            chain.used.append(self._now)
            chain.tokens.append(result.refresh_token)
        else:
            assert fate == "raced"
            assert result.refresh_token == chain.tokens[-1]
        chain.refreshed = self._now
        self._given.append((chain, result))

    async def _revoke(self, service: Service, index: int) -> None:
        _, issued = self._given[-1 - index % len(self._given)]
        await service.issuer.revoke(issued.access_token, CLIENT, self._now)
        if self._is_living(issued):
            self._revoked.add(issued.jti)

    def _end(self, chain: Chain) -> None:
        chain.over = True
        self._revoked |= {one.jti for of, one in self._given if of is chain}

    def _is_living(self, issued: Issued) -> bool:
        return self._now < float(claims_of(issued)["exp"])

    async def _compare(self, service: Service) -> None:
        living = [issued for _, issued in self._given if self._is_living(issued)]
        expected = [issued.jti not in self._revoked for issued in living]
        assert await service.is_good(*living) == expected
        shown = await service.issuer.sessions(self._subject, self._now)
        lives = [chain.sid for chain in self._chains if chain.lives(self._now)]
        assert [one.sid for one in reversed(shown)] == lives
        assert len(shown) <= MOST


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("model") / "valkey") as server:
        yield server


# Without shrinking: a course that fails says enough, and a shorter one takes minutes to find.
@settings(max_examples=30, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(steps=STEPS)
def test_every_token_has_the_fate_that_the_model_says(
    server: ValkeyServer, steps: list[tuple[str, float, int, int]]
) -> None:
    async def run() -> None:
        limits: dict[str, Any] = {
            "refresh_grace": GRACE,
            "refresh_lifetime": IDLE,
            "max_sessions": MOST,
        }
        async with serving(server.url, **limits) as one, serving(server.url, **limits) as two:
            await Course([one, two]).run(steps)

    asyncio.run(run())
