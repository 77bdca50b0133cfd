"""Asks sidecars about tokens that are being revoked, until each refuses.

Before it is revoked, each token is shown to each sidecar, which must let it through. From the
moment that `revoker.py` says it has its acknowledgement, each sidecar is asked at once and then at
the times `AT_MS`, one question at a time, until it refuses. What counts is when the refusal was
here, so it is an upper bound: late by the pause between two questions, the time of an answer, and
whatever this program was late by itself, which is reported, too.

The specification has: `sockets` of the sidecars and the `path` to ask for, `body`, `token` and
`template` as for `sender.py`, `rate`, `seconds`, `start` as for `revoker.py`, and `listen`, where
that one tells. One JSON object goes to stdout.
"""

import asyncio
import gc
import json
import math
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from authz.event_loop import loop_factory
from loadtest.feed.asker import Asker
from loadtest.feed.revoker import ACKNOWLEDGED
from loadtest.feed.scripts import specification
from loadtest.pacer import poisson
from loadtest.sender import NO_TOKENS, Mint

AT_MS = (*range(10), *(round(10 * 1.2**step) for step in range(35)))
"""When a sidecar is asked, from the acknowledgement on: each millisecond, then each time a fifth
later, up to 4.9 s; after the last it counts as never refusing."""
SHOWN_BEFORE = 0.5
"""Seconds before its revocation is due that a token is shown."""
GRACE = AT_MS[-1] / 1000 + 5.0
"""Seconds after the last revocation in which answers still count."""


class Chase:
    """One token at one sidecar."""

    __slots__ = ("_acknowledged", "_asker", "_body", "_book", "_due", "_sent", "_settled", "_step")

    def __init__(
        self,
        book: "Book",
        asker: Asker,
        body: bytes,
        acknowledged: float,
        settled: Callable[[], None],
    ) -> None:
        self._book = book
        self._asker = asker
        self._body = body
        self._acknowledged = acknowledged
        self._settled = settled
        self._step = 0
        self._due = acknowledged
        self._sent = 0.0

    def ask(self) -> None:
        self._sent = time.monotonic()
        self._asker.ask(self._body, self._answered)

    def _answered(self, refused: bool | None, at: float) -> None:
        if refused:
            self._book.refused(at - self._acknowledged, self._sent - self._due, at - self._sent)
            self._book.at_first += self._step == 0
            self._settled()
            return
        self._step += 1
        if refused is None or self._step == len(AT_MS):
            self._book.never += 1
            self._settled()
            return
        self._due = max(self._acknowledged + AT_MS[self._step] / 1000, at)
        loop = asyncio.get_running_loop()
        loop.call_later(max(0.0, self._due - time.monotonic()), self.ask)


class Book:
    """What was seen. Times in microseconds."""

    def __init__(self) -> None:
        self.lags: list[int] = []
        """From an acknowledgement to a refusal."""
        self.late: list[int] = []
        """How long after its time the question was sent that was refused: this program's error."""
        self.answers: list[int] = []
        """From that question to its answer."""
        self.at_first = 0
        """Refusals of the first question, which is sent as the acknowledgement is heard of."""
        self.never = 0
        self.acknowledged = 0
        self.shown = 0
        self.wrong = 0
        """Tokens that were refused before they were revoked, or not answered."""

    def refused(self, lag: float, late: float, answer: float) -> None:
        self.lags.append(int(lag * 1e6))
        self.late.append(int(late * 1e6))
        self.answers.append(int(answer * 1e6))

    def showed(self, refused: bool | None, at: float) -> None:
        del at
        self.shown += 1
        self.wrong += refused is not False


class Prober:
    def __init__(self, what: dict[str, Any]) -> None:
        self._what = what
        self._arrivals = poisson(what["rate"], what["seconds"])
        self._mint = Mint(what["template"]["claims"], Path(what["template"]["secret"]).read_bytes())
        token = what["token"].encode()
        self._length = len(token)
        self._before, _, self._after = Path(what["body"]).read_bytes().partition(token)
        self._askers: list[Asker] = []
        self._unheard = len(self._arrivals)
        self._over = asyncio.Event()
        self.book = Book()

    async def run(self) -> None:
        what = self._what
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(what["listen"])
        listener.setblocking(False)
        loop.add_reader(listener, partial(self._hear, listener))
        self._askers = [await Asker.connect(one, what["path"]) for one in what["sockets"]]
        for number, arrival in enumerate(self._arrivals):
            due = what["start"] + arrival - SHOWN_BEFORE
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            body = self._body(number)
            for asker in self._askers:
                asker.ask(body, self.book.showed)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._over.wait()
        loop.remove_reader(listener)
        listener.close()
        for asker in self._askers:
            asker.close()

    def _settled(self) -> None:
        settled = len(self.book.lags) + self.book.never
        if not self._unheard and settled == self.book.acknowledged * len(self._askers):
            self._over.set()

    def _hear(self, listener: socket.socket) -> None:
        while True:
            try:
                number, at = ACKNOWLEDGED.unpack(listener.recv(ACKNOWLEDGED.size))
            except BlockingIOError:
                return
            self._unheard -= 1
            if math.isnan(at):
                continue  # it was not
            self.book.acknowledged += 1
            body = self._body(number)
            for asker in self._askers:
                Chase(self.book, asker, body, at, self._settled).ask()

    def _body(self, number: int) -> bytes:
        token = self._mint.token(number)
        if len(token) != self._length:
            raise SystemExit(NO_TOKENS)
        return self._before + token + self._after


async def run(what: dict[str, Any]) -> dict[str, Any]:
    prober = Prober(what)
    gc.disable()
    await prober.run()
    book = prober.book
    return {
        "acknowledged": book.acknowledged,
        "shown": book.shown,
        "lags_us": book.lags,
        "late_us": book.late,
        "answers_us": book.answers,
        "at_first": book.at_first,
        "never": book.never,
        "wrong": book.wrong,
    }


def main() -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        json.dump(runner.run(run(specification())), sys.stdout)


if __name__ == "__main__":
    main()
