"""The load test: that it measures what it says, and cleans up. Never how fast anything is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.waiting import wait_until

REPOSITORY = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "loadtest"]
TIMEOUT = 120
"""Seconds: far more than any of these takes on a busy machine."""

pytestmark = [pytest.mark.needs_tool("h2load"), pytest.mark.needs_tool("wrk")]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path, as Unix sockets need."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def processes_that_mention(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended
        if str(folder) in command:
            found.append(command)
    return found


def test_a_short_run_measures_both_sides_and_every_answer_is_the_expected_one(
    temporary: Path,
) -> None:
    """Directly and through Envoy, allowed and denied; as tables, and as JSON in the folder."""
    results = temporary / "results"
    done = run(
        *("--seconds", "1", "--rounds", "1", "--results", str(results)),
        *("--only", "unix/denied", "--only", "unix-paced/ok-only", "--only", "envoy/warm-redis"),
        AUTHZ_FAIL_MODE="nonsense",  # another sidecar's settings are left alone
        TMPDIR=str(temporary),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for heading in ("requests/s", "x ok-only", "p50 ms", "p99.9 ms", "server µs", "Envoy µs"):
        assert heading in done.stdout
    assert "closed loop" in done.stdout
    assert "open loop" in done.stdout

    (file,) = results.iterdir()
    report = json.loads(file.read_text())
    entries: dict[str, dict[str, Any]] = {one["name"]: one for one in report["results"]}
    assert list(entries) == [
        *("unix/ok-only", "unix/denied"),
        "unix-paced/ok-only",
        *("envoy/ok-only", "envoy/warm-redis"),
    ]
    for name, entry in entries.items():
        assert entry["wrong"] == 0, name
        assert entry["requests_per_second"] > 0, name
        assert entry["server_us"] > 0, name
        assert (entry["envoy_us"] is not None) == name.startswith("envoy/")
        points = list(entry["latency_ms"].values())
        assert list(entry["latency_ms"]) == ["p50", "p90", "p99", "p99.9"]
        assert 0 < points[0] <= points[1] <= points[2] <= points[3], name
        assert entry["server_us_ratio"] == 1 or not name.endswith("/ok-only")
    assert not list(temporary.glob("authz-load-*"))
    assert not processes_that_mention(temporary)


def test_an_interrupted_run_leaves_no_process_and_no_folder(temporary: Path) -> None:
    """Ctrl-C in the middle: exit code 130."""
    command = [*COMMAND, "--results", str(temporary / "results"), "--only", "unix/warm"]
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(
                lambda: list(temporary.glob("authz-load-*/h2load.log")) or process.poll(),
                "load is put on",
                timeout=60,
            )
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors.strip().startswith("loadtest: interrupted")
    assert not list(temporary.iterdir())
    assert not processes_that_mention(temporary)


def test_a_missing_load_generator_is_named_with_its_debian_package() -> None:
    done = run(PATH="/nonexistent")
    assert done.returncode == 1
    assert done.stderr == (
        "loadtest: h2load and wrk not found; on Debian: apt install nghttp2-client wrk\n"
    )


def test_an_unknown_scenario_is_a_usage_error_that_lists_those_there_are() -> None:
    done = run("--only", "nonsense")
    assert done.returncode == 2
    assert "--only nonsense" in done.stderr
    assert "envoy/cold-redis" in done.stderr
