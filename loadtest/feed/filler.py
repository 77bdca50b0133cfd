"""Fills a store with revocations of tokens that nobody has, as fast as the script takes them.

The specification has: `settings` (of the store), `count` and `hours`: over how many hours from now
their expiries are spread. One JSON object goes to stdout.
"""

import asyncio
import json
import random
import secrets
import sys
import time
from typing import Any

from authz.event_loop import loop_factory
from authz.observe.logs import configure_logs
from authz.revocation.entry import TOKEN, Entry
from authz.revocation.record import Note
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.outage import Breaker
from authz.revocation.redis.script import ScriptRunner
from authz.revocation.redis.writer import MAX_ENTRIES, Writer
from authz.settings import LogSettings, Settings
from loadtest.feed.scripts import specification

IN_FLIGHT = 12
"""Calls of the script at once: a few for each node."""
DIGEST_BYTES = 32
"""As many as SHA-256 has; 43 characters of base64url."""
SOONEST = 600.0
"""Seconds from now to the first expiry: longer than a run."""


class Filler:
    def __init__(self, settings: Settings, hours: float) -> None:
        self._buckets = settings.store.buckets
        self._hours = hours
        self._dice = random.Random(0)
        self._nodes = Nodes(
            settings.store,
            make_breaker=lambda: Breaker(time.monotonic(), random.random),
            learn=_nobody,
            observe=_nobody,
        )
        self._writer = Writer(ScriptRunner(settings.store, self._nodes), settings.store.buckets)
        self._note = Note("load test", "loadtest", time.time()).dump()

    async def fill(self, count: int) -> None:
        """StoreError: a part could not be written."""
        if not await self._nodes.connect():
            raise SystemExit("the store does not answer")
        left = iter(range(0, count, MAX_ENTRIES))

        async def work() -> None:
            for begin in left:
                size = min(MAX_ENTRIES, count - begin)
                bucket = begin // MAX_ENTRIES % self._buckets
                await self._writer.write(bucket, [self._entry() for _ in range(size)])

        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(work())
        await self._nodes.aclose()

    def _entry(self) -> Entry:
        seconds = self._dice.uniform(SOONEST, self._hours * 3600)
        user, token = secrets.token_urlsafe(DIGEST_BYTES), secrets.token_urlsafe(DIGEST_BYTES)
        return Entry(TOKEN, user, token, 0, int((time.time() + seconds) * 1000), self._note)


def _nobody(*told: object) -> None:
    del told


async def run(what: dict[str, Any]) -> dict[str, Any]:
    filler = Filler(Settings(**what["settings"]), what["hours"])
    start = time.monotonic()
    await filler.fill(what["count"])
    return {"seconds": time.monotonic() - start}


def main() -> None:
    configure_logs(LogSettings(level="warning"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        json.dump(runner.run(run(specification())), sys.stdout)


if __name__ == "__main__":
    main()
