"""After an outage what was let through is looked at again: with a real Envoy and a real store."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import StartCluster, StartEnvoy, StartSidecar

from support import http
from support.cluster import ValkeyCluster
from support.jwks import ISSUER, claims, rsa_key, sign
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.sidecar import KID, Sidecar
from support.valkey import ValkeyServer
from support.waiting import wait_until

CHECKING = "resetchannels %R~jwt:* +mget +get +xrange +asking +ping +client|setname +cluster|slots"


def token(jti: str, **overrides: Any) -> str:
    return sign(claims(jti=jti, **overrides), rsa_key(), kid=KID)


def authz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "authz", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def revoker_of(sidecar: Sidecar, url: str) -> Callable[..., None]:
    """`authz revoke` with the sidecar's settings and a way of its own to the store."""
    config = sidecar.config.with_name("revoker.yaml")
    config.write_text(yaml.safe_dump({**sidecar.settings, "store": {"url": url}}))

    def revoke(*arguments: str) -> None:
        outcome = authz("revoke", "--config", str(config), *arguments)
        assert outcome.returncode == 0, outcome.stderr

    return revoke


def cut_off(cluster: ValkeyCluster) -> None:
    """The sidecar may not log in any more; whoever revokes may."""
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "checking", "off")
        node.command("CLIENT", "KILL", "USER", "checking")


def let_in(cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        node.command("ACL", "SETUSER", "checking", "on")


def pass_through(port: int, text: str, requests: int) -> None:
    """So many requests through Envoy, each let through unasked."""
    for _ in range(requests):
        response = http.request(port, "/", token=text)
        assert response.status == 200
        assert ["x-authz-decision", "fail-open"] in json.loads(response.body)["headers"]


def fails_open(port: int) -> bool:
    """With a token that nobody looks at afterwards but as one that was not revoked."""
    response = http.request(port, "/", token=token("probe"))
    return ["x-authz-decision", "fail-open"] in json.loads(response.body)["headers"]


def pause() -> None:
    """More than the millisecond in which a request counts as of the same instant."""
    time.sleep(0.005)


def reconciled(sidecar: Sidecar) -> dict[str, dict[str, Any]]:
    """By token; each has one record."""
    records = sidecar.audit("reconciled")
    by_token = {record["token_id"]: record for record in records}
    assert len(by_token) == len(records)
    return by_token


def verified(*files: Path) -> str:
    outcome = authz("audit", "verify", *map(str, files))
    assert outcome.returncode == 0, outcome.stdout
    return outcome.stdout


def test_what_was_let_through_while_it_was_revoked_elsewhere_is_found(
    start_cluster: StartCluster, start_sidecar: StartSidecar, start_envoy: StartEnvoy
) -> None:
    cluster = start_cluster(users={"checking": f"on >pw {CHECKING}"})
    store = {"url": cluster.url_for("checking", "pw"), "timeout": "50ms"}
    sidecar = start_sidecar({"store": store})
    revoke = revoker_of(sidecar, cluster.url)
    envoy = start_envoy(sidecar.socket)
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")

    cut_off(cluster)
    wait_until(lambda: fails_open(envoy.port), "the outage to show")
    before, between, late, never = (token(jti) for jti in ("before", "between", "late", "never"))
    logged_out = token("logged-out", sub="carol", iat=int(time.time()) - 2)
    revoke("--token", before, "--reason", "stolen", "--by", "ops")
    pause()
    pass_through(envoy.port, before, 2)
    pass_through(envoy.port, between, 3)
    pass_through(envoy.port, logged_out, 1)
    pass_through(envoy.port, late, 4)
    pass_through(envoy.port, never, 5)
    pause()
    revoke("--token", between)
    revoke("--issuer", ISSUER, "--user", "carol", "--reason", "password changed")
    revoke("--token", late)
    pause()
    pass_through(envoy.port, between, 6)
    pass_through(envoy.port, logged_out, 7)
    assert sidecar.metric("authz_reconcile_pending") >= 5
    assert sidecar.audit("reconciled") == []
    let_in(cluster)

    names = ("before", "between", "logged-out", "late", "never")
    wait_until(lambda: {*names, "probe"} <= reconciled(sidecar).keys(), "the records")
    records = reconciled(sidecar)
    assert {
        name: (one["was_revoked"], one["requests"], one["requests_after"])
        for name, one in records.items()
        if name in names
    } == {
        "before": (True, 2, 2),
        "between": (True, 9, 6),
        "logged-out": (True, 8, 7),
        "late": (True, 4, 0),
        "never": (False, 5, 0),
    }
    assert {one["evidence"] for one in records.values()} == {"store"}
    assert (records["before"]["revoked_by"], records["before"]["revoked_reason"]) == (
        "ops",
        "stolen",
    )
    assert records["logged-out"]["revoked_reason"] == "password changed"
    assert records["never"]["revoked_at"] == ""
    assert sidecar.metric("authz_reconciled_total", was_revoked="true") == 4
    assert sidecar.metric("authz_reconciled_requests_after_total") == 15
    assert sidecar.metric("authz_reconcile_pending") == 0
    assert "reconciled_revoked" in sidecar.log_text()
    assert "Traceback" not in sidecar.log_text()
    verified(sidecar.audit_path)
    offline = authz(
        "audit", "reconcile", "--config", str(sidecar.config), "--json", str(sidecar.audit_path)
    )
    assert offline.returncode == 1
    told = json.loads(offline.stdout)
    assert (told["summary"]["revoked"], told["summary"]["requests_after"]) == (4, 15)
    assert {one["token_id"]: one for one in told["tokens"]} == {
        name: {k: v for k, v in one.items() if k in told["tokens"][0]}
        for name, one in records.items()
    }


@pytest.mark.parametrize("killed", [True, False])
def test_a_restart_during_the_outage_forgets_nothing(
    start_sidecar: StartSidecar, start_envoy: StartEnvoy, valkey: ValkeyServer, *, killed: bool
) -> None:
    """The sidecar is cut off by its line; whoever revokes has another."""
    with TcpProxy(valkey.port) as line:
        store = {"url": f"redis://{LOOPBACK}:{line.port}", "timeout": "50ms"}
        sidecar = start_sidecar({"store": store})
        revoke = revoker_of(sidecar, valkey.url)
        envoy = start_envoy(sidecar.socket)
        wait_until(lambda: sidecar.status()["store"]["connected"], "connected")

        line.cut()
        wait_until(lambda: fails_open(envoy.port), "the outage to show")
        stolen, good = token("stolen"), token("good")
        pass_through(envoy.port, stolen, 2)
        pass_through(envoy.port, good, 3)
        pause()
        revoke("--token", stolen)
        pause()
        pass_through(envoy.port, stolen, 4)
        if killed:
            sidecar.process.kill()
        else:
            assert sidecar.process.stop() == 0
        sidecar.process.start(sidecar.is_ready)
        wait_until(lambda: sidecar.status()["reconciler"]["recalled"] >= 3, "the audit to be read")
        wait_until(lambda: http.request(envoy.port, "/", token=good).status == 200, "Envoy is back")
        pass_through(envoy.port, stolen, 5)
        line.restore()

        wait_until(lambda: {"stolen", "good"} <= reconciled(sidecar).keys(), "the records")
        record = reconciled(sidecar)["stolen"]
        assert (record["was_revoked"], record["requests"], record["requests_after"]) == (
            True,
            11,
            9,
        )
        assert reconciled(sidecar)["good"]["was_revoked"] is False
        wait_until(lambda: sidecar.metric("authz_reconcile_pending") == 0, "nothing is left")
        assert "of 2 start(s) of a sidecar: whole" in verified(sidecar.audit_path)
        # And the next start finds nothing to do.
        assert sidecar.process.stop() == 0
        before = len(sidecar.audit("reconciled"))
        sidecar.process.start(sidecar.is_ready)
        wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
        assert sidecar.status()["reconciler"]["recalled"] == 0
        assert len(sidecar.audit("reconciled")) == before
        assert "Traceback" not in sidecar.log_text()
