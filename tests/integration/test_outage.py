"""What becomes of requests while the store is away: let through on record, or refused, in time.

Without a feed, so that the store is asked about each token; `test_feed.py` is the same with one.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StartSidecar

from support.grpc import CheckClient, headers_of, status_of
from support.jwks import claims, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, NO_FEED, Sidecar
from support.valkey import ValkeyServer
from support.waiting import wait_until

TIMEOUT = 0.05
SCHEDULING = 0.3
"""Seconds that a busy machine may add to a wait."""


def token(**overrides: Any) -> str:
    return sign(claims(**overrides), rsa_key(), kid=KID)


def revoke(sidecar: Sidecar, text: str) -> None:
    """As `authz revoke --token` does."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "authz", "revoke", "--config", str(sidecar.config)]
    subprocess.run([*command, "--token", text], check=True, capture_output=True)


def reason_of(response: Any) -> str:
    return str(json.loads(response.denied_response.body)["reason"])


def decision(sidecar: Sidecar, text: str, **request: Any) -> str:
    """`allow`, `fail-open`, or the reason of a denial."""
    response = sidecar.client.check(token=text, **request)
    if status_of(response) == 200:
        return headers_of(response)["x-authz-decision"]
    return reason_of(response)


def wait_connected(sidecar: Sidecar) -> None:
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")


def reload(sidecar: Sidecar) -> None:
    """SIGHUP, and wait until it took effect."""
    before = sidecar.log_text().count("reloading")
    sidecar.reload()
    wait_until(lambda: sidecar.log_text().count("reloading") > before, "reloaded")


def breaker_is_open(sidecar: Sidecar) -> bool:
    return sidecar.metric("authz_store_breaker_open") == 1


@pytest.fixture(scope="module")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("store")) as server:
        yield server
        server.thaw()


@pytest.fixture
def store(_store: ValkeyServer) -> ValkeyServer:
    """The module's server, up and empty."""
    _store.thaw()
    if not _store.process.running:
        _store.restart()
    _store.client.flushall()
    return _store


@pytest.fixture(scope="module")
def _sidecar(tmp_path_factory: pytest.TempPathFactory, _store: ValkeyServer) -> Iterator[Sidecar]:
    """Small memories, so that they are flooded soon."""
    cache = {"revocations": 50, "tokens": 50, "negative_ttl": "300ms"}
    with Sidecar(tmp_path_factory.mktemp("sidecar"), settings(_store, cache=cache)) as sidecar:
        yield sidecar


@pytest.fixture
def sidecar(_sidecar: Sidecar, store: ValkeyServer) -> Iterator[Sidecar]:
    """The module's sidecar, connected and with an audit that is empty so far."""
    wait_connected(_sidecar)
    wait_until(lambda: decision(_sidecar, token()) == "allow", "all is well")
    _sidecar.audit_path.write_text("")
    yield _sidecar
    assert "Traceback" not in _sidecar.log_text()


def settings(server: ValkeyServer, **changes: Any) -> dict[str, Any]:
    store = {"url": server.url, "timeout": f"{TIMEOUT * 1000:g}ms"}
    return {"store": store, "feed": NO_FEED, **changes}


# Down at the start


def test_it_starts_without_the_store_serves_on_record_and_connects_when_it_can(
    store: ValkeyServer, start_sidecar: StartSidecar
) -> None:
    store.kill()
    sidecar = start_sidecar(settings(store))  # `start` waits for /readyz
    assert sidecar.http("/healthz").status_code == 200
    assert sidecar.client.health() == "SERVING"
    assert sidecar.status()["store"]["connected"] is False
    response = sidecar.client.check(token=token(jti="j1"), request_id="r1")
    assert status_of(response) == 200
    assert headers_of(response)["x-authz-decision"] == "fail-open"
    (record,) = sidecar.audit()
    assert record["event"] == "fail_open"
    assert (record["request_id"], record["token_id"]) == ("r1", "j1")
    assert record["cause"] in {"connection", "timeout", "breaker_open"}
    store.restart()
    wait_connected(sidecar)
    assert decision(sidecar, token()) == "allow"
    assert len(sidecar.audit()) == 1
    assert "store_unreachable" in sidecar.log_text()
    assert "Traceback" not in sidecar.log_text()


def test_a_wrong_password_fails_open_and_the_log_names_it(
    tmp_path: Path, start_sidecar: StartSidecar
) -> None:
    with ValkeyServer(tmp_path / "valkey", password="right") as server:
        url = server.url_for(None, "hunter2")
        sidecar = start_sidecar({"store": {"url": url}, "log": {"level": "debug"}})
        assert decision(sidecar, token()) == "fail-open"
        wait_until(lambda: "invalid username-password pair" in sidecar.log_text(), "logged")
        told = sidecar.log_text() + sidecar.http("/status").text + sidecar.metrics()
        assert "hunter2" not in told
        assert "Traceback" not in sidecar.log_text()


# In time


def test_no_check_waits_longer_than_the_timeout_and_none_while_the_breaker_is_open(
    store: ValkeyServer, sidecar: Sidecar
) -> None:
    store.freeze()
    waits = []
    while not breaker_is_open(sidecar):
        started = time.monotonic()
        assert decision(sidecar, token()) == "fail-open"
        waits.append(time.monotonic() - started)
        assert len(waits) < 20
    assert max(waits) < TIMEOUT + SCHEDULING
    before = sidecar.metric("authz_store_lookups_total", result="breaker_open")
    for _ in range(20):
        assert decision(sidecar, token()) == "fail-open"
    refused = sidecar.metric("authz_store_lookups_total", result="breaker_open") - before
    assert refused == 20  # not one was sent
    assert len(sidecar.audit()) == len(waits) + 20
    store.thaw()
    wait_until(lambda: not breaker_is_open(sidecar), "the breaker closes by itself")
    assert decision(sidecar, token()) == "allow"
    for event in ("breaker_opened", "breaker_closed"):
        assert event in sidecar.log_text()


# The fail mode


def fails_open(sidecar: Sidecar, extensions: dict[str, str]) -> bool:
    """Whether a good token passes, on record, while the store is away; it is refused else."""
    before = len(sidecar.audit())
    response = sidecar.client.check(token=token(), extensions=extensions)
    records = sidecar.audit()[before:]
    if status_of(response) == 200:
        assert headers_of(response)["x-authz-decision"] == "fail-open"
        (record,) = records
        assert record["fail_mode_from"] == ("route" if extensions else "settings")
        return True
    assert status_of(response) == 503
    assert reason_of(response) == "store_unavailable"
    assert headers_of(response)["retry-after"] == "1"
    assert "www-authenticate" not in headers_of(response)
    assert records == []
    return False


def test_a_route_may_fail_closed_where_the_setting_is_open(
    store: ValkeyServer, sidecar: Sidecar
) -> None:
    store.kill()
    assert fails_open(sidecar, {})
    assert not fails_open(sidecar, {"authz.fail_mode": "closed"})
    assert fails_open(sidecar, {"authz.fail_mode": "open"})


def test_a_route_may_fail_open_where_the_setting_is_closed(
    store: ValkeyServer, start_sidecar: StartSidecar
) -> None:
    store.kill()
    sidecar = start_sidecar(settings(store, fail_mode="closed"))
    assert not fails_open(sidecar, {})
    assert not fails_open(sidecar, {"authz.fail_mode": "closed"})
    assert fails_open(sidecar, {"authz.fail_mode": "open"})


def test_a_bad_token_is_refused_all_the_same(store: ValkeyServer, sidecar: Sidecar) -> None:
    """Only the question whether it was revoked is skipped."""
    store.kill()
    assert decision(sidecar, token(exp=2000, iat=1000)) == "token_expired"
    forged = sign(claims(), rsa_key("other"), kid=KID)
    assert decision(sidecar, forged) == "signature_invalid"
    scopes = {"authz.scopes": "admin"}
    assert decision(sidecar, token(), extensions=scopes) == "insufficient_scope"
    assert sidecar.audit() == []


# What is known


def test_known_revoked_stays_revoked_whatever_becomes_of_the_store(
    store: ValkeyServer, sidecar: Sidecar
) -> None:
    """Through an outage, a store that comes back empty, a reload, and a flood of other tokens."""
    revoked = token()
    revoke(sidecar, revoked)
    assert decision(sidecar, revoked) == "token_revoked"
    for _ in range(200):
        assert decision(sidecar, token()) == "allow"
    assert decision(sidecar, revoked) == "token_revoked"
    store.kill()
    for _ in range(100):
        assert decision(sidecar, token()) == "fail-open"
    assert decision(sidecar, revoked) == "token_revoked"
    store.restart()  # without its keys
    wait_until(lambda: decision(sidecar, token()) == "allow", "the store is back")
    assert decision(sidecar, revoked) == "token_revoked"
    reload(sidecar)
    assert decision(sidecar, revoked) == "token_revoked"
    assert revoked not in sidecar.audit_path.read_text()


def test_a_token_that_was_clear_a_moment_ago_is_asked_about_again(
    store: ValkeyServer, sidecar: Sidecar
) -> None:
    text = token()
    assert decision(sidecar, text) == "allow"
    revoke(sidecar, text)
    wait_until(lambda: decision(sidecar, text) == "token_revoked", "noticed", timeout=2)


# The record


def test_the_record_is_in_the_file_before_the_answer_arrives(
    store: ValkeyServer, sidecar: Sidecar
) -> None:
    store.kill()
    for number in range(50):
        response = sidecar.client.check(token=token(), request_id=f"r{number}")
        assert headers_of(response)["x-authz-decision"] == "fail-open"
        last = sidecar.audit_path.read_bytes().splitlines()[-1]
        assert json.loads(last)["request_id"] == f"r{number}"


def test_each_of_many_at_once_has_its_own_record(store: ValkeyServer, sidecar: Sidecar) -> None:
    store.kill()
    let_through: list[str] = []

    def ask(worker: int) -> None:
        with CheckClient(sidecar.address) as client:
            for number in range(50):
                name = f"{worker}-{number}"
                response = client.check(token=token(), request_id=name)
                if status_of(response) == 200:
                    let_through.append(name)

    threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = sidecar.audit()
    assert sorted(record["request_id"] for record in records) == sorted(let_through)
    assert len(let_through) > 150
    numbers = sorted(record["seq"] for record in records)
    assert numbers == list(range(numbers[0], numbers[0] + len(records)))


@pytest.mark.parametrize(
    ("unwritable", "required"), [("full", True), ("full", False), ("missing", True)]
)
def test_what_cannot_be_recorded_is_refused_where_the_record_is_required(
    store: ValkeyServer,
    start_sidecar: StartSidecar,
    tmp_path: Path,
    unwritable: str,
    required: bool,
) -> None:
    path = {
        "full": Path("/dev/full"),
        "missing": tmp_path / "missing" / "audit.jsonl",
    }[unwritable]
    audit = {"path": str(path), "required": required, "timeout": "2s"}
    sidecar = start_sidecar(settings(store, audit=audit))
    wait_connected(sidecar)
    assert decision(sidecar, token()) == "allow"  # it needs no record
    store.kill()
    response = sidecar.client.check(token=token())
    if required:
        assert status_of(response) == 503
        assert reason_of(response) == "audit_unavailable"
        assert headers_of(response)["retry-after"] == "1"
    else:
        assert headers_of(response)["x-authz-decision"] == "fail-open"
    assert sidecar.metric("authz_audit_failures_total") >= 1
    assert "audit_unwritable" in sidecar.log_text()
    assert "Traceback" not in sidecar.log_text()


def test_the_audit_follows_a_rotation(store: ValkeyServer, sidecar: Sidecar) -> None:
    """Renamed away by logrotate, then SIGHUP."""
    store.kill()
    assert decision(sidecar, token(), request_id="before") == "fail-open"
    rotated = sidecar.audit_path.with_suffix(".1")
    sidecar.audit_path.rename(rotated)
    reload(sidecar)
    assert decision(sidecar, token(), request_id="after") == "fail-open"
    assert [record["request_id"] for record in sidecar.audit()] == ["after"]
    assert json.loads(rotated.read_text())["request_id"] == "before"


# Settings that can't be


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"store": {"url": "redis://127.0.0.1", "password_file": "/no/such"}}, "password_file"),
        (
            {"store": {"url": "rediss://127.0.0.1", "tls": {"ca_file": "/no/such"}}},
            "store.tls.ca_file",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start_with_one_line(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    """And at once, although the store would be tried for ever."""
    changes = {"store": {"url": f"redis://{LOOPBACK}:{free_port()}"}, **changes}
    sidecar = Sidecar(tmp_path / "sidecar", changes)
    try:
        sidecar.process.start()
        assert sidecar.process.wait(timeout=10) == 2
        lines = [line for line in sidecar.log_text().splitlines() if not line.startswith("{")]
        assert len(lines) == 1
        assert lines[0].startswith("authz: ")
        assert problem in lines[0]
    finally:
        sidecar.close()
