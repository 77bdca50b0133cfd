"""Revokes tokens when they are due, each by itself, as `authz revoke` does.

An open loop: revocations start when they are due (Poisson), however long the ones before take. The
specification has: `settings` (of the store), `template` (the claims of `sender.py`'s tokens),
`rate` (a second), `seconds`, and where they are wanted `start` (monotonic seconds), `first` (the
number of the first token) and `tell` (a Unix datagram socket that gets `ACKNOWLEDGED` for each).
When all are written it waits for SIGTERM; then one JSON object goes to stdout.
"""

import asyncio
import gc
import json
import math
import signal
import socket
import struct
import sys
import time
from typing import Any

from authz.event_loop import loop_factory
from authz.observe.logs import configure_logs
from authz.revocation.open import open_store
from authz.revocation.record import Note, bucket_of, token_digest, user_digest
from authz.revocation.store import RevocationStore, StoreError, TokenRevocation
from authz.settings import LogSettings, Settings
from loadtest.feed.scripts import specification
from loadtest.pacer import poisson

ACKNOWLEDGED = struct.Struct("<Id")
"""The number of a token, and when its revocation was acknowledged: monotonic seconds, which all
processes of a machine share. NaN: it was not."""
NOTE = "load test"


class Revocations:
    """The token of each number, as a revocation."""

    def __init__(self, claims: str, buckets: int) -> None:
        self._claims = claims
        self._buckets = buckets

    def of(self, number: int) -> TokenRevocation:
        claims = json.loads(self._claims % (number, number))
        issuer, subject = claims["iss"], claims["sub"]
        return TokenRevocation(
            token_digest(issuer, claims["jti"], b""),
            user_digest(issuer, subject),
            bucket_of(issuer, subject, self._buckets),
            claims["exp"],
            Note(NOTE, "loadtest", time.time()),
        )


class Revoker:
    def __init__(self, what: dict[str, Any], store: RevocationStore, buckets: int) -> None:
        self._revocations = Revocations(what["template"], buckets)
        self._first = what.get("first", 0)
        self._arrivals = poisson(what["rate"], what["seconds"])
        self._start = what.get("start")
        self._tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener = what.get("tell")
        self._store = store
        self.took: list[int] = []
        """Microseconds from the start of a revocation to its acknowledgement."""
        self.late: list[int] = []
        """Microseconds that a revocation began after it was due."""
        self.failed = 0

    async def run(self) -> None:
        """Write all of them."""
        start = self._start or time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number, arrival in enumerate(self._arrivals, self._first):
                due = start + arrival
                if (left := due - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                tasks.create_task(self._revoke(number, due))

    async def _revoke(self, number: int, due: float) -> None:
        began = time.monotonic()
        try:
            await self._store.revoke_token(self._revocations.of(number))
            at = time.monotonic()
        except StoreError:
            at = math.nan
            self.failed += 1
        if self._listener is not None:
            self._tell.sendto(ACKNOWLEDGED.pack(number, at), self._listener)
        self.late.append(int((began - due) * 1e6))
        if not math.isnan(at):
            self.took.append(int((at - began) * 1e6))


async def run(what: dict[str, Any]) -> dict[str, Any]:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    settings = Settings(**what["settings"])
    store = open_store(settings)
    revoker = Revoker(what, store, settings.store.buckets)
    gc.disable()  # nothing here lives long
    writing = loop.create_task(revoker.run())
    await asyncio.wait(
        {writing, stop := loop.create_task(stopping.wait())}, return_when=asyncio.FIRST_COMPLETED
    )
    if writing.done():
        writing.result()
        await stop
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await store.aclose()
    return {"took_us": revoker.took, "late_us": revoker.late, "failed": revoker.failed}


def main() -> None:
    configure_logs(LogSettings(level="warning"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        json.dump(runner.run(run(specification())), sys.stdout)


if __name__ == "__main__":
    main()
