"""The native server and the programs that people would ask it with."""

import re
import subprocess
from pathlib import Path

import pytest

from authz.settings import ListenTlsSettings
from support.capture import METHOD
from support.certificates import Certificates
from support.grpc import CheckClient
from support.http2_client import framed
from support.serving import LOOPS, ServerThread
from support.waiting import wait_until


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_grpcio(loop: str) -> None:
    with ServerThread(loop=loop) as running, CheckClient(running.address) as client:
        for size in (0, 1, 1000, 100_000, 4_000_000):
            assert client.check_bytes(bytes(size)) == bytes(size)


@pytest.mark.needs_tool("curl")
def test_curl(loop: str, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(framed(b"hello"))
    with ServerThread(loop=loop) as running:
        output = run(
            *("curl", "--silent", "--show-error", "--http2-prior-knowledge", "--include"),
            *(*GRPC, "--data-binary", f"@{tmp_path}/body"),
            *("--output", tmp_path / "answer", "--write-out", "%{http_version} %{http_code}"),
            f"http://{running.address}{METHOD}",
        )
    assert output == "2 200"
    answer = (tmp_path / "answer").read_bytes()
    assert framed(b"hello") in answer
    assert b"grpc-status: 0" in answer


@pytest.mark.needs_tool("curl")
def test_curl_that_forgets_grpc_is_told_by_http(loop: str) -> None:
    command = ("curl", "--silent", "--http2-prior-knowledge", "--write-out", "%{http_code}")
    with ServerThread(loop=loop) as running:
        assert run(*command, f"http://{running.address}/") == "405"
        assert run(*command, "--data", "{}", f"http://{running.address}{METHOD}") == "415"


@pytest.mark.needs_tool("curl")
def test_curl_by_tls(loop: str, certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(framed(b"hello"))
    tls = ListenTlsSettings(cert_file=certificates.server, key_file=certificates.server_key)
    with ServerThread(loop=loop, tls=tls) as running:
        output = run(
            *("curl", "--silent", "--show-error", "--cacert", certificates.ca, "--http2"),
            *(*GRPC, "--data-binary", f"@{tmp_path}/body", "--output", tmp_path / "answer"),
            *("--write-out", "%{http_version}", f"https://{running.address}{METHOD}"),
        )
    assert output == "2"
    assert (tmp_path / "answer").read_bytes() == framed(b"hello")


@pytest.mark.needs_tool("nghttp")
def test_nghttp(loop: str, tmp_path: Path) -> None:
    """It prints every frame, and complains of those that aren't right."""
    (tmp_path / "body").write_bytes(framed(b"x" * 40_000))
    with ServerThread(loop=loop) as running:
        output = run(
            *("nghttp", "--verbose", "--null-out", "--no-dep", "--multiply=5", *GRPC),
            *(f"--data={tmp_path}/body", f"http://{running.address}{METHOD}"),
        )
        wait_until(lambda: running.server.connections == 0, "it has gone")
        assert running.server.counters.faults == {}
    assert len(re.findall(r"grpc-status: 0", output)) == 5
    assert "INVALID" not in output


@pytest.mark.needs_tool("h2load")
@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_h2load(
    loop: str, where: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "body").write_bytes(framed(b"x" * 900))
    path = tmp_path_factory.mktemp("s") / "s"
    listen = ("127.0.0.1:0",) if where == "tcp" else (f"unix:{path}",)
    with ServerThread(loop=loop, listen=listen) as running:
        host = running.address if where == "tcp" else "localhost"
        base = () if where == "tcp" else ("--base-uri", running.address)
        output = run(
            *("h2load", "--requests=5000", "--clients=10", "--max-concurrent-streams=50"),
            *(*GRPC, f"--data={tmp_path}/body", *base, f"http://{host}{METHOD}"),
        )
        assert running.server.counters.calls()["OK"] == 5000
        assert running.server.counters.faults == {}
    assert "5000 succeeded, 0 failed, 0 errored" in output
    assert "5000 2xx" in output
