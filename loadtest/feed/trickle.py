"""Few checks, at random times: what a client sees of a sidecar that is busy with something else.

The specification has: `socket`, `path`, `body`, `rate` (a second, Poisson), `seconds` at most, and
`until`: a file whose appearance ends it sooner. A latency counts from when the check was due. One
JSON object goes to stdout.
"""

import asyncio
import gc
import json
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from authz.event_loop import loop_factory
from loadtest.feed.asker import Asker
from loadtest.feed.scripts import specification
from loadtest.pacer import poisson

GRACE = 10.0
"""Seconds that the last answers may take."""


class Trickle:
    def __init__(self, what: dict[str, Any]) -> None:
        self._what = what
        self._body = Path(what["body"]).read_bytes()
        self._until = Path(what["until"])
        self._left = 0
        self._over = asyncio.Event()
        self.latencies: list[int] = []
        """Microseconds."""
        self.late: list[int] = []
        """How long after its time a check was sent: this program's own error."""
        self.errors = 0

    async def run(self) -> None:
        asker = await Asker.connect(self._what["socket"], self._what["path"])
        start = time.monotonic()
        self._left = 1  # so that it isn't over before the last was sent
        for arrival in poisson(self._what["rate"], self._what["seconds"]):
            due = start + arrival
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            if self._until.exists():
                break
            self.late.append(int((time.monotonic() - due) * 1e6))
            self._left += 1
            asker.ask(self._body, partial(self._answered, due))
        self._settled()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._over.wait()
        self.errors += self._left

    def _answered(self, due: float, refused: bool | None, at: float) -> None:
        self.latencies.append(int((at - due) * 1e6))
        self.errors += refused is not False
        self._settled()

    def _settled(self) -> None:
        self._left -= 1
        if not self._left:
            self._over.set()


async def run(what: dict[str, Any]) -> dict[str, Any]:
    trickle = Trickle(what)
    gc.disable()
    await trickle.run()
    return {
        "latencies_us": trickle.latencies,
        "late_us": trickle.late,
        "errors": trickle.errors,
    }


def main() -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        json.dump(runner.run(run(specification())), sys.stdout)


if __name__ == "__main__":
    main()
