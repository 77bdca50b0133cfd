"""How the sidecar ends: in order, in time, with all it owes written, and with nothing left."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from conftest import StartSidecar

from support.grpc import CheckClient, headers_of, status_of
from support.jwks import claims, jwk, jwks, rsa_key, sign
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.sidecar import KID, NO_FEED, Sidecar
from support.valkey import ValkeyServer
from support.waiting import wait_until

LIMIT = 10.0
"""Seconds from the signal to the end."""


def token(**overrides: Any) -> str:
    return sign(claims(**overrides), rsa_key(), kid=KID)


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[TcpProxy]:
    with TcpProxy(valkey.port) as proxy:
        yield proxy


def socket_of(sidecar: Sidecar) -> Path:
    return Path(sidecar.socket.removeprefix("unix:"))


def assert_ended_well(sidecar: Sidecar, started: float) -> None:
    assert sidecar.process.wait(timeout=LIMIT + 5) == 0
    assert time.monotonic() - started < LIMIT
    assert not socket_of(sidecar).exists()
    assert "stopped" in sidecar.log_text().splitlines()[-1]
    assert "Traceback" not in sidecar.log_text()
    for line in sidecar.log_text().splitlines():
        assert line.startswith("{"), line  # nothing was printed past the log, by nobody


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(
    valkey: ValkeyServer, proxy: TcpProxy, start_sidecar: StartSidecar, number: signal.Signals
) -> None:
    """Not ready and NOT_SERVING; what is being answered is answered; with a health Watch open."""
    url = f"redis://{LOOPBACK}:{proxy.port}"
    sidecar = start_sidecar({"store": {"url": url, "timeout": "3s"}, "feed": NO_FEED})
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
    states: list[str] = []

    def watch() -> None:
        with CheckClient(sidecar.address) as client:
            try:
                states.extend(client.watch_health())
            except grpc.RpcError:
                states.append("ended")

    answers: list[Any] = []

    def ask() -> None:
        with CheckClient(sidecar.address) as client:
            answers.append(client.check(token=token()))

    watching = threading.Thread(target=watch)
    watching.start()
    wait_until(lambda: states == ["SERVING"], "watched")
    proxy.block("to_client")
    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: valkey.command_counts()["mget"] == 1, "a check is under way")
    started = time.monotonic()
    sidecar.process.send(number)
    wait_until(lambda: sidecar.http("/readyz").status_code == 503, "not ready")
    assert sidecar.http("/readyz").text == "draining\n"
    wait_until(lambda: "NOT_SERVING" in states, "the watcher is told")
    proxy.restore()
    asking.join()
    assert status_of(answers[0]) == 200
    assert headers_of(answers[0])["x-authz-decision"] == "allow"
    assert_ended_well(sidecar, started)
    watching.join()
    assert states[:2] == ["SERVING", "NOT_SERVING"]


def test_it_ends_in_time_while_the_store_hangs_and_all_that_passed_is_on_record(
    valkey: ValkeyServer, start_sidecar: StartSidecar
) -> None:
    sidecar = start_sidecar({"store": {"url": valkey.url, "timeout": "50ms"}, "feed": NO_FEED})
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
    valkey.freeze()
    passed: list[str] = []

    def ask() -> None:
        with CheckClient(sidecar.address) as client:
            for number in range(10_000):
                name = f"r{number}"
                try:
                    response = client.check(token=token(), request_id=name)
                except grpc.RpcError:
                    return
                if status_of(response) == 200:
                    passed.append(name)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: len(passed) > 10, "some passed")
    started = time.monotonic()
    sidecar.process.send(signal.SIGTERM)
    assert_ended_well(sidecar, started)
    asking.join()
    valkey.thaw()
    recorded = [record["request_id"] for record in sidecar.audit()]
    assert set(passed) <= set(recorded)
    assert len(recorded) == len(set(recorded))


def test_it_ends_in_time_on_a_cluster_whose_nodes_all_hang(
    start_sidecar: StartSidecar, cluster: Any
) -> None:
    """Reading the map is then under way all the time."""
    sidecar = start_sidecar({"store": {"url": cluster.url, "connect_timeout": "30s"}})
    wait_until(lambda: sidecar.status()["store"]["connected"], "connected")
    for node in cluster.nodes:
        cluster.freeze(node)
    for _ in range(10):
        sidecar.client.check(token=token())
    started = time.monotonic()
    sidecar.process.send(signal.SIGTERM)
    assert_ended_well(sidecar, started)


def test_a_signal_during_the_start_ends_it_too(tmp_path: Path, valkey: ValkeyServer) -> None:
    valkey.freeze()
    sidecar = Sidecar(tmp_path / "sidecar", {"store": {"url": valkey.url}})
    try:
        sidecar.process.start()
        wait_until(lambda: "starting" in sidecar.log_text(), "it starts", timeout=20)
        started = time.monotonic()
        sidecar.process.send(signal.SIGTERM)
        assert sidecar.process.wait(timeout=LIMIT + 5) == 0
        assert time.monotonic() - started < LIMIT
        assert not socket_of(sidecar).exists()
    finally:
        valkey.thaw()
        sidecar.close()


def test_a_hangup_reads_the_keys_again_and_nothing_else_happens(
    start_sidecar: StartSidecar,
) -> None:
    sidecar = start_sidecar()
    assert status_of(sidecar.client.check(token=token())) == 200
    new = rsa_key("new")
    with_new = sign(claims(), new, kid="new")
    assert status_of(sidecar.client.check(token=with_new)) == 401
    path = Path(sidecar.settings["issuers"][0]["keys"]["jwks_file"])
    path.write_text(jwks(jwk(rsa_key(), KID), jwk(new, "new")))
    sidecar.reload()
    wait_until(lambda: status_of(sidecar.client.check(token=with_new)) == 200, "the new key")
    path.write_text("{")  # the next one is broken: the last good set stays
    sidecar.reload()
    wait_until(lambda: "keys_source_failed" in sidecar.log_text(), "noticed")
    assert status_of(sidecar.client.check(token=with_new)) == 200
    assert sidecar.process.running
    assert "Traceback" not in sidecar.log_text()


def test_a_socket_that_a_killed_sidecar_left_is_taken_over(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path / "sidecar")
    try:
        sidecar.process.start(sidecar.is_ready)
        sidecar.process.kill()
        assert socket_of(sidecar).exists()
        sidecar.process.start(sidecar.is_ready)
        assert status_of(sidecar.client.check(token=token())) == 200
        second = Sidecar(tmp_path / "second", {"listen": [sidecar.socket]})
        try:
            second.process.start()
            assert second.process.wait(timeout=20) == 2
            assert "another process is listening there" in second.log_text()
        finally:
            second.close()
        assert status_of(sidecar.client.check(token=token())) == 200
        with pytest.raises(httpx.HTTPError):
            second.http("/readyz")
    finally:
        sidecar.close()
    assert json.loads(sidecar.log_text().splitlines()[0])
