"""Word that signing keys were withdrawn: left in every bucket's tip, where all who follow look.

It is a number. Who sees another one than before fetches its keys anew, at once; the number says
nothing of which keys.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import count

import structlog

from authz.observe import events
from authz.revocation.feed.news import KEYS, KeysNews, announced
from authz.revocation.record import tip_key
from authz.revocation.redis.script import Script, ScriptRunner
from authz.revocation.store import StoreError

POLL = 1.0
"""Seconds between two looks of `follow`: a sidecar looks as often."""

JITTER = 0.2
"""Of that pause, lest the processes ask in step."""

_SCRIPT = Script.of_files(("authz.revocation.redis", "announce.lua"))

log = structlog.get_logger(__name__)


class Announcements:
    """To and from all buckets of one store."""

    def __init__(self, scripts: ScriptRunner, buckets: int) -> None:
        self._scripts = scripts
        self._buckets = buckets

    async def announce(self, now: float) -> None:
        """Tell everybody. `now`: seconds since 1970. StoreError: not every bucket took it. Those
        that did are heard all the same; repeating it is safe.
        """
        await self._leave(round(now * 1000), "new")

    async def pass_on(self, number: int) -> None:
        """Tell what was told in another store. StoreError as above."""
        await self._leave(number, "known")

    async def _leave(self, number: int, how: str) -> None:
        told = await asyncio.gather(
            *(
                self._scripts.run(bucket, _SCRIPT, [tip_key(bucket)], [number, how])
                for bucket in range(self._buckets)
            ),
            return_exceptions=True,  # each is tried for its whole time, whatever becomes of others
        )
        for one in told:
            if isinstance(one, BaseException):
                raise one

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` whenever something was announced, and at the beginning where something
        ever was. Runs until it is cancelled. For who follows no revocations; buckets are asked in
        turn, so that a shard that is gone hides nothing for long.
        """
        news, failing = KeysNews(), False
        for turn in count():
            bucket = turn % self._buckets
            try:
                ((number,),) = await self._scripts.read(bucket, ("HMGET", tip_key(bucket), KEYS))
            except StoreError as error:
                if not failing:
                    log.warning(events.ANNOUNCEMENTS_UNREAD, error=str(error))
                failing = True
            else:
                failing = False
                if news.hear(bucket, announced(number)):
                    await changed()
            spread = 1 - JITTER * random.random()  # noqa: S311  spreads load
            await asyncio.sleep(POLL * spread)
