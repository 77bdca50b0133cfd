"""What Redis knows of tokens when it is asked afterwards: whether, when, by whom and why revoked.

While a token's keys would still be there, they say it. Once it has expired they may be gone with
it; then the stream of the bucket does, which remembers for about a day. The stream is read as well
where a user's cut-off revokes the token: its key holds the latest cut-off only, and an earlier one
may have revoked the token before.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import AskError, MovedError, RedisError, ResponseError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError

from authz.observe import events
from authz.revocation.record import ANY_USER, Revoked, TokenRef, Unavailable, feed_key
from authz.revocation.redis.lane import Lane, describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.outage import State
from authz.revocation.redis.question import keys_of, read_reply
from authz.revocation.store import Trace
from authz.settings import MAX_LEEWAY

CHUNK = 32
"""Tokens asked about in one pipeline: 1.5 ms of this process at 48 microseconds each, which checks
wait for at most, and a tenth of what a pipeline of checks may hold."""

PAGE = 200
"""Entries of a stream read at once: 70 KB, and about 1 ms here and 0.1 ms in Redis."""

PAUSE = 0.01
"""Seconds between chunks and pages, so that checks get nine tenths of the loop and of Redis. A
thousand tokens take a third of a second, a stream of a million entries a minute."""

LAST_INSTANT = 253_402_300_800
"""The year 10000, in seconds since 1970: what lies behind is no time that anything was revoked."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """One revocation that takes the token with it."""

    at: float | None
    by: str
    reason: str

    @property
    def order(self) -> float:
        """The earliest counts, and one of an unknown time may be the earliest."""
        return -1.0 if self.at is None else self.at


class NodeTracer:
    """Asks the nodes of the store."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._told = ""

    async def trace(
        self, bucket: int, refs: Sequence[TokenRef], now: float
    ) -> Sequence[Trace] | Unavailable:
        """As `Tracer.trace`. Asks nothing of a node whose breaker is open."""
        shard = self._nodes.topology.shard(bucket)
        if shard is None:
            return Unavailable("connection")
        lane = self._nodes.lane(shard.primary)
        if lane.breaker.state is State.OPEN:
            return Unavailable("breaker_open")
        try:
            traces = await self._trace(lane, bucket, refs, now)
        except MovedError as moved:
            self._nodes.topology.moved(bucket, (moved.host or shard.primary[0], moved.port))
            return Unavailable("error")
        except (RedisError, OSError, TimeoutError) as error:
            return self._unavailable(lane, error)
        self._told = ""
        return traces

    def _unavailable(self, lane: Lane, error: Exception) -> Unavailable:
        if isinstance(error, ResponseError):
            text = describe(error)
            if text != self._told:  # a missing right, above all: nothing else would show it
                self._told = text
                log.warning(events.TRACE_REFUSED, node=lane.node, error=text)
            return Unavailable("error")
        return Unavailable("timeout" if isinstance(error, RedisTimeoutError) else "connection")

    async def _trace(
        self, lane: Lane, bucket: int, refs: Sequence[TokenRef], now: float
    ) -> list[Trace]:
        by_keys: dict[TokenRef, list[_Mark]] = {}
        doubtful: list[TokenRef] = []
        for start in range(0, len(refs), CHUNK):
            if start:
                await asyncio.sleep(PAUSE)
            chunk = refs[start : start + CHUNK]
            for ref, values in zip(chunk, await self._values(lane, chunk), strict=True):
                by_keys[ref] = list(_marks(ref, values))
                # From `exp` on, for the clock of Redis may be ahead by as much as the leeway.
                if now > ref.expires_at or _is_cut_off(ref, values):
                    doubtful.append(ref)
        by_stream = await self._read_stream(lane, bucket, doubtful) if doubtful else {}
        return [_conclude(ref, by_keys[ref], by_stream.get(ref, []), now) for ref in refs]

    async def _values(self, lane: Lane, refs: Sequence[TokenRef]) -> list[list[Any]]:
        """The values of each token's three keys."""
        pipeline = lane.client.pipeline(transaction=False)
        for ref in refs:
            pipeline.mget(keys_of(ref))
        values: list[list[Any]] = []
        for ref, reply in zip(refs, await pipeline.execute(raise_on_error=False), strict=True):
            match reply:
                case list():
                    values.append(reply)
                case AskError() | TryAgainError() if not isinstance(reply, MovedError):
                    # The slot is on the move, and several keys at once can't be had.
                    connect = self._nodes.client
                    values.append([await lane.read_key(connect, "GET", k) for k in keys_of(ref)])
                case _:
                    raise reply
        return values

    async def _read_stream(
        self, lane: Lane, bucket: int, refs: Sequence[TokenRef]
    ) -> dict[TokenRef, list[_Mark]]:
        """The revocations of these tokens that the bucket's stream holds. Nothing revokes a token
        before it is issued, so it is read from the oldest one's `iat` on.
        """
        sought = _Sought(refs)
        oldest = min(ref.issued_at for ref in refs) - MAX_LEEWAY
        start = f"{max(0, round(oldest * 1000))}"
        while True:
            page = await lane.read_key(
                self._nodes.client, "XRANGE", feed_key(bucket), start, "+", "COUNT", PAGE
            )
            for name, values in page:
                sought.look(name, values)
            if len(page) < PAGE:
                return sought.found
            start = f"({page[-1][0].decode()}"
            await asyncio.sleep(PAUSE)


class _Sought:
    """Tokens, and what a stream's entries say of them."""

    def __init__(self, refs: Sequence[TokenRef]) -> None:
        self.found: dict[TokenRef, list[_Mark]] = {}
        self._by_token: dict[bytes, list[TokenRef]] = {}
        self._by_user: dict[bytes, list[TokenRef]] = {}
        for ref in refs:
            self._by_token.setdefault(ref.token.encode(), []).append(ref)
            self._by_user.setdefault(ref.user.encode(), []).append(ref)

    def look(self, name: bytes, values: Mapping[bytes, bytes]) -> None:
        """Take one entry; of a kind that isn't known it is passed over."""
        for ref in self._meant(values):
            mark = _mark(values.get(b"note", b""))
            if mark.at is None:
                mark = _Mark(int(name.partition(b"-")[0]) / 1000, mark.by, mark.reason)
            self.found.setdefault(ref, []).append(mark)

    def _meant(self, values: Mapping[bytes, bytes]) -> Iterator[TokenRef]:
        user = values.get(b"user", b"")
        match values.get(b"kind"):
            case b"token":
                for ref in self._by_token.get(values.get(b"token", b""), ()):
                    if user in {ref.user.encode(), ANY_USER.encode()}:
                        yield ref
            case b"user":
                for ref in self._by_user.get(user, ()):
                    # As the key of a cut-off has it, and judged as that is.
                    cutoff = values.get(b"before", b"") + b" "
                    if isinstance(read_reply(ref, (None, None, cutoff)), Revoked):
                        yield ref


def _conclude(
    ref: TokenRef, by_keys: Sequence[_Mark], by_stream: Sequence[_Mark], now: float
) -> Trace:
    if by_keys or by_stream:
        first = min([*by_keys, *by_stream], key=lambda mark: mark.order)
        return Trace(
            evidence="store" if by_keys else "stream",
            revoked=True,
            at=first.at,
            by=first.by,
            reason=first.reason,
        )
    return Trace("store" if now <= ref.expires_at + MAX_LEEWAY else "expired", revoked=False)


def _marks(ref: TokenRef, values: Sequence[Any]) -> Iterator[_Mark]:
    """What the values of the three keys say."""
    own, anyones, cutoff = values
    for note in (own, anyones):
        if note is not None:
            yield _mark(note)
    if _is_cut_off(ref, values):
        yield _mark(cutoff.partition(b" ")[2])


def _is_cut_off(ref: TokenRef, values: Sequence[Any]) -> bool:
    return isinstance(read_reply(ref, (None, None, values[2])), Revoked)


def _mark(note: bytes) -> _Mark:
    """Of a `Note` as it was dumped; empty where it can't be read, for someone revoked something."""
    try:
        told = json.loads(note)
    except (ValueError, RecursionError):
        told = None
    values: dict[str, Any] = told if isinstance(told, dict) else {}
    at, by, reason = values.get("at"), values.get("by"), values.get("reason")
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < LAST_INSTANT:
        at = None
    return _Mark(
        at=at,
        by=by if isinstance(by, str) else "",
        reason=reason if isinstance(reason, str) else "",
    )
