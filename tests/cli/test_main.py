"""The entry point: which commands there are, and how any of them ends."""

import io
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from authz import __version__
from authz.cli import main as entry
from authz.cli.errors import CommandError
from authz.settings import SettingsError

Ended = tuple[int, str, str]
Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["authz", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            entry.main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command(run: Run, flag: str) -> None:
    code, out, err = run(flag)
    assert (code, err) == (0, "")
    for command in entry.COMMANDS:
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", entry.COMMANDS)
def test_every_command_helps_with_an_example(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    group = "Commands:" in out
    assert group or "Example" in out, f"authz {command} --help shows no example"


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"authz {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("nothing",), ("--nothing",), ("config", "--nothing")])
def test_wrong_usage_is_one_line_and_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("authz: ")
    assert "--help" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CommandError("it failed\nbadly"), 1, "authz: it failed badly\n"),
        (SettingsError("x: is wrong"), 2, "authz: x: is wrong\n"),
        (click.UsageError("give more"), 2, "authz: give more\n"),
        (KeyboardInterrupt(), 130, "authz: interrupted\n"),
        (click.Abort(), 130, "authz: interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_every_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", fail)
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == code
    assert printed.closed if isinstance(error, BrokenPipeError) else printed.getvalue() == text


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "authz", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"authz {__version__}\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    program = f"{sys.executable} -m authz --help | head -c 1"
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
