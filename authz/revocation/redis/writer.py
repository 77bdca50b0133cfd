"""Writes revocations: one Lua call, and WAIT on the same connection.

WAIT speaks of what its own connection wrote, which is why the two go out together.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_random_exponential,
)

from authz.revocation.entry import Entry
from authz.revocation.record import feed_key, tip_key
from authz.revocation.redis.client import MIN_READ_TIMEOUT
from authz.revocation.redis.lane import describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.topology import node_name
from authz.revocation.store import SlotMovingError, StoreError, StoreRefusedError
from authz.settings import MAX_LEEWAY, MAX_LIFETIME, StoreSettings

RETRY_WAIT = 0.05
RETRY_WAIT_MAX = 0.5
"""Seconds between attempts at one write: from, and at most."""

MAX_REPLICA_LAG = 2
"""Seconds since a replica last acknowledged; a healthy one does every second. So one that is frozen
shows soon, where Redis itself drops it only after `repl-timeout` (60 s)."""

_SCRIPT = (
    resources.files("authz.revocation.redis").joinpath("revoke.lua").read_text(encoding="utf-8")
)

_SCRIPT_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What EVALSHA calls a script by; Redis' choice of hash, not a matter of security."""


MAX_ENTRIES = 128
"""Revocations in one call of the script, which nothing else can interrupt: at about 15 microseconds
each they hold up the node's look-ups by 2 ms."""

STREAM_KEEPS = round((MAX_LIFETIME + 2 * MAX_LEEWAY) * 1000)
"""Milliseconds. By then every token that was there at the time has expired: it was issued at most
one leeway ahead, lived for `MAX_LIFETIME` and was accepted for another leeway."""


class _RetryableError(Exception):
    """A write that another attempt may bring through."""


class _MovingError(_RetryableError):
    """The same, once the slot has arrived where it is being moved to."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the entries of one call."""

    replicas: int
    """How many confirmed all of them."""
    repeated: Sequence[bool]
    """Of each entry, whether it was there already."""


class Writer:
    """Brings writes through failovers, moves and brief outages, or says why not."""

    def __init__(self, settings: StoreSettings, nodes: Nodes) -> None:
        self._settings = settings
        self._nodes = nodes

    async def write(self, bucket: int, entries: Sequence[Entry]) -> Written:
        """Run the script until all entries are there and replicated, through failovers and moves,
        within `write_timeout`. At most `MAX_ENTRIES`.

        StoreError: not all are there, or not replicated as configured. StoreRefusedError: and
        another attempt would be in vain. SlotMovingError: because the bucket is being moved.
        """
        failure: BaseException = _RetryableError(
            f"no answer within {self._settings.write_timeout:g} s (store.write_timeout)"
        )

        def remember(state: RetryCallState) -> None:
            nonlocal failure
            failure = (state.outcome and state.outcome.exception()) or failure

        retrying = AsyncRetrying(
            wait=wait_random_exponential(RETRY_WAIT, RETRY_WAIT_MAX),
            retry=retry_if_exception_type(_RetryableError),
            before_sleep=remember,
        )
        confirmed, repeated = 0, [True] * len(entries)
        try:
            # Around it all: an attempt of its own may take longer than `write_timeout`.
            async with asyncio.timeout(self._settings.write_timeout):
                async for attempt in retrying:
                    with attempt:
                        confirmed, wanted, again = await self._attempt(bucket, entries)
                        repeated = [a and b for a, b in zip(repeated, again, strict=True)]
                        if confirmed < wanted:
                            await self._nodes.refresh()  # `auto`: don't count one that failed
                            raise _RetryableError(
                                f"written, but {confirmed} of {wanted} replicas confirmed it in "
                                "time (store.wait_replicas, store.wait_timeout): a failover now "
                                "could lose it"
                            )
        except TimeoutError:
            kind = SlotMovingError if isinstance(failure, _MovingError) else StoreError
            raise kind(f"not acknowledged: {failure}. Repeating it is safe") from None
        return Written(confirmed, repeated)

    async def _attempt(self, bucket: int, entries: Sequence[Entry]) -> tuple[int, int, list[bool]]:
        """One attempt: replicas that confirmed, those wanted, and which were there already."""
        shard = self._nodes.topology.shard(bucket)
        if shard is None:
            await self._nodes.refresh()
            shard = self._nodes.topology.shard(bucket)
            if shard is None:
                raise _RetryableError(f"the store is unreachable: {self._nodes.error}")
        client = self._nodes.client(shard.primary)
        try:
            async with asyncio.timeout(
                self._settings.connect_timeout + self._settings.wait_timeout + MIN_READ_TIMEOUT
            ):
                wanted = await self._replicas_wanted(client, len(shard.replicas))
                reply, confirmed = await self._call(client, bucket, entries, wanted)
        except MovedError as moved:
            self._nodes.topology.moved(bucket, (moved.host or shard.primary[0], moved.port))
            raise _RetryableError(f"the slot moved to {moved.host}:{moved.port}") from None
        except AskError as ask:
            raise _MovingError(f"the slot is being moved to {ask.host}:{ask.port}") from None
        except TryAgainError:
            raise _MovingError("the slot is being moved, its keys stand on both sides") from None
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, ResponseError) and not _passes(error):
                raise StoreRefusedError(f"the store refused: {describe(error)}") from None
            # READONLY: this was a primary once. New connections, and a new look at the map.
            await client.connection_pool.disconnect(inuse_connections=False)
            await self._nodes.refresh()
            raise _RetryableError(f"{node_name(shard.primary)}: {describe(error)}") from None
        return confirmed, wanted, [written == 0 for written, _ in reply]

    async def _call(
        self, client: Redis, bucket: int, entries: Sequence[Entry], wanted: int
    ) -> tuple[list[Any], int]:
        """The script and WAIT, on one connection."""
        keys = [feed_key(bucket), tip_key(bucket), *(entry.key(bucket) for entry in entries)]
        arguments = [
            STREAM_KEEPS,
            *(text for entry in entries for text in entry.arguments()),
            self._settings.buckets,
        ]
        for script in ("EVALSHA", "EVAL"):
            pipeline = client.pipeline(transaction=False)
            body = _SCRIPT_SHA if script == "EVALSHA" else _SCRIPT
            pipeline.execute_command(script, body, len(keys), *keys, *arguments)
            if wanted:
                pipeline.execute_command("WAIT", wanted, round(self._settings.wait_timeout * 1000))
            replies = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, NoScriptError):
                    break
                if isinstance(reply, Exception):
                    raise reply
            else:
                return replies[0], int(replies[1]) if wanted else 0
        raise _RetryableError("the script could not be loaded")

    async def _replicas_wanted(self, client: Redis, listed: int) -> int:
        if self._settings.wait_replicas != "auto":
            return self._settings.wait_replicas
        if not listed:
            # A single server has no map, and one node's map may be behind: the primary knows.
            listed = _healthy_replicas(await client.info("replication"))
        return min(1, listed)


def _healthy_replicas(info: Mapping[str, Any]) -> int:
    """Of INFO replication (`slave0`, `slave1`, …): replicas that are online and were heard of."""
    replicas = [value for name, value in info.items() if re.fullmatch(r"slave\d+", name)]
    return sum(
        replica["state"] == "online" and int(replica["lag"]) <= MAX_REPLICA_LAG
        for replica in replicas
    )


def _passes(error: ResponseError) -> bool:
    """Whether an error is of the kind that goes away: failover, resharding, loading."""
    if isinstance(error, NoPermissionError):
        return False
    text = str(error).upper()
    return type(error) is not ResponseError or text.startswith(
        ("READONLY", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "UNBLOCKED", "NOREPLICAS")
    )
