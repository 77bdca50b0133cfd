"""Revocations in Redis or Valkey: a cluster, or a single server.

Look-ups go through one `Lane` per node; writes are one Lua call and a WAIT on the same connection
(WAIT speaks of what its own connection wrote). A background task reads the topology, and probes the
nodes whose breaker is open.
"""

import asyncio
import contextlib
import hashlib
import math
import ssl
from collections.abc import Callable
from importlib import resources
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_random_exponential,
)

from authz.observe import events
from authz.revocation.lane import Lane, Lookup, Redirect, describe
from authz.revocation.outage import Breaker, State
from authz.revocation.record import (
    ANY_USER,
    Clear,
    Finding,
    Revoked,
    TokenRef,
    Unavailable,
    blacklist_key,
    feed_key,
    not_before_key,
)
from authz.revocation.store import (
    Acknowledgement,
    StoreError,
    TokenRevocation,
    UserRevocation,
)
from authz.revocation.topology import Address, Topology, TopologyError
from authz.settings import (
    MAX_LEEWAY,
    MAX_LIFETIME,
    SettingsError,
    StoreSettings,
    store_credentials,
    store_url_parts,
)

MAX_REDIRECTS = 3
"""Of one look-up. A slot moves once; more means that nodes disagree, and time is up anyway."""
READ_TIMEOUT_FACTOR = 4
MIN_READ_TIMEOUT = 0.25
"""Seconds. How long a pipeline may go on behind the checks that gave up on it."""
TOPOLOGY_EVERY = 10.0
"""Seconds between readings of the map when nothing seems wrong."""
TOPOLOGY_PAUSE = 0.1
"""Seconds at least between two readings, however many look-ups fail."""
RETRY_WAIT = 0.05
RETRY_WAIT_MAX = 0.5
"""Seconds between attempts at one write: from, and at most."""

_SCRIPT = resources.files("authz.revocation").joinpath("revoke.lua").read_text(encoding="utf-8")

_SCRIPT_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""What EVALSHA calls a script by; Redis' choice of hash, not a matter of security."""

log = structlog.get_logger(__name__)


class _RetryableError(Exception):
    """A write that another attempt may bring through."""


class RedisStore:
    """The store at `redis://`, `rediss://`, `redis+cluster://` and `rediss+cluster://`."""

    def __init__(
        self,
        settings: StoreSettings,
        *,
        make_breaker: Callable[[], Breaker],
        learn: Callable[[TokenRef, Revoked | Clear], None],
        observe: Callable[[float, int], None],
    ) -> None:
        """`learn` is told each answer of the store, also one that came too late for its check;
        `observe` the seconds and look-ups of each pipeline. Must be made in a running loop.

        SettingsError: an unreadable password, CA or client certificate.
        """
        scheme, seeds, self._database = store_url_parts(settings)
        self._settings = settings
        self._make_breaker = make_breaker
        self._learn = learn
        self._observe = observe
        self._username, self._password = store_credentials(settings)
        self._tls = _tls_options(settings) if scheme.startswith("rediss") else {}
        self._cluster = scheme.endswith("+cluster")
        self._topology = Topology(seeds, settings.buckets, cluster=self._cluster)
        self._lanes: dict[Address, Lane] = {}
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._guardian: asyncio.Task[None] | None = None
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._connected: bool | None = None
        self._error = "not connected yet"

    # ---- asking

    def find(self, ref: TokenRef) -> asyncio.Future[Finding] | Unavailable:
        """As `RevocationStore.find`. The future is the caller's alone."""
        shard = self._topology.shard(ref.bucket)
        if shard is None:
            return Unavailable("connection")
        lane = self._lane(shard.primary)
        if not lane.breaker.allows(self._loop.time()):
            return Unavailable("breaker_open")
        lookup = Lookup(ref, self._loop.create_future())
        lane.submit(lookup)
        return lookup.answer

    def _lane(self, address: Address) -> Lane:
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = Lane(
                address,
                self._client(address),
                self._make_breaker(),
                timeout=self._settings.timeout,
                learn=self._learn,
                redirected=self._redirected,
                troubled=self._troubled,
                observe=self._observe,
            )
        return lane

    def _client(self, address: Address) -> Redis:
        timeout = max(READ_TIMEOUT_FACTOR * self._settings.timeout, MIN_READ_TIMEOUT)
        return Redis(
            host=address[0],
            port=address[1],
            db=self._database,
            username=self._username,
            password=self._password,
            socket_timeout=timeout + self._settings.wait_timeout,
            socket_connect_timeout=self._settings.connect_timeout,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),  # a retry would outlive the check; the breaker decides
            client_name="authz",
            protocol=2,
            **self._tls,
        )

    def _redirected(self, lookup: Lookup, to: Redirect) -> None:
        lookup.redirects += 1
        if lookup.redirects > MAX_REDIRECTS:
            lookup.settle(Unavailable("error"))
            return
        shard = self._topology.shard(to.bucket)
        if to.asking and shard is not None:
            home = self._lane(shard.primary)
            self._spawn(home.ask_one_by_one(lookup, lambda address: self._lane(address).client))
            return
        self._topology.moved(to.bucket, to.address)
        self._wake.set()
        lane = self._lane(to.address)
        if not lane.breaker.allows(self._loop.time()):
            lookup.settle(Unavailable("breaker_open"))
        elif not lookup.answer.done():
            lane.submit(lookup)

    def _troubled(self, lane: Lane) -> None:
        self._error = lane.last_error
        self._wake.set()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    # ---- keeping the connection

    async def start(self) -> None:
        """Connect in the background; an unreachable store is not an error here."""
        self._guardian = self._loop.create_task(self._guard())

    async def connect(self) -> bool:
        """Reach every primary once, now. Whether all of them answered."""
        await self._tend()
        return bool(self._connected)

    async def aclose(self) -> None:
        """Let go of all connections; what is being asked is answered as unavailable."""
        tasks = [*self._side_tasks, *([self._guardian] if self._guardian else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Together: saying good-bye by TLS to a node that hangs takes `connect_timeout` each.
        await asyncio.gather(
            *(lane.aclose() for lane in self._lanes.values()), return_exceptions=True
        )

    async def _guard(self) -> None:
        """Read the map when it may have changed, and probe the nodes that failed."""
        while True:
            try:
                await self._tend()
            except Exception:  # without this task no breaker would ever close again
                log.exception(events.STORE_GUARD_FAILED)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            await asyncio.sleep(TOPOLOGY_PAUSE)

    def _pause(self) -> float:
        now = self._loop.time()
        pauses = [TOPOLOGY_EVERY if self._connected else RETRY_WAIT_MAX]
        # Of primaries only: nobody probes a node that is out of use, so it would always be overdue.
        pauses += [breaker.next_probe(now) for breaker in self.breakers().values()]
        return min(pauses)

    async def _tend(self) -> None:
        try:
            await self._topology.refresh(
                lambda address: self._lane(address).client, self._settings.connect_timeout
            )
        except TopologyError as error:
            self._report(reachable=False, error=str(error))
            await self._probe()
            return
        await self._retire_lanes()
        for address in self._topology.primaries():
            self._lane(address)
        reached = await self._probe()
        self._report(reachable=reached, error=self._error)

    async def _probe(self) -> bool:
        """Ping the primaries that are in doubt. Whether none is left in doubt."""
        primaries = self._topology.primaries()
        doubtful = [
            lane
            for address, lane in self._lanes.items()
            if address in primaries and (not self._connected or lane.breaker.state is State.OPEN)
        ]
        due = [lane for lane in doubtful if self._probe_is_due(lane)]
        answers = await asyncio.gather(*(lane.probe() for lane in due))
        for lane, answered in zip(due, answers, strict=True):
            if not answered:
                self._error = lane.last_error
        return len(due) == len(doubtful) and all(answers)

    def _probe_is_due(self, lane: Lane) -> bool:
        is_open = lane.breaker.state is State.OPEN
        return not is_open or lane.breaker.next_probe(self._loop.time()) <= 0

    async def _retire_lanes(self) -> None:
        """Drop the connections to nodes that left the cluster."""
        known = set(self._topology.nodes())
        for address in [address for address in self._lanes if address not in known]:
            await self._lanes.pop(address).aclose()

    def _report(self, *, reachable: bool, error: str) -> None:
        if reachable == self._connected:
            return
        self._connected = reachable
        if reachable:
            self._error = ""
            log.info(events.STORE_CONNECTED, nodes=[_text(a) for a in self._topology.primaries()])
        else:
            self._error = error
            log.warning(events.STORE_UNREACHABLE, error=error)

    # ---- writing

    async def revoke_token(self, revocation: TokenRevocation) -> Acknowledgement:
        """As `RevocationStore.revoke_token`. Without a user it is written to every bucket, since
        nobody can tell in which one the token will be looked for.
        """
        user = revocation.user or ANY_USER
        buckets = (
            range(self._settings.buckets) if revocation.bucket is None else [revocation.bucket]
        )
        expires = (revocation.expires_at + MAX_LEEWAY) * 1000
        note = revocation.note.dump()
        results = await asyncio.gather(
            *(
                self._write(
                    bucket,
                    blacklist_key(bucket, user, revocation.token),
                    ["token", note, round(expires), "", user, revocation.token],
                )
                for bucket in buckets
            ),
            return_exceptions=True,  # each is tried for its whole time, whatever becomes of others
        )
        written: list[tuple[int, bool]] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            written.append(result)
        return Acknowledgement(
            replicas=min(replicas for replicas, _ in written),
            repeated=all(repeated for _, repeated in written),
        )

    async def revoke_user(self, revocation: UserRevocation) -> Acknowledgement:
        """As `RevocationStore.revoke_user`."""
        expires = (revocation.not_before + revocation.max_lifetime + MAX_LEEWAY) * 1000
        cut = math.ceil(revocation.not_before * 1000)
        replicas, repeated = await self._write(
            revocation.bucket,
            not_before_key(revocation.bucket, revocation.user),
            ["user", revocation.note.dump(), round(expires), cut, revocation.user, ""],
        )
        return Acknowledgement(replicas, repeated)

    async def _write(self, bucket: int, key: str, args: list[str | int]) -> tuple[int, bool]:
        """Write until it is there and replicated, through failovers and moves, within
        `write_timeout`. Replicas that confirmed, and whether it was there before.
        """
        arguments = [*args, round(MAX_LIFETIME * 1000)]
        failures = [f"no answer within {self._settings.write_timeout:g} s (store.write_timeout)"]

        def remember(state: RetryCallState) -> None:
            failures.append(str(state.outcome.exception() if state.outcome else ""))

        retrying = AsyncRetrying(
            wait=wait_random_exponential(RETRY_WAIT, RETRY_WAIT_MAX),
            retry=retry_if_exception_type(_RetryableError),
            before_sleep=remember,
        )
        confirmed, repeated = 0, True
        try:
            # Around it all: an attempt of its own may take longer than `write_timeout`.
            async with asyncio.timeout(self._settings.write_timeout):
                async for attempt in retrying:
                    with attempt:
                        confirmed, wanted, again = await self._attempt(bucket, key, arguments)
                        repeated = repeated and again
                        if confirmed < wanted:
                            await self._refresh_for_write()  # `auto`: don't count one that failed
                            raise _RetryableError(
                                f"written, but {confirmed} of {wanted} replicas confirmed it in "
                                "time (store.wait_replicas, store.wait_timeout): a failover now "
                                "could lose it"
                            )
        except TimeoutError:
            raise StoreError(f"not acknowledged: {failures[-1]}. Repeating it is safe") from None
        return confirmed, repeated

    async def _attempt(
        self, bucket: int, key: str, arguments: list[str | int]
    ) -> tuple[int, int, bool]:
        """One attempt: replicas that confirmed, those wanted, and whether it was there already."""
        shard = self._topology.shard(bucket)
        if shard is None:
            await self._refresh_for_write()
            shard = self._topology.shard(bucket)
            if shard is None:
                raise _RetryableError(f"the store is unreachable: {self._error}")
        client = self._lane(shard.primary).client
        try:
            async with asyncio.timeout(
                self._settings.connect_timeout + self._settings.wait_timeout + MIN_READ_TIMEOUT
            ):
                wanted = await self._replicas_wanted(client, len(shard.replicas))
                reply, confirmed = await self._call(client, bucket, key, arguments, wanted)
        except MovedError as moved:
            self._topology.moved(bucket, (moved.host or shard.primary[0], moved.port))
            raise _RetryableError(f"the slot moved to {moved.host}:{moved.port}") from None
        except AskError as ask:
            raise _RetryableError(f"the slot is being moved to {ask.host}:{ask.port}") from None
        except (RedisError, OSError, TimeoutError) as error:
            if isinstance(error, ResponseError) and not _passes(error):
                raise StoreError(f"the store refused: {describe(error)}") from None
            # READONLY: this was a primary once. New connections, and a new look at the map.
            await client.connection_pool.disconnect(inuse_connections=False)
            await self._refresh_for_write()
            raise _RetryableError(f"{_text(shard.primary)}: {describe(error)}") from None
        return confirmed, wanted, reply[0] == 0

    async def _call(
        self, client: Redis, bucket: int, key: str, arguments: list[str | int], wanted: int
    ) -> tuple[list[Any], int]:
        """The script and WAIT, on one connection."""
        for script in ("EVALSHA", "EVAL"):
            pipeline = client.pipeline(transaction=False)
            body = _SCRIPT_SHA if script == "EVALSHA" else _SCRIPT
            pipeline.execute_command(script, body, 2, key, feed_key(bucket), *arguments)
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
        if not self._cluster:
            listed = int((await client.info("replication")).get("connected_slaves", 0))
        return min(1, listed)

    async def _refresh_for_write(self) -> None:
        try:
            await self._topology.refresh(
                lambda address: self._lane(address).client, self._settings.connect_timeout
            )
        except TopologyError as error:
            self._error = str(error)

    # ---- telling

    def breakers(self) -> dict[str, Breaker]:
        """`host:port` of each node that is asked, and its breaker."""
        primaries = self._topology.primaries()
        return {
            _text(address): lane.breaker
            for address, lane in list(self._lanes.items())
            if address in primaries
        }

    @property
    def topology_refreshes(self) -> int:
        return self._topology.refreshes

    def status(self) -> dict[str, Any]:
        """As `RevocationStore.status`."""
        return {
            "kind": "cluster" if self._cluster else "single",
            "connected": bool(self._connected),
            "error": self._error or None,
            "nodes": {
                name: breaker.status(self._loop.time()) for name, breaker in self.breakers().items()
            },
        }


def _passes(error: ResponseError) -> bool:
    """Whether an error is of the kind that goes away: failover, resharding, loading."""
    if isinstance(error, NoPermissionError):
        return False
    text = str(error).upper()
    return type(error) is not ResponseError or text.startswith(
        ("READONLY", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "UNBLOCKED", "NOREPLICAS")
    )


def _tls_options(settings: StoreSettings) -> dict[str, Any]:
    tls = settings.tls
    context = ssl.create_default_context()
    trying = tls.ca_file
    name = "ca_file"
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(tls.ca_file)
        if tls.cert_file is not None:
            trying, name = tls.cert_file, "cert_file and key_file"
            # With a passphrase of our own, for OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or error
        raise SettingsError(f"store.tls.{name}: {trying}: {reason}") from None
    options: dict[str, Any] = {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": tls.verify_hostname,
    }
    for option, path in (
        ("ssl_ca_certs", tls.ca_file),
        ("ssl_certfile", tls.cert_file),
        ("ssl_keyfile", tls.key_file),
    ):
        if path is not None:
            options[option] = str(path)
    return options


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
