"""The token service as a process: puts the parts together, serves, reloads, stops in order."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from authz import __version__
from authz.check.jwe import Opener
from authz.check.proof import ProofVerifier
from authz.event_loop import loop_factory, reload_on_hangup, stopping_signals
from authz.footprint import settle
from authz.keys.decryption import DecryptionRings
from authz.keys.issuing.open import open_signing_keys
from authz.keys.manager import KeyRings
from authz.keys.nonces import open_nonces
from authz.observe import events
from authz.observe.heartbeat import Heartbeat
from authz.observe.http import AdminServer
from authz.observe.logs import configure_logs
from authz.observe.readiness import Readiness
from authz.revocation.open import open_store
from authz.revocation.redis.store import RedisStore
from authz.settings import Settings, SettingsError
from authz.settings.tokens import TokensSettings
from authz.tokens.clients.secret import SecretHasher
from authz.tokens.clients.store import RedisClients
from authz.tokens.encryption import Encryption
from authz.tokens.http.app import make_app
from authz.tokens.http.authentication import Authenticator
from authz.tokens.http.figures import Figures
from authz.tokens.http.parts import Parts, Paths
from authz.tokens.http.proofs import Proofs
from authz.tokens.http.server import HttpServer
from authz.tokens.http.subjects import Subjects
from authz.tokens.http.throttle import Throttle
from authz.tokens.issuer import TokenIssuer
from authz.tokens.limits.limiter import Limiter
from authz.tokens.limits.storage import close_storage, open_storage
from authz.tokens.metrics import TokenMetrics
from authz.uses.ledger import Ledger

STORE_TIMEOUT = 1.0
"""Seconds that a question to the store may take at least: half of a failover, and less than the
`store.write_timeout` of what is written."""

log = structlog.get_logger(__name__)


class TokenService:
    """One running token service. Make it in a running event loop."""

    def __init__(self, settings: Settings) -> None:
        """SettingsError: no `tokens`, no Redis; a key, secret or certificate that can't be used."""
        tokens = settings.tokens
        if tokens is None:
            raise SettingsError("tokens: say what is issued; see authz/tokens/README.md")
        store = open_store(_patient(settings))
        if not isinstance(store, RedisStore):
            raise SettingsError("store.url: the token service needs a Redis that sidecars share")
        self._settings = settings
        self._issuer = tokens.issuer
        self._store = store
        self._started_at = time.time()
        self._keys = open_signing_keys(tokens.signing)
        self._trusted = _trusted_keys(settings, tokens)
        self._encryption = Encryption(tokens.encryption)
        self._encryption.load()
        self._opening = DecryptionRings(settings.issuers, only=tokens.issuer)
        self._opening.load()
        self._hasher = SecretHasher()
        self._counters = open_storage(settings.store)
        self._limiter = Limiter(tokens.limits, self._counters)
        self._heartbeat = Heartbeat()
        self._readiness = Readiness()
        self._following: asyncio.Task[None] | None = None
        parts = self._parts(settings, tokens)
        self._server = HttpServer(
            make_app(parts), tokens.listen, tls=tokens.tls, drain=settings.drain_timeout
        )
        metrics = TokenMetrics(
            parts.figures,
            parts.throttle,
            self._limiter,
            self._hasher,
            self._keys,
            self._heartbeat.lag,
        )
        self._admin = AdminServer(
            tokens.http_listen,
            metrics=metrics.render,
            status=self.status,
            heartbeat=self._heartbeat,
            readiness=self._readiness,
        )

    def _parts(self, settings: Settings, tokens: TokensSettings) -> Parts:
        """What the endpoints are made of."""
        buckets, leeway = settings.store.buckets, settings.leeway
        clients = RedisClients(self._store.scripts, self._store.nodes, buckets)
        throttle = Throttle(self._limiter)
        ledger = Ledger(self._store)
        proofs = ProofVerifier(
            max_age=settings.dpop.max_age, leeway=leeway, nonces=open_nonces(settings.dpop)
        )
        return Parts(
            tokens=TokenIssuer(
                tokens,
                self._keys,
                self._store.scripts,
                buckets=buckets,
                leeway=leeway,
                encrypt=self._encryption.seal,
                decrypt=self._decrypt(),
            ),
            encryption=self._encryption,
            clients=clients,
            authenticator=Authenticator(clients, self._hasher, throttle, time.time),
            throttle=throttle,
            subjects=Subjects(
                tokens.exchange,
                self._trusted,
                clients,
                ledger,
                self._store.find,
                issuer=tokens.issuer,
                leeway=leeway,
                buckets=buckets,
            ),
            proofs=Proofs(proofs, ledger, buckets),
            keys=self._keys,
            settings=tokens,
            paths=Paths(tokens.issuer),
            figures=Figures(),
            clock=time.time,
        )

    def _decrypt(self) -> Callable[[str], str] | None:
        """Opens our own tokens where `issuers` has us with a key for that."""
        if not self._opening.by_issuer:
            return None
        opener = Opener(self._opening.by_issuer)
        return lambda text: opener.open(text).token

    async def start(self) -> None:
        """Serve. Returns when requests are answered, whether or not the store and the signing keys
        are reachable. SettingsError: an address can't be had, a key can't be used.
        """
        log.info(events.TOKENS_STARTING, version=__version__, issuer=self._issuer)
        self._heartbeat.start()
        self._admin.start()
        await self._store.start()
        await self._keys.start()
        await self._trusted.start()
        await self._encryption.start()
        await self._opening.start()
        await self._store.first_look()
        follow = self._store.announcements.follow(self._refetch)
        self._following = asyncio.get_running_loop().create_task(follow)
        await self._server.start()
        self._readiness.serving()
        log.info(events.TOKENS_SERVING, listen=self._server.listen)

    async def _refetch(self) -> None:
        """Signing keys were withdrawn: ours, or those of an issuer that we trust."""
        self._trusted.withdrawn()
        await self._keys.refresh()

    async def ended(self) -> None:
        """Wait until it serves no more. Raises what ended it, where it wasn't asked to."""
        await self._server.ended

    async def reload(self) -> None:
        """Read all keys and certificates again (SIGHUP)."""
        log.info(events.RELOADING)
        self._server.reload_tls()
        await self._keys.refresh()
        await self._trusted.reload()
        await self._encryption.reload()
        await self._opening.reload()

    async def stop(self) -> None:
        """Not ready; answers under way end; everything is closed."""
        self._readiness.not_serving("draining")
        log.info(events.DRAINING)
        await self._server.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        await self._opening.aclose()
        await self._encryption.aclose()
        await self._trusted.aclose()
        await self._keys.aclose()
        self._hasher.close()
        await close_storage(self._counters)
        await self._store.aclose()
        await self._heartbeat.aclose()
        await self._admin.aclose()
        log.info(events.STOPPED)

    def status(self) -> dict[str, Any]:
        """JSON-ready, without secrets."""
        return {
            "version": __version__,
            "ready": self._readiness.ready,
            "uptime_seconds": round(time.time() - self._started_at, 1),
            "issuer": self._issuer,
            "listen": self._server.listen,
            "signing": self._keys.status(),
            "encryption": self._encryption.status(),
            "decryption": {name: one.status() for name, one in self._opening.by_issuer.items()},
            "trusted_issuers": self._trusted.status(),
            "limits": {
                "shared": self._limiter.shared_answers,
                "failures": self._limiter.failures,
            },
            "store": self._store.status(),
        }


def _patient(settings: Settings) -> Settings:
    """`store.timeout` is for checks, which Envoy waits for. Here nothing can be let through
    unasked, and what was used up and not heard of is lost.
    """
    timeout = max(settings.store.timeout, STORE_TIMEOUT)
    store = settings.store.model_copy(update={"timeout": timeout})
    return settings.model_copy(update={"store": store})


def _trusted_keys(settings: Settings, tokens: TokensSettings) -> KeyRings:
    """Of the identity providers whose users are taken over, loaded as far as they are here."""
    rings = KeyRings(settings.model_copy(update={"issuers": tokens.exchange.issuers}))
    try:
        rings.load()
    except SettingsError as error:
        raise SettingsError(f"tokens.exchange.{error}") from None
    return rings


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stopping = stopping_signals()
    service = TokenService(settings)
    reload_on_hangup(service.reload)
    try:
        await service.start()
        settle()
        asked = loop.create_task(stopping.wait())
        ended = loop.create_task(service.ended())
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
    finally:
        await service.stop()
    await asyncio.gather(ended, return_exceptions=stopping.is_set())


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. SettingsError: it can't start as configured."""
    configure_logs(settings.log)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings))
