"""Several workers are one sidecar towards Envoy and Prometheus."""

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from workers.conftest import StartFleet

from authz.cli.main import app
from authz.observe import names
from support import http
from support.capture import METHOD
from support.certificates import Certificates
from support.envoy import Envoy
from support.fleet import SLOW, Fleet, children_of
from support.grpc import check_request, status_of
from support.jwks import claims, jwk, jwks, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, Sidecar
from support.upstream import Upstream
from support.waiting import wait_until


def token(**overrides: Any) -> str:
    return sign(claims(**overrides), rsa_key(), kid=KID)


def test_connections_are_spread_evenly_over_all_workers(start_fleet: StartFleet) -> None:
    """Whatever address they come to; those that end make room; and each is served."""
    fleet = start_fleet(workers=3)
    by_file = [fleet.connect() for _ in range(6)]
    by_port = [fleet.connect(fleet.address) for _ in range(6)]
    for client in by_file + by_port:
        assert status_of(client.check(token=token())) == 200
    assert fleet.connections() == [4, 4, 4]
    checks = [
        fleet.metric("authz_checks_total", worker=str(worker), verdict="allow")
        for worker in range(3)
    ]
    assert checks == [4, 4, 4]
    for client in by_file:
        client.close()
    wait_until(lambda: sum(fleet.connections()) == 6, "the closed ones are known to be gone")
    for _ in range(3):
        assert status_of(fleet.connect().check(token=token())) == 200
    assert sorted(fleet.connections()) == [3, 3, 3]


def test_connections_one_after_the_other_go_round(fleet: Fleet) -> None:
    """Such as health checks, each on a connection of its own: no worker gets all of them."""

    def accepted() -> list[float]:
        name = "authz_connections_accepted_total"
        return [fleet.metric(name, worker=str(worker)) for worker in (0, 1)]

    before = accepted()
    for _ in range(6):
        with fleet.connect() as client:
            assert client.health() == "SERVING"
        wait_until(lambda: sum(fleet.connections()) == 0, "closed")
    assert [after - first for after, first in zip(accepted(), before, strict=True)] == [3, 3]


def test_the_real_envoy_spreads_its_threads_over_the_workers(
    start_fleet: StartFleet, tmp_path: Path, upstream: Upstream
) -> None:
    fleet = start_fleet()
    envoy = Envoy.for_sidecar(tmp_path / "envoy", sidecar=fleet.socket, upstream_port=upstream.port)
    command = envoy.process.command
    command[command.index("--concurrency") + 1] = "2"
    with envoy:
        answers: list[int] = []

        def asked_by_both_threads() -> bool:
            """The kernel deals new connections out to the threads, by their port numbers."""
            answers.extend(http.request(envoy.port, token=token()).status for _ in range(10))
            return fleet.connections() == [1, 1]

        wait_until(asked_by_both_threads, "a connection of each thread, at a worker of its own")
        assert set(answers) == {200}
        assert http.request(envoy.port).status == 401


def test_tls_ends_in_the_workers(start_fleet: StartFleet, certificates: Certificates) -> None:
    fleet = start_fleet(
        {
            "listen_tls": {
                "cert_file": str(certificates.server),
                "key_file": str(certificates.server_key),
            }
        }
    )
    assert status_of(fleet.client.check(token=token())) == 200  # the Unix socket stays as it is
    credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes())
    for _ in range(3):
        with grpc.secure_channel(
            f"localhost:{fleet.port}", credentials, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            assert check(bytes(check_request(token=token())), timeout=10)
    with fleet.connect(fleet.address) as plain, pytest.raises(grpc.RpcError):
        plain.check(token=token())
    wait_until(lambda: sum(fleet.connections()) == 1, "those that failed are not counted either")


def test_a_hangup_reaches_every_worker(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    clients = [fleet.connect() for _ in range(2)]
    new = rsa_key("new")
    with_new = sign(claims(), new, kid="new")
    assert [status_of(client.check(token=with_new)) for client in clients] == [401, 401]
    assert fleet.connections() == [1, 1]
    path = Path(fleet.settings["issuers"][0]["keys"]["jwks_file"])
    path.write_text(jwks(jwk(rsa_key(), KID), jwk(new, "new")))
    fleet.reload()
    wait_until(
        lambda: [status_of(client.check(token=with_new)) for client in clients] == [200, 200],
        "the new key at both",
    )
    assert len(fleet.logged("reloading")) == 3  # the parent's and theirs


def test_each_worker_keeps_an_audit_of_its_own(start_fleet: StartFleet) -> None:
    """A record is in the file of the worker that made it, numbered there without a gap."""
    store = {"url": f"redis://{LOOPBACK}:{free_port()}"}
    fleet = start_fleet({"store": store})
    clients = [fleet.connect() for _ in range(2)]
    for round_ in range(5):
        for number, client in enumerate(clients):
            answer = client.check(token=token(), request_id=f"{number}-{round_}")
            assert status_of(answer) == 200
    assert fleet.connections() == [1, 1]
    records = [fleet.worker_audit(worker) for worker in (0, 1)]
    assert [[one["seq"] for one in worker] for worker in records] == [[1, 2, 3, 4, 5]] * 2
    for worker in records:
        assert len({one["instance"] for one in worker}) == 1
        assert len({one["request_id"][0] for one in worker}) == 1
    assert not fleet.audit_path.exists()
    for path in sorted(fleet.audit_path.parent.glob("audit.worker-*.jsonl")):
        run = CliRunner().invoke(app, ["audit", "verify", str(path)], standalone_mode=False)
        assert run.return_value == 0
    both = [str(path) for path in sorted(fleet.audit_path.parent.glob("audit.worker-*.jsonl"))]
    run = CliRunner().invoke(app, ["audit", "verify", *both], standalone_mode=False)
    assert run.return_value == 0
    assert run.output.endswith("10 record(s) of 2 start(s) of a sidecar: whole\n")


def test_metrics_of_all_workers_are_on_one_page(fleet: Fleet) -> None:
    with fleet.connect() as client:
        client.check(token=token())
        assert fleet.metric("authz_worker_connections") == 1
    for worker in ("0", "1"):
        assert fleet.metric("authz_worker_up", worker=worker) == 1
        assert fleet.metric("authz_build_info", worker=worker, transport="native") == 1
        assert fleet.metric("process_resident_memory_bytes", worker=worker) > 10_000_000
    assert fleet.metric("process_resident_memory_bytes", worker="parent") > 10_000_000
    assert fleet.metric("authz_worker_restarts_total") == 0
    assert fleet.metric("authz_checks_total") == 1
    text = fleet.metrics()
    for metric in (*names.METRICS, *names.WORKER_METRICS):
        assert text.count(f"# HELP {metric.name} ") == 1


def test_openmetrics_of_all_workers_can_be_read(fleet: Fleet) -> None:
    accept = {"accept": "application/openmetrics-text;version=1.0.0"}
    url = f"http://{LOOPBACK}:{fleet.http_port}/metrics"
    answer = httpx.get(url, headers=accept, trust_env=False)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    found = {family.name for family in families}
    assert {"authz_checks", "authz_worker_restarts", "process_cpu_seconds"} <= found


@pytest.mark.needs_tool("promtool")
def test_promtool_finds_nothing_to_object_to(fleet: Fleet) -> None:
    outcome = subprocess.run(
        ["promtool", "check", "metrics"],
        input=fleet.metrics().encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, b"", b"")


def test_status_tells_of_each_worker(fleet: Fleet) -> None:
    status = fleet.status()
    assert status["ready"] is True
    assert status["listen"] == fleet.settings["listen"]
    assert [worker["worker"] for worker in status["workers"]] == [0, 1]
    assert set(fleet.pids()) == children_of(fleet.process.pid)
    for number, worker in enumerate(status["workers"]):
        assert worker["up"] is True
        assert worker["status"]["audit"]["path"].endswith(f"audit.worker-{number}.jsonl")


def test_log_lines_say_which_worker_wrote_them(fleet: Fleet) -> None:
    assert sorted(str(line.get("worker")) for line in fleet.logged("serving")) == ["0", "1", "None"]


@pytest.mark.parametrize(("setting", "flag", "children"), [(1, 2, 2), (2, 1, 0), (1, None, 0)])
def test_the_flag_overrides_the_setting_and_one_is_one_process(
    tmp_path: Path, setting: int, flag: int | None, children: int
) -> None:
    sidecar = Fleet(tmp_path, workers=setting)
    if flag is not None:
        sidecar.process.command.extend(["--workers", str(flag)])
    with sidecar:
        assert len(children_of(sidecar.process.pid)) == children
        assert status_of(sidecar.client.check(token=token())) == 200
        assert ("workers" in sidecar.status()) == bool(children)


def refused(tmp_path: Path, change: Callable[[Sidecar], None], **settings: Any) -> str:
    """The last line of a start that must fail with exit code 2, in time."""
    fleet = Fleet(tmp_path, settings)
    change(fleet)
    try:
        fleet.process.start()
        assert fleet.process.wait(timeout=SLOW) == 2
        assert not Path(fleet.socket.removeprefix("unix:")).exists()
        lines = fleet.log_text().splitlines()
        assert [line for line in lines if not line.startswith("{")] == lines[-1:]
        return lines[-1]
    finally:
        fleet.close()


def test_a_key_file_that_is_not_there_ends_the_start_in_one_line(tmp_path: Path) -> None:
    """Found by the workers, told by the parent, once."""

    def remove(fleet: Sidecar) -> None:
        Path(fleet.settings["issuers"][0]["keys"]["jwks_file"]).unlink()

    line = refused(tmp_path, remove)
    assert line.startswith("authz: ")
    assert "jwks.json" in line


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
def test_an_address_that_is_taken_ends_the_start_in_one_line(tmp_path: Path, setting: str) -> None:
    with Sidecar(tmp_path / "first") as first:
        address = first.address if setting == "listen" else f"{LOOPBACK}:{first.http_port}"
        taken = [address] if setting == "listen" else address
        line = refused(tmp_path / "second", lambda _: None, **{setting: taken})
    assert line == f"authz: {setting}: {address}: Address already in use"


def test_what_can_not_be_shared_ends_the_start_in_one_line(tmp_path: Path) -> None:
    line = refused(tmp_path, lambda _: None, audit={"path": "/dev/stdout"})
    assert line.startswith("authz: audit.path: /dev/stdout: each worker writes a file of its own")


def test_the_parent_carries_none_of_the_weight_of_a_worker() -> None:
    """It reads no token and asks no store."""
    program = "import sys, authz.workers.supervisor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"cryptography", "jwt", "redis", "grpc", "httpx", "hpack", "authz.sidecar"}
    assert not heavy & set(loaded)


def test_connections_that_wait_for_the_start_are_spread_too(tmp_path: Path) -> None:
    """The worker that is up first doesn't get all of them."""
    fleet = Fleet(tmp_path)
    with ExitStack() as stack:
        stack.callback(fleet.stop)

        def dial() -> bool:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(fleet.socket.removeprefix("unix:"))
            return True

        fleet.process.start(dial)
        assert all(dial() for _ in range(3))
        assert not fleet.is_ready()
        fleet.process.wait_ready(fleet.is_ready, timeout=SLOW)
        wait_until(lambda: fleet.connections() == [2, 2], "spread")
