"""The demo's child processes: started, watched, and ended without a trace."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from authz.cli.errors import CommandError
from authz.demo.signals import Signals
from authz.settings import ENV_PREFIX

LEASH = Path(__file__).with_name("leash.py")
GRACE = 12.0
"""Seconds between SIGTERM and SIGKILL; the sidecar promises to be gone within 10."""
POLL = 0.01
"""Seconds between two looks."""
LAST_WORDS = 600
"""Characters of a dead child's log that the error shows."""


class Child:
    """One program in a session of its own, so that Ctrl-C in the terminal is the demo's alone."""

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, stdin: Path = Path(os.devnull)
    ) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        with (
            stdin.open("rb") as given,
            self.output.open("ab") as output,
            self.log.open("ab") as log,
        ):
            self._process = subprocess.Popen(
                on_leash(command),
                stdin=given,
                stdout=output,
                stderr=log,
                cwd=folder,
                env=clean_environment(),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of what it wrote to stderr, else to stdout."""
        for path in (self.log, self.output):
            text = path.read_text(encoding="utf-8", errors="replace").strip()
            if text:
                return " ".join(text[-LAST_WORDS:].split())
        return "nothing"

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after GRACE, to all of its process group. The exit code."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
        return self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # Not yet reaped, so the id is still its own. macOS says EPERM where only a zombie is left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class Processes:
    """All children. Leaving the context ends them, the last started first."""

    def __init__(self, folder: Path, signals: Signals) -> None:
        self._folder = folder
        self._signals = signals
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._children:
            self._children.pop().stop()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """CommandError: the program can't be run at all."""
        try:
            child = Child(name, command, self._folder)
        except OSError as error:
            raise CommandError(f"{name} could not be started: {error.strerror}") from None
        self._children.append(child)
        return child

    def stop(self, child: Child) -> None:
        """End this one on purpose."""
        self._children.remove(child)
        child.stop()

    def check(self) -> None:
        """StopRequestedError: the demo was asked to end. CommandError: a child ended by itself."""
        self._signals.check()
        for child in self._children:
            code = child.exit_code
            if code is not None:
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                words = child.last_words()
                raise CommandError(f"{child.name} ended {how}; its last words: {words}")

    def wait_until(self, done: Callable[[], bool], what: str, timeout: float) -> float:
        """Seconds until `done` said yes. Raises as `check`; CommandError after `timeout` seconds.

        `what` completes "… did not happen": "the sidecar became ready".
        """
        start = time.monotonic()
        while True:
            self.check()
            if done():
                return time.monotonic() - start
            if time.monotonic() - start > timeout:
                raise CommandError(f"gave up after {timeout:g} s: {what} did not come true")
            time.sleep(POLL)

    def run(
        self, command: Sequence[str], *, stdin: Path = Path(os.devnull), timeout: float = 30.0
    ) -> str:
        """Run a program to its end; its output. CommandError: it failed. Raises as `check`."""
        name = shlex.join(command[1:4])  # without the program's path and the arguments
        child = Child("command", command, self._folder, stdin)
        try:
            start = time.monotonic()
            while child.exit_code is None:
                self.check()
                if time.monotonic() - start > timeout:
                    raise CommandError(f"`{name}` took over {timeout:g} s")
                time.sleep(POLL)
            if child.exit_code != 0:
                raise CommandError(f"`{name}` failed: {child.last_words()}")
            return child.output.read_text(encoding="utf-8")
        finally:
            child.stop()
            child.log.unlink()
            child.output.unlink()


def on_leash(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command]


def clean_environment() -> dict[str, str]:
    """Ours, less the settings of another sidecar that the reader may have exported."""
    return {
        name: value for name, value in os.environ.items() if not name.upper().startswith(ENV_PREFIX)
    }
