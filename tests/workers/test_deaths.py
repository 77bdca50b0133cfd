"""Workers die, hang, and can't be started; the parent dies. Nobody else suffers, nothing stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from workers.conftest import StartFleet

from authz.settings import Settings
from authz.workers import process
from authz.workers.keeper import Keeper
from authz.workers.process import HUNG_TICKS, KILL_TICKS, WorkerProcess
from authz.workers.supervisor import run
from support.fleet import SLOW, Fleet, alive, stopped
from support.grpc import CheckClient, status_of
from support.jwks import claims, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, default_issuer
from support.waiting import eventually, wait_until


def token() -> str:
    return sign(claims(), rsa_key(), kid=KID)


class Load:
    """A client that asks all the time."""

    def __init__(self, client: CheckClient) -> None:
        self.client = client
        self.answered = 0
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        good = token()
        while not self._stop.wait(0.002):
            try:
                assert status_of(self.client.check(token=good)) == 200
            except grpc.RpcError as error:
                self.errors.append(str(error))
            else:
                self.answered += 1

    @contextmanager
    def running(self) -> Iterator["Load"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def goes_on(self) -> None:
        """It gets more answers."""
        before = self.answered
        wait_until(lambda: self.answered > before + 5, "answers")


def one_client_each(fleet: Fleet) -> list[CheckClient]:
    """The first is served by worker 0, the second by worker 1."""
    clients = []
    for worker in range(2):
        client = fleet.connect()
        assert status_of(client.check(token=token())) == 200
        clients.append(client)
        assert fleet.connections()[worker] == 1
    return clients


def gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))


def test_a_worker_that_is_killed_is_restarted_while_the_others_serve(
    start_fleet: StartFleet,
) -> None:
    """Its client comes back at once, to the other one, and moves over once there are two again."""
    fleet = start_fleet()
    first, second = map(Load, one_client_each(fleet))
    with first.running(), second.running():
        first.goes_on()
        dead = fleet.signal(0, signal.SIGKILL)
        second.goes_on()
        first.goes_on()
        fleet.until_restarted(0)
        assert fleet.pids()[0] != dead
        errors = len(first.errors)
        wait_until(lambda: fleet.connections() == [1, 1], "spread again", timeout=SLOW)
        first.goes_on()
        second.goes_on()
    assert second.errors == []
    assert len(first.errors) == errors  # to be sent to another worker costs no call
    assert fleet.restarts() == [1, 0]
    assert fleet.metric("authz_worker_restarts_total", worker="0") == 1
    assert fleet.metric("authz_worker_restarts_total", worker="1") == 0
    (line,) = fleet.logged("worker_ended")
    assert (line["worker"], line["pid"], line["signal"]) == (0, dead, "SIGKILL")


def test_new_connections_go_to_a_restarted_worker_first(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    one_client_each(fleet)
    fleet.signal(0, signal.SIGKILL)
    fleet.until_restarted(0)
    assert fleet.connections() == [0, 1]
    assert status_of(fleet.connect().check(token=token())) == 200
    assert fleet.connections() == [1, 1]


def test_the_audit_of_a_restarted_worker_goes_on_in_the_same_file(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet({"store": {"url": f"redis://{LOOPBACK}:1"}})
    one_client_each(fleet)
    assert len(fleet.worker_audit(0)) == 1
    fleet.signal(0, signal.SIGKILL)
    fleet.until_restarted(0)
    assert status_of(fleet.connect().check(token=token())) == 200
    records = fleet.worker_audit(0)
    assert [one["seq"] for one in records] == [1, 1]
    assert len({one["instance"] for one in records}) == 2


def test_a_worker_that_gets_sigterm_is_replaced_without_a_failed_call(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet()
    loads = list(map(Load, one_client_each(fleet)))
    with loads[0].running(), loads[1].running():
        old = fleet.signal(0, signal.SIGTERM)
        wait_until(lambda: not alive(old), "it ended", timeout=SLOW)
        fleet.until_restarted(0)
        for load in loads:
            load.goes_on()
    assert [load.errors for load in loads] == [[], []]
    assert fleet.logged("worker_ended")[0]["exit_code"] == 0


def test_no_process_stays_behind_when_the_parent_is_killed(start_fleet: StartFleet) -> None:
    """Workers finish what they began, and end by themselves; even one that is stopped."""
    fleet = start_fleet(workers=3)
    client = fleet.connect()
    assert status_of(client.check(token=token())) == 200
    pids = fleet.pids()
    os.kill(pids[2], signal.SIGSTOP)
    wait_until(lambda: stopped(pids[2]), "it has stopped")  # else the kernel has nobody to wake
    os.kill(fleet.process.pid, signal.SIGKILL)
    wait_until(lambda: gone(pids), "all have ended", timeout=SLOW)
    ended = {line["worker"] for line in fleet.logged("stopped")}
    assert {0, 1} <= ended


def test_a_worker_whose_loop_hangs_ends_after_its_parent_too(
    tmp_path: Path, start_fleet: StartFleet
) -> None:
    """It can't see that the parent is gone; a thread of its own can."""
    (tmp_path / "sitecustomize.py").write_text(HANG_ON_SIGUSR1)
    fleet = start_fleet({"drain_timeout": "0s"}, PYTHONPATH=str(tmp_path))
    pids = fleet.pids()
    os.kill(pids[0], signal.SIGUSR1)
    wait_until(lambda: "hanging" in fleet.log_text(), "it hangs")
    os.kill(fleet.process.pid, signal.SIGKILL)
    wait_until(lambda: gone(pids), "all have ended", timeout=SLOW)


HANG_ON_SIGUSR1 = """\
import signal, sys

def hang(*_):
    print("hanging", file=sys.stderr, flush=True)
    while True:
        pass

signal.signal(signal.SIGUSR1, hang)
"""


def test_a_worker_that_hangs_holds_up_neither_metrics_nor_new_connections(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet()
    hung = fleet.signal(1, signal.SIGSTOP)
    try:
        started = time.monotonic()
        text = fleet.metrics()
        assert time.monotonic() - started < 4
        assert 'authz_worker_up{worker="0"} 1.0' in text
        assert 'authz_worker_up{worker="1"} 0.0' in text
        assert "authz_build_info{python" in text
        assert 'process_cpu_seconds_total{worker="1"}' not in text
        wait_until(lambda: fleet.logged("worker_hung"), "noticed", timeout=SLOW)
        workers = fleet.workers()
        assert [worker["up"] for worker in workers] == [True, False]
        assert workers[1]["status"] is None
        for _ in range(4):
            assert status_of(fleet.connect().check(token=token())) == 200
        assert fleet.connections() == [4, 0]
        assert fleet.http("/healthz").status_code == 200
        assert fleet.http("/readyz").status_code == 200
    finally:
        os.kill(hung, signal.SIGCONT)
    wait_until(lambda: fleet.workers()[1]["up"], "it answers again")
    assert fleet.logged("worker_recovered")
    assert fleet.restarts() == [0, 0]


def test_a_parent_that_was_stopped_does_not_blame_its_workers(start_fleet: StartFleet) -> None:
    """As when a machine sleeps: far more time than ticks went by."""
    fleet = start_fleet()
    pids = fleet.pids()
    fleet.process.freeze()
    time.sleep(1.5)
    fleet.process.thaw()
    wait_until(lambda: fleet.pids() == pids, "the same workers")
    assert not fleet.logged("worker_hung")


async def test_a_worker_that_hangs_for_good_is_killed(tmp_path: Path) -> None:
    """After so many pings that it didn't answer; here they come faster than in life."""
    settings = Settings.model_validate(
        {"issuers": [default_issuer(tmp_path)], "listen": ["unix:/x"]}
    )
    worker = WorkerProcess(
        0, settings.model_copy(update={"listen": []}), lambda: None, lambda _: None
    )
    try:
        await eventually(lambda: worker.serving, "serving", timeout=SLOW)
        worker.tick()
        assert worker.unanswered == 1
        await eventually(lambda: worker.unanswered == 0, "it answers")
        os.kill(worker.pid, signal.SIGSTOP)
        for _ in range(HUNG_TICKS):
            assert not worker.hung
            worker.tick()
        assert worker.hung
        assert not worker.takes_connections
        assert await worker.ask("status") is None
        for _ in range(KILL_TICKS - HUNG_TICKS):
            worker.tick()
        assert alive(worker.pid)
        worker.tick()
        assert await worker.wait() == -signal.SIGKILL
    finally:
        worker.kill()
        await worker.wait()


async def test_a_worker_that_does_not_come_up_in_time_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "START_LIMIT", 0.05)
    settings = Settings.model_validate({"issuers": [default_issuer(tmp_path)]})
    worker = WorkerProcess(0, settings, lambda: None, lambda _: None)
    assert await worker.wait() == -signal.SIGKILL
    assert not worker.serving


DIE_AS_WORKER = """\
import os, pathlib, sys

here = pathlib.Path(__file__).parent
if "authz.workers.worker" in sys.orig_argv:
    with (here / "starts").open("a") as starts:
        starts.write("x")
    if (here / "cursed").exists():
        os._exit(7)
"""


def starts(folder: Path) -> int:
    path = folder / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_workers_that_always_die_are_started_ever_less_often(tmp_path: Path) -> None:
    """Unhealthy and not ready meanwhile; connections wait, and are served in the end."""
    (tmp_path / "sitecustomize.py").write_text(DIE_AS_WORKER)
    (tmp_path / "cursed").touch()
    fleet = Fleet(tmp_path / "fleet", PYTHONPATH=str(tmp_path))
    fleet.process.start()
    try:
        wait_until(lambda: starts(tmp_path) >= 4, "twice each: the first restart comes at once")
        started = time.monotonic()
        wait_until(lambda: starts(tmp_path) >= 8, "two more of each", timeout=SLOW)
        assert time.monotonic() - started > 1.0  # 0.5 s and 1 s, and not as fast as it can
        wait_until(lambda: fleet.http("/healthz").status_code == 503, "unhealthy")
        assert fleet.http("/healthz").text == "no worker lives\n"
        assert fleet.http("/readyz").status_code == 503
        waits = [line["restart_in"] for line in fleet.logged("worker_ended") if line["worker"] == 0]
        assert waits[:3] == [0.0, 0.5, 1.0]
        assert fleet.logged("worker_ended")[0]["exit_code"] == 7
        assert fleet.metric("authz_worker_up") == 0
        answers: list[int] = []

        def ask() -> None:
            with CheckClient(fleet.socket, timeout=2 * SLOW) as client:
                answers.append(status_of(client.check(token=token())))

        asking = threading.Thread(target=ask)
        (tmp_path / "cursed").unlink()
        asking.start()
        wait_until(fleet.is_ready, "ready in the end", timeout=SLOW)
        asking.join()
        assert answers == [200]
        assert fleet.http("/healthz").status_code == 200
    finally:
        fleet.stop()


def test_a_worker_that_can_not_start_any_more_is_tried_again(start_fleet: StartFleet) -> None:
    """What ends the first start is no reason to end those who serve."""
    fleet = start_fleet()
    path = Path(fleet.settings["issuers"][0]["keys"]["jwks_file"])
    good = path.read_text()
    path.unlink()
    fleet.signal(0, signal.SIGKILL)
    wait_until(lambda: len(fleet.logged("worker_ended")) >= 2, "it failed", timeout=SLOW)
    line = fleet.logged("worker_ended")[1]
    assert line["exit_code"] == 2
    assert "jwks.json" in line["error"]
    assert status_of(fleet.connect().check(token=token())) == 200
    assert fleet.is_ready()
    path.write_text(good)
    wait_until(lambda: fleet.workers()[0]["up"], "it starts", timeout=SLOW)


def test_a_change_of_the_settings_file_does_not_divide_the_workers(
    start_fleet: StartFleet,
) -> None:
    """A worker that is restarted gets the settings its parent began with, as the others did."""
    fleet = start_fleet()
    fleet.config.write_text("no: settings\n")
    fleet.signal(0, signal.SIGKILL)
    fleet.until_restarted(0)
    assert fleet.restarts() == [1, 0]


def test_without_its_parent_a_worker_ends_at_once() -> None:
    """As when the parent dies while the worker starts: the channel is closed already."""
    import socket

    here, there = socket.socketpair()
    here.close()
    with there:
        outcome = subprocess.run(
            [sys.executable, "-m", "authz.workers.worker", str(there.fileno()), "0"],
            pass_fds=[there.fileno()],
            capture_output=True,
            check=False,
            timeout=60,
        )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, b"", b"")


def test_the_probes_are_answered_while_the_workers_start(tmp_path: Path) -> None:
    """`/healthz` must not have the container killed, and `/readyz` says what it waits for."""
    fleet = Fleet(tmp_path / "fleet")
    try:
        fleet.process.start()
        seen: list[tuple[int, int, str]] = []

        def ready() -> bool:
            try:
                health, readiness = fleet.http("/healthz"), fleet.http("/readyz")
            except httpx.HTTPError:
                return False
            seen.append((health.status_code, readiness.status_code, readiness.text))
            return readiness.status_code == 200

        wait_until(ready, "ready", timeout=SLOW)
        assert {health for health, _, _ in seen} == {200}
        assert {text for _, status, text in seen if status == 503} <= {"starting\n"}
    finally:
        fleet.stop()


def test_an_error_of_our_own_ends_the_parent_rather_than_its_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody restarts a process that ended; nobody would notice workers that nobody keeps."""

    def fail(keeper: Keeper) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Keeper, "tick", fail)
    settings = Settings.model_validate(
        {
            "issuers": [default_issuer(tmp_path)],
            "listen": [f"{LOOPBACK}:{free_port()}"],
            "http_listen": f"{LOOPBACK}:{free_port()}",
            "audit": {"path": tmp_path / "audit.jsonl"},
            "workers": 2,
        }
    )
    with pytest.raises(ZeroDivisionError):
        run(settings)
