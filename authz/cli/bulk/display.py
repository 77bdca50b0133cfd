"""What a person sees meanwhile: a bar where stderr is a terminal, else failures only."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from authz.cli.bulk.checkpoint import Tally

MAX_FAILURES_SHOWN = 10
"""One by one. The file of failed lines has them all."""


class Display:
    """On stderr. No token is shown, nor any other part of a line."""

    def __init__(self, size: int | None, offset: int, console: Console | None = None) -> None:
        """`size` of the file in bytes, None where nobody knows; `offset`: what was read before."""
        self._console = console or Console(
            stderr=True, highlight=False, markup=False, soft_wrap=True
        )
        self._shown = 0
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[lines]:,} lines", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[speed]:,.0f}/s", markup=False),
                TextColumn("{task.fields[told]}", markup=False),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(
                "", total=size, completed=offset, lines=0, speed=0.0, told=""
            )

    def update(self, offset: int, tally: Tally, speed: float) -> None:
        """`speed` in lines a second."""
        if self._bar is not None:
            replicas = "" if tally.replicas is None else f"{tally.replicas} replica(s)"
            failed = f"{tally.failed:,} failed" if tally.failed else ""
            told = ", ".join(filter(None, (replicas, failed)))
            self._bar.update(
                self._task, completed=offset, lines=tally.lines, speed=speed, told=told
            )

    def failed(self, number: int, why: str) -> None:
        """A line could not be revoked."""
        self._shown += 1
        if self._shown <= MAX_FAILURES_SHOWN:
            self.say(f"line {number}: {why}")
        elif self._shown == MAX_FAILURES_SHOWN + 1:
            self.say("more lines failed")

    def say(self, text: str) -> None:
        self._console.print(text)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
