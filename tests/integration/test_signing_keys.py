"""Signing keys that change while tokens are issued and used: the token service, sidecars, Envoy."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from conftest import StartSidecar

from support import http
from support.cluster import ValkeyCluster
from support.envoy import Envoy, ExtAuthz
from support.grpc import status_of
from support.openbao import OpenBao
from support.sidecar import Sidecar
from support.token_service import ISSUER, SECRET, TokenServer, new_client
from support.upstream import Upstream
from support.waiting import wait_until

CLIENTS = 4
"""Who ask for tokens and use them, each as fast as it is answered."""
PUBLISH_AHEAD = 2.0
"""Seconds: twice as long as this sidecar keeps keys in the test of a rotation."""


@dataclass
class World:
    """A token service, and a sidecar behind Envoy that trusts it."""

    service: TokenServer
    sidecar: Sidecar
    envoy: Envoy
    client: str

    def issue(self) -> str:
        answer = self.service.token(self.client, grant_type="client_credentials")
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def use(self, token: str) -> tuple[int, str]:
        """Status, and the reason of a denial."""
        answer = http.request(self.envoy.port, token=token)
        return answer.status, "" if answer.status == 200 else answer.json()["reason"]

    def published(self) -> list[str]:
        return [
            key["kid"] for key in self.service.http.get("/.well-known/jwks.json").json()["keys"]
        ]

    def authz(self, *arguments: str) -> str:
        """`authz keys …` with the service's settings; what it prints."""
        command = [sys.executable, "-m", "authz", "keys", *arguments, "--config"]
        done = subprocess.run(
            [*command, self.service.config], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


class Worlds:
    """Makes them, and ends them."""

    def __init__(self, folder: Path, cluster: ValkeyCluster, upstream: Upstream) -> None:
        self._folder = folder
        self._cluster = cluster
        self._upstream = upstream
        self._made: list[Any] = []

    def start(self, signing: dict[str, Any] | None = None, *, refresh: str = "300s") -> World:
        folder = self._folder / str(len(self._made))
        service = TokenServer(folder, self._cluster.url)
        by_hand = {"rotate_every": None}  # its key is of unknown age, and would be replaced soon
        service.settings["tokens"]["signing"] |= {**by_hand, **(signing or {})}
        if signing and "vault" in signing:
            del service.settings["tokens"]["signing"]["key_file"]
        service.write_config()
        self._made.append(service)
        service.start()
        client = new_client()
        service.add(client)
        issuer = {
            "issuer": ISSUER,
            "audiences": ["api"],
            "algorithms": ["ES256"],
            "keys": {"jwks_url": f"{service.url}/.well-known/jwks.json", "refresh": refresh},
        }
        sidecar = Sidecar(
            folder / "sidecar", {"store": {"url": self._cluster.url}, "issuers": [issuer]}
        )
        self._made.append(sidecar)
        sidecar.start()
        envoy = Envoy.for_sidecar(
            folder / "envoy",
            sidecar=sidecar.socket,
            upstream_port=self._upstream.port,
            ext_authz=ExtAuthz(),
        )
        self._made.append(envoy)
        envoy.start()
        wait_until(lambda: sidecar.status()["feed"]["live"], "the feed is live")
        return World(service, sidecar, envoy, client.id)

    def stop(self) -> None:
        for one in reversed(self._made):
            one.stop()


@pytest.fixture(scope="module")
def worlds(
    tmp_path_factory: pytest.TempPathFactory, _shared_cluster: ValkeyCluster, upstream: Upstream
) -> Iterator[Worlds]:
    _shared_cluster.reset()  # a module before may have ended with a node killed or frozen
    worlds = Worlds(tmp_path_factory.mktemp("worlds"), _shared_cluster, upstream)
    yield worlds
    worlds.stop()


@pytest.fixture(scope="module")
def world_of_vault(
    worlds: Worlds, openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory
) -> World:
    """Its keys are in the transit engine."""
    openbao.transit("tokens", "ecdsa-p256")
    token = openbao.token(tmp_path_factory.mktemp("token"))
    vault = {"address": openbao.address, "key": "tokens", "token_file": str(token)}
    return worlds.start({"vault": vault})


def test_a_rotation_under_load_costs_no_token(worlds: Worlds) -> None:
    """Tokens are issued and used from all sides, and each of the last few is used again, all the
    time: before the rotation, while the next key is only published, when it begins to sign, after.
    """
    world = worlds.start({"publish_ahead": PUBLISH_AHEAD}, refresh="1s")
    old = world.issue()
    tokens = [old]
    stop = threading.Event()

    def ask() -> None:
        mine: list[str] = []
        while not stop.is_set():
            mine.append(world.issue())
            for token in (old, *mine[-3:]):
                assert world.use(token) == (200, ""), (kid(old), kid(token), len(mine))
            tokens.append(mine[-1])

    def of_the_next_key() -> int:
        return sum(kid(token) != kid(old) for token in tuple(tokens))

    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            printed = world.authz("rotate")
            published_at = time.monotonic()
            assert "it signs in 2s" in printed
            wait_until(
                lambda: of_the_next_key() > 20 or any(one.done() for one in asking),
                "the next key signs",
                timeout=20,
            )
        finally:
            stop.set()
        for one in asking:
            one.result()
    assert time.monotonic() - published_at > PUBLISH_AHEAD - 0.5
    assert set(world.published()) == {kid(token) for token in tokens}
    assert world.sidecar.metric("authz_checks_total", verdict="deny") == 0


def withdraw(world: World, leaked: str) -> None:
    """Its tokens are refused within ten seconds, which is patience for a busy machine, and the
    service goes on with another key.
    """
    token = world.issue()
    assert kid(token) == leaked
    assert world.use(token) == (200, "")
    printed = world.authz("withdraw", leaked)
    assert f"withdrawn {leaked}\n" in printed
    assert "told all sidecars to fetch their keys" in printed
    wait_until(lambda: world.use(token) == (401, "key_unknown"), "the leaked key is refused")
    assert leaked not in world.published()
    wait_until(lambda: kid(world.issue()) != leaked, "another key signs")
    assert world.use(world.issue()) == (200, "")
    assert world.use(token) == (401, "key_unknown")


def test_a_key_withdrawn_from_a_file_is_refused_everywhere_within_seconds(
    worlds: Worlds, start_sidecar: StartSidecar
) -> None:
    """Although sidecars keep keys for five minutes. Also by one that nobody asks meanwhile."""
    world = worlds.start()
    shared = {name: world.sidecar.settings[name] for name in ("store", "issuers")}
    other = start_sidecar({**shared, "transport": "grpcio"})
    wait_until(lambda: other.status()["feed"]["live"], "the feed is live")
    token = world.issue()
    assert status_of(other.client.check(token=token)) == 200
    withdraw(world, world.published()[0])
    wait_until(lambda: status_of(other.client.check(token=token)) == 401, "refused there as well")


def test_a_key_withdrawn_from_vault_is_refused_everywhere_within_seconds(
    world_of_vault: World,
) -> None:
    withdraw(world_of_vault, world_of_vault.published()[0])


def test_while_vault_is_sealed_nothing_is_issued_and_what_was_issued_goes_on(
    world_of_vault: World, openbao: OpenBao
) -> None:
    world = world_of_vault
    token = world.issue()
    assert world.use(token) == (200, "")
    openbao.seal()
    try:
        answer = world.service.token(world.client, grant_type="client_credentials")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"] == "temporarily_unavailable"
        assert world.published() == [kid(token)]
        assert world.use(token) == (200, "")
        assert world.service.metric("authz_tokens_signatures_total", result="unavailable") >= 1
        wait_until(
            lambda: world.service.metric("authz_tokens_signing_keys_failing") == 1, "it shows"
        )
        # A service that starts now knows no keys. It says so, for sidecars would take an empty set
        # at its word; and of a token nobody can say that it isn't ours.
        world.service.restart()
        assert world.service.http.get("/.well-known/jwks.json").status_code == 503
        form = {"token": token, "client_id": world.client, "client_secret": SECRET}
        for path in ("/oauth2/introspect", "/oauth2/revoke"):
            assert world.service.http.post(path, data=form).status_code == 503, path
        world.sidecar.reload()
        wait_until(
            lambda: world.sidecar.metric("authz_key_set_failing", issuer=ISSUER) == 1, "asked"
        )
        assert world.use(token) == (200, "")
    finally:
        openbao.unseal()
    wait_until(
        lambda: world.service.token(world.client, grant_type="client_credentials").is_success,
        "issues again",
    )
    assert world.use(world.issue()) == (200, "")
