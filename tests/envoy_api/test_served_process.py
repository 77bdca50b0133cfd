"""The sidecar as a process: its socket after a kill, bad bytes, a port in use, SIGTERM."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from conftest import StartSidecar

from support.grpc import CheckClient, check_request, status_of
from support.jwks import claims, rsa_key, sign
from support.process import ProcessFailedError
from support.sidecar import KID, Sidecar
from support.waiting import wait_until


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """For tests that leave it as it was."""
    with Sidecar(tmp_path_factory.mktemp("sidecar")) as sidecar:
        yield sidecar


def good_token() -> str:
    return sign(claims(), rsa_key(), kid=KID)


def test_a_killed_sidecars_socket_is_taken_over_by_the_next(start_sidecar: StartSidecar) -> None:
    sidecar = start_sidecar()
    path = Path(sidecar.socket.removeprefix("unix:"))
    sidecar.process.kill()
    assert path.is_socket()
    sidecar.process.start(sidecar.is_ready)
    with CheckClient(sidecar.socket) as client:
        assert status_of(client.check(token=good_token())) == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_bytes_that_are_no_request_leave_the_sidecar_as_it_was(sidecar: Sidecar) -> None:
    for data in (b"\xff" * 100, b"\x0a\xff", os.urandom(64) + b"\xff", b"\x0a" * 1_000_001):
        with pytest.raises(grpc.RpcError) as caught:
            sidecar.client.check_bytes(data)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert status_of(sidecar.client.check(token=good_token())) == 200
    assert status_of(sidecar.client.check(check_request())) == 401
    assert sidecar.client.health() == "SERVING"
    assert "Traceback" not in sidecar.log_text()


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
def test_a_second_sidecar_on_the_same_port_ends_with_one_line(
    sidecar: Sidecar, tmp_path: Path, setting: str
) -> None:
    value = {"listen": [sidecar.address], "http_listen": sidecar.settings["http_listen"]}[setting]
    second = Sidecar(tmp_path / "second", {setting: value})
    try:
        with pytest.raises(ProcessFailedError, match="ended with 2"):
            second.process.start(lambda: False)
        lines = [line for line in second.log_text().splitlines() if not line.startswith("{")]
        assert len(lines) == 1, lines
        assert f"{setting}: " in lines[0]
        assert "in use" in lines[0]
    finally:
        second.close()
    assert sidecar.client.health() == "SERVING"


def test_sigterm_says_not_serving_and_ends_with_0(start_sidecar: StartSidecar) -> None:
    sidecar = start_sidecar()
    states = sidecar.client.watch_health()
    assert next(states) == "SERVING"
    sidecar.process.send(signal.SIGTERM)
    assert next(states) == "NOT_SERVING"
    assert sidecar.process.wait() == 0
    wait_until(
        lambda: not Path(sidecar.socket.removeprefix("unix:")).exists(), "the socket is gone"
    )
