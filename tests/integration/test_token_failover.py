"""A master of the cluster is killed while the token service issues and refreshes at a constant
rate: asked over HTTP, its tokens used through the real Envoy.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest
from integration.conftest import PATIENT_STORE, Deploy, Deployment

from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE, Client
from support.cluster import ValkeyCluster
from support.revocations import new_subject
from support.token_service import (
    ISSUER,
    SECRET,
    TokenServer,
    assertion,
    claims_of,
    login_service,
    new_client,
)
from support.waiting import eventually, wait_until

BETWEEN = 0.03
"""Seconds from one tick to the next, of which each is a log-in and a refresh: 33 a second of each,
whether the ones before were answered or not."""
USERS = 16
"""Who refresh in turn: five or six of each master."""
GRACE = "30s"
"""`tokens.refresh_grace`. Longer than a failover takes on a busy machine: in it a refresh that was
answered 503 is tried again, which may have been done all the same."""


@dataclass(frozen=True)
class World:
    tokens: TokenServer
    deployment: Deployment
    login: Client
    support: Client

    def allowed(self, token: str) -> bool:
        return self.deployment.get("/hello", token=token).status == 200


@pytest.fixture
def world(tmp_path: Path, deploy: Deploy, cluster: ValkeyCluster) -> Iterator[World]:
    store = {"url": cluster.url, "write_timeout": "500ms", **PATIENT_STORE}
    with TokenServer(tmp_path, cluster.url, {"refresh_grace": GRACE}, store=store) as tokens:
        trusted = {
            "issuer": ISSUER,
            "audiences": ["api"],
            "algorithms": ["ES256"],
            "keys": {"jwks_url": f"{tokens.url}/.well-known/jwks.json"},
        }
        deployment = deploy({"issuers": [trusted]}, routes={})
        login = login_service()
        support = new_client("support", CLIENT_CREDENTIALS, scopes=("sessions:all",))
        tokens.add(login)
        tokens.add(support)
        yield World(tokens, deployment, login, support)


@dataclass
class User:
    """Somebody who logs in, and whoever refreshes for them: one request at a time."""

    subject: str
    access: list[str] = field(default_factory=list)
    """Every access token that was given out."""
    refresh: str = ""
    busy: bool = False


@dataclass
class Traffic:
    """A log-in and a refresh with each tick, until it is stopped."""

    world: World
    http: httpx.AsyncClient
    users: list[User]
    newcomers: list[User] = field(default_factory=list)
    """Who logged in and did nothing else."""
    given: dict[str, int] = field(default_factory=lambda: {"log-in": 0, "refresh": 0})
    unavailable: int = 0
    wrong: list[str] = field(default_factory=list)
    """Answers that are neither tokens nor 503 with all that belongs to it."""

    async def run(self, stop: asyncio.Event) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in count():
                if stop.is_set():
                    return
                newcomer = User(new_subject())
                group.create_task(self._log_in(newcomer, self.newcomers))
                group.create_task(self._turn(self.users[number % USERS]))
                due += BETWEEN
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _turn(self, user: User) -> None:
        if user.busy:
            return
        user.busy = True
        if not user.refresh:
            await self._log_in(user, [])
        elif await self._ask(user, grant_type=REFRESH_TOKEN, refresh_token=user.refresh):
            self.given["refresh"] += 1
        user.busy = False

    async def _log_in(self, user: User, done: list[User]) -> None:
        said = assertion(self.world.login, user.subject)
        kind = "urn:ietf:params:oauth:token-type:jwt"
        grant = {"grant_type": TOKEN_EXCHANGE, "subject_token": said, "subject_token_type": kind}
        if await self._ask(user, **grant):
            self.given["log-in"] += 1
            done.append(user)

    async def _ask(self, user: User, **form: str) -> bool:
        who = {"client_id": self.world.login.id, "client_secret": SECRET}
        answer = await self.http.post("/oauth2/token", data={**who, **form})
        if answer.status_code == 200:
            user.access.append(answer.json()["access_token"])
            user.refresh = answer.json()["refresh_token"]
            return True
        self.unavailable += 1
        body = answer.json()
        if (
            answer.status_code != 503
            or body["error"] != "temporarily_unavailable"
            or set(body) != {"error", "error_description"}
            or int(answer.headers["retry-after"]) < 1
        ):
            self.wrong.append(f"{answer.status_code} {answer.text} {dict(answer.headers)}")
        return False


async def test_nothing_acknowledged_is_lost_and_errors_say_when_to_come_back(
    world: World, cluster: ValkeyCluster
) -> None:
    """Every session that was given out lasts, every access token is let through, and no refresh
    token counts as used that wasn't. Meanwhile there is 503 with Retry-After and nothing else.
    """
    stop = asyncio.Event()
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(
        base_url=world.tokens.url, timeout=20, trust_env=False, limits=limits
    ) as client:
        traffic = Traffic(world, client, [User(new_subject()) for _ in range(USERS)])
        running = asyncio.create_task(traffic.run(stop))
        try:
            await eventually(lambda: min(traffic.given.values()) > 2 * USERS, "all refresh")
            victim = cluster.master_of(0)
            await asyncio.to_thread(cluster.kill, victim)
            await asyncio.to_thread(cluster.wait_failover, victim)
            before = [len(user.access) for user in traffic.users]
            newcomers = len(traffic.newcomers)
            await eventually(
                lambda: (
                    len(traffic.newcomers) > newcomers + USERS
                    and all(len(u.access) > n for u, n in zip(traffic.users, before, strict=True))
                ),
                "all go on",
            )
        finally:
            stop.set()
            await running
    assert traffic.wrong == []
    assert traffic.unavailable > 0
    await asyncio.to_thread(_nothing_is_lost, world, traffic)


def _nothing_is_lost(world: World, traffic: Traffic) -> None:
    everybody = [*traffic.users, *traffic.newcomers]
    with ThreadPoolExecutor(8) as pool:
        tokens = [token for user in everybody for token in user.access]
        assert all(pool.map(world.allowed, tokens))
        form = {"grant_type": REFRESH_TOKEN}
        refreshed = pool.map(
            lambda user: world.tokens.token(world.login.id, refresh_token=user.refresh, **form),
            everybody,
        )
        assert {answer.status_code for answer in refreshed} == {200}
        _each_session_knows_its_tokens(world, traffic.users, pool)


def _each_session_knows_its_tokens(
    world: World, users: list[User], pool: ThreadPoolExecutor
) -> None:
    """To end it revokes each of them by its name."""
    token = world.tokens.token(world.support.id, grant_type=CLIENT_CREDENTIALS).json()
    headers = {"authorization": f"Bearer {token['access_token']}"}
    for user in users:
        path = f"/users/{user.subject}/sessions/{claims_of(user.access[-1])['sid']}"
        assert world.tokens.http.delete(path, headers=headers).status_code == 204
    tokens = [token for user in users for token in user.access]
    wait_until(lambda: not any(pool.map(world.allowed, tokens)), "all of them are refused")
