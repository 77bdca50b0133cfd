"""The sidecar as a whole: puts the parts together, serves, reloads, and stops in order."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog

from authz import __version__
from authz.audit.log import AuditLog
from authz.audit.pending import LetThrough, Pending
from authz.audit.recall import recall
from authz.audit.reconciler import Reconciler
from authz.audit.recorder import FailOpenRecorder
from authz.check.authorizer import Authorizer
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.policy import RoutePolicies
from authz.check.verifier import Verifier
from authz.envoy_api.open import CheckServer, open_server
from authz.envoy_api.service import CheckService
from authz.event_loop import loop_factory, reload_on_hangup, stopping_signals
from authz.footprint import settle
from authz.keys.manager import KeyRings
from authz.keys.nonces import open_nonces
from authz.observe import events
from authz.observe.counters import (
    REVOCATION_LAG_BUCKETS,
    CheckCounters,
    Histogram,
    StoreCounters,
)
from authz.observe.heartbeat import Heartbeat
from authz.observe.http import AdminServer
from authz.observe.logs import configure_logs
from authz.observe.metrics import Metrics
from authz.observe.readiness import Readiness
from authz.revocation.exposed import ExposedTokens
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.memory import MemoryStore
from authz.revocation.open import open_store
from authz.revocation.view import Revocations
from authz.settings import Settings
from authz.uses.ledger import Ledger
from authz.uses.settler import Settler

log = structlog.get_logger(__name__)


class Sidecar:
    """One running sidecar. Make it in a running event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        open_server: Callable[[Settings, CheckService], CheckServer] = open_server,
        admin: bool = True,
    ) -> None:
        """`open_server` makes what carries the checks. `admin`: whether it answers `http_listen`
        itself; one of several workers doesn't.

        SettingsError: a key, secret, password or certificate that can't be used.
        """
        self._settings = settings
        self._started_at = time.time()
        self._keys = KeyRings(settings)
        self._keys.load()
        self._checks = CheckCounters()
        self._verifier = Verifier(
            settings.issuers,
            self._keys.by_issuer,
            leeway=settings.leeway,
            buckets=settings.store.buckets,
            cache_size=settings.cache.tokens,
            decryption=self._keys.decryption,
        )
        self._knowledge = Knowledge(
            revocations=settings.cache.revocations,
            negative_ttl=settings.cache.negative_ttl,
            false_positives=settings.feed.false_positives,
            buckets=settings.store.buckets,
        )
        self._revocations = Revocations(self._knowledge, time.time, time.monotonic)
        store_counters = StoreCounters()
        self._store = open_store(
            settings, learn=self._revocations.learn, observe=store_counters.observe
        )
        revocation_lag = Histogram(REVOCATION_LAG_BUCKETS)
        self._feed = (
            None
            if isinstance(self._store, MemoryStore) or not settings.feed.enabled
            else self._store.follow(
                settings.feed,
                self._knowledge,
                clock=time.time,
                monotonic=time.monotonic,
                observe_lag=revocation_lag.observe,
                keys_withdrawn=self._keys.withdrawn,
            )
        )
        self._revocations.use(self._store, None if self._feed is None else self._feed.remembers)
        self.ledger = Ledger(None if isinstance(self._store, MemoryStore) else self._store)
        """What works once; several workers tell each other of it."""
        self._settler = Settler(self.ledger, time.time)
        self._audit = AuditLog(settings.audit)
        pending = Pending()
        recorder = FailOpenRecorder(
            self._audit, required=settings.audit.required, pending=pending, clock=time.time
        )
        self._reconciler = Reconciler(
            pending,
            self._store,
            self._audit,
            clock=time.time,
            recall=self._recall(),
        )
        self._exposed: ExposedTokens | None = None
        if settings.revoke_exposed:
            self._exposed = ExposedTokens(self._store, self._revocations.learn, clock=time.time)
        authorizer = Authorizer(
            credentials=CredentialFinder(settings.credentials),
            verifier=self._verifier,
            revocations=self._revocations,
            policies=RoutePolicies(settings.fail_mode, require_https=settings.require_https),
            guards=all_guards(
                settings,
                exposed=None if self._exposed is None else self._exposed.tell,
                nonces=open_nonces(settings.dpop),
            ),
            ledger=self.ledger,
            recorder=recorder,
            clock=time.time,
        )
        service = CheckService(authorizer, self._checks)
        self._server = open_server(settings, service)
        self._heartbeat = Heartbeat()
        self._readiness = Readiness()
        self.metrics = Metrics(
            checks=self._checks,
            connections=self._server.counters,
            fail_opens=recorder.fail_opens,
            tokens=self._verifier,
            knowledge=self._knowledge,
            feed=self._feed,
            revocation_lag=revocation_lag,
            lookups=self._revocations.results,
            store_latency=store_counters.latency,
            store=None if isinstance(self._store, MemoryStore) else self._store,
            uses=self.ledger,
            exposed={} if self._exposed is None else self._exposed.results,
            audit=self._audit,
            reconciler=self._reconciler,
            keys=lambda: self._keys.all,
            loop_lag=self._heartbeat.lag,
            transport=settings.transport,
            clock=time.monotonic,
        )
        self._admin: AdminServer | None = None
        if admin:
            self._admin = AdminServer(
                settings.http_listen,
                metrics=self.metrics.render,
                status=self.status,
                heartbeat=self._heartbeat,
                readiness=self._readiness,
            )

    async def start(self) -> None:
        """Serve. Returns when checks are answered, whether or not the store is reachable.

        SettingsError: an address can't be had.
        """
        log.info(events.STARTING, version=__version__, transport=self._settings.transport)
        if isinstance(self._store, MemoryStore):
            log.warning(events.STORE_IN_MEMORY)
        self._heartbeat.start()
        self._audit.start()
        if self._admin is not None:
            self._admin.start()
        await self._store.start()
        if self._feed is not None:
            self._feed.start()
        if self._exposed is not None:
            self._exposed.start()
        self._reconciler.start()
        self._settler.start()
        await self._keys.start()
        if not isinstance(self._store, MemoryStore):
            await self._store.first_look()
        await self._server.start()
        self._readiness.serving()
        log.info(events.SERVING, listen=self._settings.listen)

    async def reload(self) -> None:
        """Read all keys and certificates again and reopen the audit (SIGHUP)."""
        log.info(events.RELOADING)
        self._audit.reopen()
        self._server.reload_tls()
        await self._keys.reload()

    async def stop(self) -> None:
        """Not ready; GOAWAY; answers in flight finish; the audit is flushed."""
        self._readiness.not_serving("draining")
        log.info(events.DRAINING)
        await self._server.stop(self._settings.drain_timeout)
        if self._exposed is not None:
            await self._exposed.aclose()
        await self._reconciler.aclose()
        await self._settler.aclose()
        await self._audit.aclose()
        await self._keys.aclose()
        if self._feed is not None:
            await self._feed.aclose()
        await self._store.aclose()
        await self._heartbeat.aclose()
        if self._admin is not None:
            await self._admin.aclose()
        log.info(events.STOPPED)

    def status(self) -> dict[str, Any]:
        """What this sidecar knows: JSON-ready, without secrets."""
        return {
            "version": __version__,
            "ready": self._readiness.ready,
            "uptime_seconds": round(time.time() - self._started_at, 1),
            "transport": self._settings.transport,
            "listen": self._settings.listen,
            "fail_mode": self._settings.fail_mode,
            "checks": {
                f"{decision}:{reason}": count
                for (decision, reason), count in self._checks.verdicts().items()
            },
            "tokens": {
                "cached": self._verifier.size,
                "hits": self._verifier.hits,
                "misses": self._verifier.misses,
            },
            "revocations": {
                "revoked_cached": self._knowledge.cache.size_revoked,
                "clear_cached": self._knowledge.cache.size_clear,
                "lookups": dict(self._revocations.results),
            },
            "exposed": None
            if self._exposed is None
            else {"waiting": self._exposed.waiting, **self._exposed.results},
            "feed": None if self._feed is None else self._feed.status(),
            "store": self._store.status(),
            "uses": {
                "remembered": self.ledger.remembered,
                "unwritten": len(self.ledger.owed),
                **self.ledger.results,
            },
            "keys": self._keys.status(),
            "audit": self._audit.status(),
            "reconciler": self._reconciler.status(),
        }

    def _recall(self) -> Callable[[], Sequence[LetThrough]] | None:
        """None where the store would know nothing of an earlier start."""
        path = self._settings.audit.path
        if path is None or isinstance(self._store, MemoryStore):
            return None
        return partial(recall, path, self._audit.instance, self._settings.store.buckets)


async def _serve(settings: Settings) -> None:
    stopping = stopping_signals()
    sidecar = Sidecar(settings)
    reload_on_hangup(sidecar.reload)
    await sidecar.start()
    settle()
    await stopping.wait()
    await sidecar.stop()


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. SettingsError: it can't start as configured."""
    configure_logs(settings.log)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings))
