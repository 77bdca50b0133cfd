"""A child process: started in its own session, logged to a file, and always ended."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from support.waiting import wait_until

LOG_TAIL_LINES = 25


class ProcessFailedError(RuntimeError):
    """The process ended, or was not ready in time. The text carries the end of its log."""


class ChildProcess:
    """One program. As a context manager it is stopped at the end, whatever happened."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Output of both streams is appended to `log`."""
        self.command = [str(part) for part in command]
        self.name = Path(self.command[0]).name
        self.log = log
        self.env = dict(env or {})
        """Added to the environment, at each start."""
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    def start(self, ready: Callable[[], object] | None = None, *, timeout: float = 15.0) -> None:
        """Start, also again after an end, and wait until `ready()` is true.

        `ready` may raise OSError, which means: not yet. ProcessFailedError: the process ended, or
        `timeout` seconds went by; it has been killed by then.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        self._frozen = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=self._cwd,
                start_new_session=True,
            )
        if ready is not None:
            self.wait_ready(ready, timeout=timeout)

    def wait_ready(self, ready: Callable[[], object], *, timeout: float = 15.0) -> None:
        """Wait until `ready()` is true. Fails as `start` does."""

        def ready_or_ended() -> bool:
            if not self.running:
                raise ProcessFailedError(self._report(f"ended with {self.returncode}"))
            with contextlib.suppress(OSError):
                return bool(ready())
            return False

        try:
            wait_until(ready_or_ended, "ready", timeout=timeout)
        except TimeoutError:
            self.kill()
            raise ProcessFailedError(self._report(f"not ready within {timeout:g} s")) from None
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def frozen(self) -> bool:
        return self._frozen and self.running

    @property
    def returncode(self) -> int | None:
        """The exit code; minus a signal's number where that ended it; None before."""
        return None if self._process is None else self._process.poll()

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal. Nothing happens when the process has ended."""
        if self._process is not None:
            self._process.send_signal(signal_number)  # polls first: never a recycled pid

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self.send(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        self.send(signal.SIGCONT)
        self._frozen = False

    def kill(self) -> None:
        """SIGKILL, and what it may have started with it."""
        if self._process is not None and self.running:
            # Its own session, so its own process group, whose id is its pid.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self, *, timeout: float = 10.0) -> int:
        """SIGTERM and, when it is still there after `timeout` seconds, SIGKILL. The exit code."""
        if self._process is None:
            return 0
        if self.running:
            self.thaw()
            self.send(signal.SIGTERM)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def wait(self, *, timeout: float = 10.0) -> int:
        """Wait for it to end by itself. The exit code; TimeoutError after `timeout` seconds."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(self._report(f"still running after {timeout:g} s")) from None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _report(self, what: str) -> str:
        tail = "\n".join(self.log_text().splitlines()[-LOG_TAIL_LINES:])
        return f"{self.name} {what}; the end of {self.log.name}:\n{tail or '(empty)'}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
