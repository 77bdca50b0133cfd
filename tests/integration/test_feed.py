"""A sidecar with a feed behind the real Envoy: what a client sees, with Redis there and gone."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import StartEnvoy, StartSidecar

from support import http
from support.cluster import ValkeyCluster
from support.envoy import Envoy
from support.grpc import status_of
from support.jwks import claims, rsa_key, sign
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.sidecar import KID, Sidecar
from support.valkey import ValkeyServer
from support.waiting import wait_until


def token() -> str:
    return sign(claims(), rsa_key(), kid=KID)


def revoke(sidecar: Sidecar, text: str, store: str) -> None:
    """As an operator does, who reaches the store by a line of its own."""
    command = [sys.executable, "-m", "authz", "revoke", "--config", str(sidecar.config)]
    environment = os.environ | {"AUTHZ_STORE__URL": store}
    subprocess.run([*command, "--token", text], check=True, capture_output=True, env=environment)


def is_live(sidecar: Sidecar) -> bool:
    return bool(sidecar.status()["feed"]["live"])


def seen(envoy: Envoy, text: str) -> str:
    """The decision as the upstream saw it, or the reason of the denial."""
    answer = http.request(envoy.port, "/hello", token=text)
    if answer.status == 200:
        return str(dict(answer.json()["headers"])["x-authz-decision"])
    return f"{answer.status} {answer.json()['reason']}"


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[TcpProxy]:
    with TcpProxy(valkey.port) as proxy:
        yield proxy


def test_a_revoked_token_is_refused_without_redis_being_asked(
    cluster: ValkeyCluster, start_sidecar: StartSidecar, start_envoy: StartEnvoy
) -> None:
    sidecar = start_sidecar({"store": {"url": cluster.url}})
    envoy = start_envoy(sidecar.socket)
    wait_until(lambda: is_live(sidecar), "the feed is live")
    cluster.reset_counts()
    text = token()
    assert seen(envoy, text) == "allow"
    revoke(sidecar, text, cluster.url)
    wait_until(lambda: seen(envoy, text) == "401 token_revoked", "refused")
    assert seen(envoy, token()) == "allow"
    assert cluster.command_counts()["mget"] == 0
    assert sidecar.metric("authz_feed_entries_total", how="pushed") == 1
    assert sidecar.metric("authz_feed_live_buckets") == sidecar.metric("authz_feed_buckets") == 16
    assert sidecar.metric("authz_revocation_lag_seconds_count") == 1


def test_an_outage_is_survived_for_a_while_then_on_record_and_the_revoked_stay_refused(
    valkey: ValkeyServer, proxy: TcpProxy, start_sidecar: StartSidecar, start_envoy: StartEnvoy
) -> None:
    """Row by row the table of the design: heard of lately, read at the start, neither."""
    settings = {"store": {"url": f"redis://{LOOPBACK}:{proxy.port}", "timeout": "50ms"}}
    first = start_sidecar(settings)
    of_before, of_now, while_cut = token(), token(), token()
    revoke(first, of_before, valkey.url)
    first.stop()
    sidecar = start_sidecar(settings)
    envoy = start_envoy(sidecar.socket)
    wait_until(lambda: is_live(sidecar), "the feed is live")
    revoke(sidecar, of_now, valkey.url)
    wait_until(lambda: seen(envoy, of_now) == "401 token_revoked", "heard of")

    proxy.cut()
    assert seen(envoy, token()) == "allow"  # as of a moment ago
    revoke(sidecar, while_cut, valkey.url)
    wait_until(lambda: not is_live(sidecar), "stale")
    assert sidecar.audit() == []
    assert seen(envoy, token()) == "fail-open"
    assert seen(envoy, while_cut) == "fail-open"
    assert seen(envoy, of_now) == "401 token_revoked"
    assert seen(envoy, of_before) == "401 possibly_revoked"
    assert [record["event"] for record in sidecar.audit()] == ["fail_open"] * 2

    proxy.restore()
    wait_until(lambda: seen(envoy, while_cut) == "401 token_revoked", "back")
    assert seen(envoy, of_before) == "401 token_revoked"
    assert seen(envoy, token()) == "allow"
    assert sidecar.status()["feed"]["history_lost"] == 0


def test_a_sidecar_that_starts_in_an_outage_fails_open_on_record_until_it_has_read_all(
    valkey: ValkeyServer, start_sidecar: StartSidecar
) -> None:
    sidecar = start_sidecar({"store": {"url": valkey.url}})
    text = token()
    revoke(sidecar, text, valkey.url)
    sidecar.stop()
    valkey.command("SAVE")
    valkey.kill()
    late = start_sidecar({"store": {"url": valkey.url}})
    assert status_of(late.client.check(token=text)) == 200
    assert [record["event"] for record in late.audit()] == ["fail_open"]
    valkey.restart()
    wait_until(lambda: is_live(late), "live")
    assert status_of(late.client.check(token=text)) == 401
