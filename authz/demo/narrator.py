"""What the demo says: colours and a spinner on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

LABEL_WIDTH = 8


class Narrator:
    """Writes to stdout. Nothing is wrapped: a printed command must stay one line."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """A spinner while something takes time; nothing where stdout isn't a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(Text(what, style="dim"), spinner="line"):
            yield

    def heading(self, text: str) -> None:
        self._line(Text(f"\n{text}", style="bold"))

    def started(self, what: str) -> None:
        self._line(Text.assemble("  ", ("ok", "green"), f"  {what}"))

    def step(self, number: int, title: str) -> None:
        self._line(Text.assemble("\n", (f"{number:>2}. {title}", "bold")))

    def fact(self, label: str, text: str) -> None:
        self._line(Text.assemble("    ", (label.ljust(LABEL_WIDTH), "cyan"), text))

    def passed(self) -> None:
        self._line(Text.assemble("    ", ("ok", "bold green")))

    def failed(self, why: str) -> None:
        self._line(Text.assemble("    ", ("FAILED", "bold red"), f"  {why}"))

    def said(self, text: str) -> None:
        self._line(Text(text))

    def commands(self, lines: Iterable[tuple[str, str]]) -> None:
        """Comments and commands, as a reader can paste them."""
        for comment, command in lines:
            self._line(Text(f"\n# {comment}", style="dim"))
            self._line(Text(command))

    def _line(self, text: Text) -> None:
        self._console.print(text)
        self._console.file.flush()
