"""Writes revocations of one bucket, by the script `revoke.lua`."""

from collections.abc import Sequence
from dataclasses import dataclass

from authz.revocation.entry import Entry
from authz.revocation.record import feed_key, tip_key
from authz.revocation.redis.script import Argument, Script, ScriptRunner
from authz.settings import MAX_LEEWAY, MAX_LIFETIME

STREAM_LUA = ("authz.revocation.redis", "stream.lua")
"""What every script that revokes begins with."""

REVOKE = Script.of_files(STREAM_LUA, ("authz.revocation.redis", "revoke.lua"))

MAX_ENTRIES = 128
"""Revocations in one call of the script, which nothing else can interrupt: at about 15 microseconds
each they hold up the node's look-ups by 2 ms."""

STREAM_KEEPS = round((MAX_LIFETIME + 2 * MAX_LEEWAY) * 1000)
"""Milliseconds. By then every token that was there at the time has expired: it was issued at most
one leeway ahead, lived for `MAX_LIFETIME` and was accepted for another leeway."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the entries of one call."""

    replicas: int
    """How many confirmed all of them."""
    repeated: Sequence[bool]
    """Of each entry, whether it was there already."""


class Writer:
    """Brings revocations through, or says why not."""

    def __init__(self, scripts: ScriptRunner, buckets: int) -> None:
        """`buckets`: over how many users are spread."""
        self._scripts = scripts
        self._buckets = buckets

    async def write(self, bucket: int, entries: Sequence[Entry]) -> Written:
        """Run the script until all entries are there and replicated. At most `MAX_ENTRIES`.

        StoreError as `ScriptRunner.run`.
        """
        keys = [feed_key(bucket), tip_key(bucket), *keys_of(entries, bucket)]
        arguments: list[Argument] = [STREAM_KEEPS, self._buckets, *arguments_of(entries)]
        ran = await self._scripts.run(bucket, REVOKE, keys, arguments)
        # What an attempt of this very call has written before is not repeated.
        attempts = zip(*ran.replies, strict=True)
        repeated = [all(written == 0 for written, _ in results) for results in attempts]
        return Written(ran.replicas, repeated)


def keys_of(entries: Sequence[Entry], bucket: int) -> list[str]:
    """The keys that entries stand for, as scripts that begin with `stream.lua` want them."""
    return [key for entry in entries for key in entry.keys(bucket)]


def arguments_of(entries: Sequence[Entry]) -> list[str]:
    """Their arguments, to the same scripts."""
    return [text for entry in entries for text in entry.arguments()]
