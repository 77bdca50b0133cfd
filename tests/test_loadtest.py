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
TIMEOUT = 240
"""Seconds: far more than any of these takes on a busy machine."""


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


@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.needs_tool("h2load")
@pytest.mark.needs_tool("wrk")
def test_a_short_run_of_every_kind_measures_and_every_answer_is_the_expected_one(
    temporary: Path,
) -> None:
    """Directly and through Envoy, allowed and denied, closed and open loop, one token and many,
    memory: as tables and plots, and as JSON in the folder.
    """
    results = temporary / "results"
    wanted = [
        *("unix/warm", "envoy/jwt-authn", "envoy/cold-cluster", "envoy/denied"),
        *("latency/warm@50", "headers/warm-all-headers@16", "tokens/room-for-all@1000", "memory"),
    ]
    done = run(
        *("--seconds", "1", "--rounds", "1", "--cached", "500", "--checks", "30000"),
        *("--results", str(results)),
        *(part for name in wanted for part in ("--only", name)),
        AUTHZ_FAIL_MODE="nonsense",  # another sidecar's settings are left alone
        TMPDIR=str(temporary),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for heading in ("requests/s", "x ok-only-native", "p99 ms", "server µs", "Envoy µs", "targets"):
        assert heading in done.stdout
    assert "closed loop" in done.stdout
    assert "open loop" in done.stdout

    (file,) = results.glob("*.json")
    report = json.loads(file.read_text())
    entries: dict[str, dict[str, Any]] = {one["name"]: one for one in report["results"]}
    assert list(entries) == [
        # each with what it is compared with
        *("envoy/jwt-authn", "envoy/ok-only-grpcio", "envoy/ok-only-native"),
        *("envoy/cold-cluster", "envoy/denied"),
        *("unix/warm-grpcio", "unix/warm"),
        *("latency/none@50", "latency/warm@50"),
        *("headers/warm@16", "headers/warm-all-headers@16"),
        "tokens/room-for-all@1000",
    ]
    for name, entry in entries.items():
        assert entry["wrong"] == 0, name
        assert entry["requests_per_second"] > 0, name
        decides_itself = entry["subject"] in {"none", "jwt-authn"}
        assert (entry["server_us"] is None) == decides_itself, name
        assert (entry["envoy_us"] is None) == (entry["scenario"] in {"unix", "tokens"}), name
        if entry["scenario"] != "tokens":
            points = list(entry["latency_ms"].values())
            assert list(entry["latency_ms"]) == ["p50", "p90", "p99", "p99.9"]
            assert 0 < points[0] <= points[1] <= points[2] <= points[3], name
    assert entries["envoy/ok-only-grpcio"]["server_us_ratio"] == 1
    assert entries["envoy/ok-only-native"]["requests_per_second_ratio"] == 1
    sample = entries["latency/warm@50"]["rounds"][0]
    assert sample["rate"] == pytest.approx(report["maximum"] / 2)
    assert sum(sample["histogram_us"].values()) == sample["requests"]
    # Envoy's CheckRequest carries the headers or leaves them away, and the sidecar sees which.
    with_all, without = (
        entries[f"headers/{name}@16"]["envoy_us"] for name in ("warm-all-headers", "warm")
    )
    assert with_all > 0 < without

    memory = report["memory"]
    assert memory["cached"] == 500
    assert memory["wrong"] == 0
    for reading in (*memory["rest"].values(), memory["full"], *memory["readings"]):
        assert reading["rss"] >= reading["pss"] >= reading["uss"] > 2**20
    met = {one["what"]: one["met"] for one in report["targets"]}
    assert None in met.values()  # what wasn't measured isn't said to be met
    assert met["resident memory at rest"] in {True, False}

    plots = {path.name for path in results.glob("*/*.svg")}
    assert {"cost.svg", "latency.svg", "growth.svg"} <= plots
    for path in results.glob("*/*.svg"):
        text = path.read_text()
        assert text.startswith("<?xml")
        assert "sans-serif" in text
        assert str(temporary) not in text
    again = temporary / "again"
    redraw = [sys.executable, "-m", "loadtest.plots", str(file), str(again)]
    subprocess.run(redraw, cwd=REPOSITORY, check=True, timeout=TIMEOUT, capture_output=True)
    for path in results.glob("*/*.svg"):
        assert (again / path.name).read_bytes() == path.read_bytes()
    assert not list(temporary.glob("authz-load-*"))
    assert not processes_that_mention(temporary)


@pytest.mark.needs_tool("h2load")
@pytest.mark.needs_tool("wrk")
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
    assert "cold-redis" in done.stderr


@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.needs_tool("h2load")
def test_a_short_run_of_the_feed_counts_every_refusal_and_every_command(temporary: Path) -> None:
    """Each revocation is refused by each sidecar, each was heard of, and Redis is asked about cold
    tokens without the feed only.
    """
    results = temporary / "results"
    amounts = ("--sidecars", "2", "--lag-seconds", "2", "--revocations", "3000", "--rounds", "1")
    names = ("feed-lag", "feed-million", "feed-cold", "feed-under-writes")
    done = run(
        *amounts,
        *("--results", str(results)),
        *(part for name in names for part in ("--only", name)),
        TMPDIR=str(temporary),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for name in names:
        assert f"{name}: " in done.stdout
    (file,) = results.glob("*.json")
    report = json.loads(file.read_text())
    found = report["feed"]
    lag, million, cold, writes = (found[name] for name in ("lag", "million", "cold", "writes"))

    assert lag["revoked"] > 100
    assert sum(lag["histogram_us"].values()) == 2 * lag["revoked"]
    assert sum(lag["heard"].values()) >= 2 * lag["revoked"]  # some are read and pushed
    assert 0 < sum(lag["own_lag"].values()) <= sum(lag["heard"].values())
    assert 0 < lag["lag_ms"]["p50"] <= lag["lag_ms"]["p99"] <= lag["lag_ms"]["max"]

    assert million["filter_entries"] == 3000
    assert million["filter_bytes"] > 3000
    assert million["cutoffs"]["users"] == 3000
    assert 0 < million["sync_seconds"] < million["start_seconds"]
    assert million["calm_ms"]["max"] > 0  # so few are read before anything can be asked meanwhile

    assert cold["commands_per_check"] == {"with the feed": 0, "without it": 1, "memory://": 0}
    assert writes["arrived"][0] > 0
    assert writes["failed"] == 0
    for costs in (*cold["costs"].values(), million["warm_full"], writes["busy"], writes["quiet"]):
        assert [cost["wrong"] for cost in costs] == [0]
        assert all(cost["requests"] > 0 and cost["server_us"] > 0 for cost in costs)

    met = {one["what"]: one["met"] for one in report["targets"]}
    assert met["a cold token with the feed live: commands that Redis gets"] is True
    assert met["3,000 revocations: the filter"] is True
    assert [path.name for path in results.glob("*/*.svg")] == ["feed.svg"]
    assert not list(temporary.glob("authz-load-*"))
    assert not processes_that_mention(temporary)
