"""The relay as a process: puts the parts together, runs, and stops in order."""

import asyncio
import hashlib
import time
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from authz import __version__
from authz.event_loop import loop_factory, stopping_signals
from authz.footprint import settle
from authz.observe import events
from authz.observe.heartbeat import Heartbeat
from authz.observe.http import AdminServer
from authz.observe.logs import configure_logs
from authz.observe.readiness import Readiness
from authz.relay.metrics import RelayMetrics
from authz.relay.relay import Relay
from authz.relay.side import Side, Target
from authz.settings import LogSettings, Settings, SettingsError, StoreSettings, store_url_parts

MAX_NAME = 64
"""Characters of a cursor's name. A longer list of hosts is named by its digest."""

PATIENCE = 30.0
"""Seconds without any progress after which `--once` gives up: six times `store.write_timeout`, and
more than a failover takes."""

LOOK_EVERY = 0.05
"""Seconds between two looks at whether `--once` is done."""

log = structlog.get_logger(__name__)


class RelayError(Exception):
    """`--once` didn't come to its end. The text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Direction:
    """What is copied where."""

    source: StoreSettings
    target: StoreSettings
    name: str
    """Of the cursor that is kept in the target."""

    @classmethod
    def of_settings(cls, settings: Settings) -> "Direction":
        """From `relay` to `store`. SettingsError: one of them isn't there, or both are one."""
        relay, target = settings.relay, settings.store
        if relay.url is None or relay.url.get_secret_value().startswith("memory:"):
            raise SettingsError("relay.url: give the store to copy from, here or by --from")
        if target.url.get_secret_value().startswith("memory:"):
            raise SettingsError("store.url: give the store to copy to, here or by --to")
        given = relay.model_dump(exclude={"name"})
        try:
            source = StoreSettings(**{**target.model_dump(), **given})
        except ValidationError as error:
            what = error.errors(include_input=False)[0]["msg"].removeprefix("Value error, ")
            raise SettingsError(f"relay: {what}") from None
        _, from_nodes, from_database = store_url_parts(source)
        _, to_nodes, to_database = store_url_parts(target)
        if set(from_nodes) & set(to_nodes) and from_database == to_database:
            raise SettingsError("relay.url and store.url (--from, --to) are the same store")
        return cls(source, target, relay.name or name_of(source))


def _of_relay(error: str) -> str:
    """The same, named as the user has it."""
    return error.replace("store.", "relay.")


def name_of(source: StoreSettings) -> str:
    """Of a cursor: the hosts to copy from, without credentials and in any order the same."""
    _, nodes, database = store_url_parts(source)
    hosts = ",".join(sorted(f"{host}:{port}" for host, port in nodes))
    name = f"{hosts}/{database}" if database else hosts
    if len(name) <= MAX_NAME:
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:32]


class RelayProcess:
    """One relay with its metrics and probes. Make it in a running loop."""

    def __init__(self, direction: Direction, *, http_listen: str | None, drain: float) -> None:
        """`drain`: seconds that are given at the end to what is being copied. SettingsError: a
        password or certificate that can't be read.
        """
        try:
            source = Side("from", direction.source)
        except SettingsError as error:
            raise SettingsError(_of_relay(str(error))) from None
        target = Target(direction.target, direction.name)
        self._direction = direction
        self._drain = drain
        self._heartbeat = Heartbeat()
        self._readiness = Readiness()
        self.relay = Relay(source, target, clock=time.time, monotonic=time.monotonic)
        self._metrics = RelayMetrics(self.relay, self._heartbeat.lag)
        self._admin = http_listen and AdminServer(
            http_listen,
            metrics=self._metrics.render,
            status=self._status,
            heartbeat=self._heartbeat,
            readiness=self._readiness,
        )

    def start(self, *, once: bool) -> None:
        """Copy in the background. SettingsError: the address can't be had."""
        log.info(
            events.RELAYING,
            version=__version__,
            source=_place(self._direction.source),
            target=_place(self._direction.target),
            name=self._direction.name,
        )
        self._heartbeat.start()
        if self._admin:
            self._admin.start()
        self.relay.start(subscribe=not once)
        self._readiness.serving()

    async def stop(self) -> None:
        self._readiness.not_serving("draining")
        log.info(events.DRAINING)
        await self.relay.aclose(self._drain)
        await self._heartbeat.aclose()
        if self._admin:
            await self._admin.aclose()
        log.info(events.STOPPED)

    def _status(self) -> dict[str, object]:
        return {
            "version": __version__,
            "from": _place(self._direction.source),
            "to": _place(self._direction.target),
            "name": self._direction.name,
            **self.relay.status(),
        }


def _place(store: StoreSettings) -> str:
    """For people, without credentials."""
    scheme, nodes, database = store_url_parts(store)
    hosts = ",".join(f"{host}:{port}" for host, port in nodes)
    return f"{scheme}://{hosts}" + (f"/{database}" if database else "")


async def _run(
    direction: Direction, *, http_listen: str | None, drain: float, once: bool
) -> dict[str, int]:
    stopping = stopping_signals()
    process = RelayProcess(direction, http_listen=http_listen, drain=drain)
    relay = process.relay
    process.start(once=once)
    settle()
    relay.unlike.add_done_callback(lambda _: stopping.set())
    try:
        if once:
            await _until_copied(relay, stopping)
        else:
            await stopping.wait()
    finally:
        await process.stop()
    if relay.unlike.done():
        raise SettingsError(relay.unlike.result())
    if once and not relay.copied.is_set():
        raise RelayError("stopped before everything was copied; the next run goes on from there")
    return relay.figures.entries


async def _until_copied(relay: Relay, stopping: asyncio.Event) -> None:
    """RelayError: nothing has moved for `PATIENCE` seconds."""
    seen, moved_at = -1, time.monotonic()
    while not relay.copied.is_set() and not stopping.is_set():
        if relay.figures.total != seen:
            seen, moved_at = relay.figures.total, time.monotonic()
        if time.monotonic() - moved_at > PATIENCE:
            error = relay.source.error or relay.target.error or "buckets don't get level"
            raise RelayError(f"nothing could be copied for {PATIENCE:g} s: {error}")
        await asyncio.sleep(LOOK_EVERY)


def run(
    direction: Direction,
    log_settings: LogSettings,
    *,
    http_listen: str | None,
    drain: float,
    once: bool,
) -> dict[str, int]:
    """Copy until SIGTERM or SIGINT, or, by `once`, until all is copied that was there. What became
    of the entries, as `RelayFigures.entries`.

    SettingsError: it can't start as configured, or the stores have different numbers of buckets.
    RelayError: `once` didn't come to its end.
    """
    configure_logs(log_settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(direction, http_listen=http_listen, drain=drain, once=once))
