"""Several workers end as one sidecar does: in order, in time, and with nothing left."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from workers.conftest import StartFleet

from support.fleet import SLOW, Fleet, alive, children_of
from support.grpc import CheckClient, headers_of, status_of
from support.jwks import claims, rsa_key, sign
from support.ports import LOOPBACK, accepts_connections
from support.proxy import TcpProxy
from support.sidecar import KID, NO_FEED
from support.valkey import ValkeyServer
from support.waiting import wait_until

LIMIT = 10.0
"""Seconds from the signal to the end."""


def token() -> str:
    return sign(claims(), rsa_key(), kid=KID)


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[TcpProxy]:
    with TcpProxy(valkey.port) as proxy:
        yield proxy


def assert_ended_well(fleet: Fleet, pids: list[int], started: float) -> None:
    assert fleet.process.wait(timeout=LIMIT + 5) == 0
    assert time.monotonic() - started < LIMIT
    assert not any(map(alive, pids))
    assert not Path(fleet.socket.removeprefix("unix:")).exists()
    assert not accepts_connections(fleet.port)
    lines = fleet.log_text().splitlines()
    assert '"stopped"' in lines[-1]
    assert all(line.startswith("{") for line in lines), lines
    assert "Traceback" not in fleet.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_order_and_what_was_asked_is_answered(
    valkey: ValkeyServer, proxy: TcpProxy, start_fleet: StartFleet, number: signal.Signals
) -> None:
    """A check waits for the store at each worker. SIGINT goes to the whole group, as Ctrl-C does:
    no worker may die before it is told.
    """
    store = {"url": f"redis://{LOOPBACK}:{proxy.port}", "timeout": "4s"}
    fleet = start_fleet({"store": store, "feed": NO_FEED})  # so that checks wait
    wait_until(
        lambda: all(one["status"]["store"]["connected"] for one in fleet.workers()), "connected"
    )
    pids = fleet.pids()
    clients = [fleet.connect() for _ in range(2)]
    assert [client.health() for client in clients] == ["SERVING", "SERVING"]
    assert fleet.connections() == [1, 1]
    proxy.block("to_client")
    answers: list[Any] = []

    def ask(client: CheckClient) -> None:
        answers.append(client.check(token=token()))

    asking = [threading.Thread(target=ask, args=[client]) for client in clients]
    for one in asking:
        one.start()
    wait_until(lambda: valkey.command_counts().get("mget", 0) == 2, "checks are under way")
    started = time.monotonic()
    if number is signal.SIGINT:
        os.killpg(fleet.process.pid, number)
    else:
        fleet.process.send(number)
    wait_until(lambda: fleet.http("/readyz").text == "draining\n", "not ready")
    assert fleet.http("/healthz").status_code == 200
    proxy.restore()
    for one in asking:
        one.join()
    assert [status_of(answer) for answer in answers] == [200, 200]
    assert [headers_of(answer)["x-authz-decision"] for answer in answers] == ["allow", "allow"]
    assert_ended_well(fleet, pids, started)
    assert {line.get("worker") for line in fleet.logged("stopped")} == {0, 1, None}


def test_a_connection_that_was_just_made_is_told_of_the_end(start_fleet: StartFleet) -> None:
    """None is reset: clients under way get their answers or a GOAWAY, which gRPC retries on."""
    fleet = start_fleet()
    pids = fleet.pids()
    errors: list[grpc.StatusCode] = []
    stop = threading.Event()

    def ask() -> None:
        good = token()
        while not stop.is_set():
            with CheckClient(fleet.address) as client:
                try:
                    client.check(token=good)
                except grpc.RpcError as error:
                    errors.append(error.code())
                    return

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for one in asking:
        one.start()
    wait_until(lambda: fleet.metric("authz_connections_accepted_total") > 20, "they come and go")
    started = time.monotonic()
    fleet.process.send(signal.SIGTERM)
    assert_ended_well(fleet, pids, started)
    stop.set()
    for one in asking:
        one.join()
    assert set(errors) <= {grpc.StatusCode.UNAVAILABLE}  # and nothing of INTERNAL, or a hang


def test_a_worker_that_does_not_drain_is_killed_and_the_rest_ends_in_order(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet({"drain_timeout": "1s"})
    pids = fleet.pids()
    os.kill(pids[0], signal.SIGSTOP)
    started = time.monotonic()
    fleet.process.send(signal.SIGTERM)
    assert_ended_well(fleet, pids, started)
    assert [line.get("worker") for line in fleet.logged("stopped")] == [1, None]


def test_a_signal_during_the_start_ends_it_too(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    try:
        fleet.process.start()
        wait_until(lambda: len(children_of(fleet.process.pid)) == 2, "workers begin", timeout=SLOW)
        pids = sorted(children_of(fleet.process.pid))
        started = time.monotonic()
        fleet.process.send(signal.SIGTERM)
        assert_ended_well(fleet, pids, started)
    finally:
        fleet.close()


def test_workers_that_wait_for_a_restart_do_not_hold_up_the_end(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet()
    Path(fleet.settings["issuers"][0]["keys"]["jwks_file"]).unlink()
    fleet.signal(0, signal.SIGKILL)
    wait_until(
        lambda: [line["restart_in"] for line in fleet.logged("worker_ended")][-1:] == [2.0],
        "it waits",
        timeout=SLOW,
    )
    started = time.monotonic()
    fleet.process.send(signal.SIGTERM)
    assert fleet.process.wait(timeout=LIMIT) == 0
    assert time.monotonic() - started < 5
