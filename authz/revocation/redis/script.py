"""Calls a script of one bucket: EVALSHA and WAIT on one connection, until it is done and
replicated.

WAIT speaks of what its own connection wrote, which is why the two go out together.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self, TypeVar

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

from authz.revocation.redis.client import MIN_READ_TIMEOUT
from authz.revocation.redis.lane import describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.topology import Shard, node_name
from authz.revocation.store import SlotMovingError, StoreError, StoreRefusedError
from authz.settings import StoreSettings

RETRY_WAIT = 0.05
RETRY_WAIT_MAX = 0.5
"""Seconds between attempts at one call: from, and at most."""

MAX_REPLICA_LAG = 2
"""Seconds since a replica last acknowledged; a healthy one does every second. So one that is frozen
shows soon, where Redis itself drops it only after `repl-timeout` (60 s)."""

T = TypeVar("T")

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its name."""

    source: str
    sha: str
    """What EVALSHA calls it by; Redis' choice of hash, not a matter of security."""

    @classmethod
    def of_files(cls, *files: tuple[str, str]) -> Self:
        """Of files that are run as one, each a package and a name: what several scripts have in
        common comes first.
        """
        texts = (resources.files(package).joinpath(name).read_bytes() for package, name in files)
        source = b"\n".join(texts)
        return cls(source.decode(), hashlib.sha1(source, usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a call."""

    replies: Sequence[Any]
    """Of each attempt that the primary answered, the last one last."""
    replicas: int
    """How many confirmed what it wrote."""


class _RetryableError(Exception):
    """What another attempt may bring through."""


class _MovingError(_RetryableError):
    """The same, once the slot has arrived where it is being moved to."""


class ScriptRunner:
    """Brings calls through failovers, moves and brief outages, or says why not."""

    def __init__(self, settings: StoreSettings, nodes: Nodes) -> None:
        self._settings = settings
        self._nodes = nodes

    @property
    def write_timeout(self) -> float:
        """Seconds that a call may take, its repetitions included."""
        return self._settings.write_timeout

    async def run(
        self, bucket: int, script: Script, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> Ran:
        """Run the script until it was answered and what it wrote is replicated, through failovers
        and moves, within `write_timeout`. It may run several times: it has to take itself for done,
        and write something all the same, or WAIT would speak of nothing.

        Every key that it touches is among `keys`: while a slot is on the move, Redis refuses a call
        that names a missing key before it begins, but one that was not named in its middle.

        StoreError: it was not answered, or not replicated as configured. StoreRefusedError: and
        another attempt would be in vain. SlotMovingError: because the bucket is being moved.
        """
        replies: list[Any] = []

        async def call(client: Redis, shard: Shard) -> tuple[int, int]:
            wanted = await self._replicas_wanted(client, len(shard.replicas))
            reply, confirmed = await self._call(client, script, keys, arguments, wanted)
            replies.append(reply)
            return confirmed, wanted

        async def attempt() -> int:
            confirmed, wanted = await self._at_primary(bucket, call)
            if confirmed < wanted:
                await self._nodes.refresh()  # `auto`: don't count one that failed
                raise _RetryableError(
                    f"written, but {confirmed} of {wanted} replicas confirmed it in "
                    "time (store.wait_replicas, store.wait_timeout): a failover now "
                    "could lose it"
                )
            return confirmed

        confirmed = await self._bring_through(attempt, "not acknowledged: {}. Repeating it is safe")
        return Ran(replies, confirmed)

    async def read(self, bucket: int, *commands: Sequence[Argument]) -> list[Any]:
        """The primary's replies to commands that write nothing and name one key each: these are
        answered while the slot is on the move, too. StoreError as `run`.
        """

        async def call(client: Redis, shard: Shard) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies = await pipeline.execute(raise_on_error=False)
            for n, reply in enumerate(replies):
                if isinstance(reply, AskError) and not isinstance(reply, MovedError):
                    lane = self._nodes.lane(shard.primary)
                    replies[n] = await lane.read_key(self._nodes.client, *commands[n])
                elif isinstance(reply, Exception):
                    raise reply
            return replies

        async def attempt() -> list[Any]:  # no lambda: tenacity awaits what is declared `async`
            return await self._at_primary(bucket, call)

        return await self._bring_through(attempt, "the store could not be asked: {}")

    async def _bring_through(self, attempt: Callable[[], Awaitable[T]], problem: str) -> T:
        """Attempt after attempt, within `write_timeout`."""
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
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._settings.write_timeout

        async def in_time() -> T:
            if clock() >= deadline:
                raise TimeoutError
            return await attempt()

        try:
            # Around it all: an attempt of its own may take longer than `write_timeout`. This
            # cancels once, and a connection that breaks just then swallows it: so `in_time`, too.
            async with asyncio.timeout_at(deadline):
                try:
                    return await attempt()
                except _RetryableError as error:
                    failure = error
                # Only now: tenacity takes 50 microseconds to begin, and a whole call takes 140.
                await asyncio.sleep(RETRY_WAIT)
                return await retrying(in_time)
        except TimeoutError:
            kind = SlotMovingError if isinstance(failure, _MovingError) else StoreError
            raise kind(problem.format(failure)) from None

    async def _at_primary(self, bucket: int, call: Callable[[Redis, Shard], Awaitable[T]]) -> T:
        """One attempt at the node that has the bucket."""
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
                return await call(client, shard)
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

    async def _call(
        self,
        client: Redis,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        wanted: int,
    ) -> tuple[Any, int]:
        """The script and WAIT, on one connection."""
        for command, body in (("EVALSHA", script.sha), ("EVAL", script.source)):
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command(command, body, len(keys), *keys, *arguments)
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
