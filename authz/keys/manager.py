"""The key rings of all issuers: built from the settings, loaded at start, kept fresh after that."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import structlog

from authz.keys.decryption import DecryptionRings
from authz.keys.errors import KeySourceError
from authz.keys.local import JwksFile, LocalSource, SecretFile, SecretVariable
from authz.keys.remote import Discovery, JwksUrl, RemoteSource, is_exposed, tls_context
from authz.keys.ring import KeyRing, load_ring
from authz.keys.watch import report_end, watch_files
from authz.observe import events
from authz.settings import IssuerSettings, Settings, SettingsError

START_LIMIT = 3.0
"""Seconds that `start` waits for the first fetches. An issuer answers in a fraction of one; who
doesn't is fetched in the background, and its tokens get `keys_unavailable` until then."""

FIRST_RETRY = 0.5
"""Seconds before a failed fetch is tried again, doubled each time up to `LAST_RETRY`."""

LAST_RETRY = 30.0

JITTER = 0.25
"""Every pause is shortened by up to this share, lest the sidecars of a deployment ask in step."""

WITHDRAWN_SPREAD = 0.5
"""Seconds within which the sidecars of a deployment fetch, once they hear that keys were withdrawn.
"""

WITHDRAWN_AGAIN = 2.5
"""Seconds until they fetch once more: whoever publishes the keys may have heard of it after them, a
second at most, and needs a moment to read its own. The two also keep anybody who could make such
news from having sidecars fetch more often."""

log = structlog.get_logger(__name__)


class KeyRings:
    """One ring for each configured issuer, and one more for each whose tokens are encrypted.

    `load` reads what is on this machine, `start` begins to fetch and to watch, `aclose` ends that.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic seconds, for ages and the refetch limit."""
        self._settings = settings
        rings = {
            issuer.issuer: KeyRing(issuer.issuer, _source(issuer), clock=clock)
            for issuer in settings.issuers
        }
        self.by_issuer: Mapping[str, KeyRing] = MappingProxyType(rings)
        self._opening = DecryptionRings(settings.issuers, clock=clock)
        self.decryption: Mapping[str, KeyRing] = self._opening.by_issuer
        """By issuer, of those whose encrypted tokens are accepted."""
        self._tasks: list[asyncio.Task[None]] = []
        self._reading = asyncio.Lock()
        self._withdrawn = asyncio.Event()

    @property
    def all(self) -> list[KeyRing]:
        return [*self.by_issuer.values(), *self.decryption.values()]

    def ring(self, issuer: str) -> KeyRing | None:
        return self.by_issuer.get(issuer)

    def load(self) -> None:
        """Read files and variables; touches no network.

        SettingsError: one of them, or a `ca_file`, can't be used. Its line names the setting.
        """
        self._opening.load()
        for position, issuer in enumerate(self._settings.issuers):
            prefix = f"issuers.{position}.keys"
            ring = self.by_issuer[issuer.issuer]
            if isinstance(ring.source, LocalSource):
                load_ring(ring, ring.source, f"{prefix}.{ring.source.setting}")
            elif issuer.keys.ca_file is not None:
                _check_ca_file(issuer, f"{prefix}.ca_file")
            if isinstance(ring.source, RemoteSource) and is_exposed(_url(issuer)):
                log.warning(
                    events.KEYS_FETCHED_IN_THE_CLEAR, issuer=issuer.issuer, where=ring.source.where
                )

    async def start(self) -> None:
        """Begin to fetch and to watch; call `load` before. Returns when every URL has been tried
        once, at the latest after `START_LIMIT`. Never fails: what can't be had now is tried again.
        """
        await self._opening.start()
        first: list[asyncio.Event] = []
        files: list[tuple[SecretFile | JwksFile, float]] = []
        for issuer in self._settings.issuers:
            ring = self.by_issuer[issuer.issuer]
            if isinstance(ring.source, SecretFile | JwksFile):
                files.append((ring.source, issuer.keys.refresh))
            elif isinstance(ring.source, RemoteSource):
                tried = asyncio.Event()
                first.append(tried)
                self._spawn(_keep_fetching(ring, issuer.keys.refresh, tried))
        if files:
            paths = [source.path for source, _ in files]
            idle = min(refresh for _, refresh in files)
            self._spawn(watch_files(paths, self._reread, idle=idle))
        if first:
            self._spawn(self._follow_withdrawals())
            waiting = [asyncio.ensure_future(tried.wait()) for tried in first]
            _, late = await asyncio.wait(waiting, timeout=START_LIMIT)
            for task in late:
                task.cancel()

    async def reload(self) -> None:
        """Read and fetch everything now (SIGHUP). Returns when it is done. What fails keeps its
        last good keys.
        """
        fetches = [ring.fetch() for ring in self._remote()]
        await self._opening.reload()
        await self._reread()
        for fetch in fetches:
            await fetch

    def withdrawn(self) -> None:
        """Somebody's signing keys were withdrawn: all are fetched, in a moment and once more."""
        self._withdrawn.set()

    async def aclose(self) -> None:
        """End everything that `start` began. The rings keep their keys."""
        await self._opening.aclose()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        for ring in self.by_issuer.values():
            await ring.aclose()

    def status(self) -> dict[str, Any]:
        """Issuer → its ring's status. JSON-ready, without key material."""
        return {
            issuer: ring.status()
            | ({"decryption": opens.status()} if (opens := self.decryption.get(issuer)) else {})
            for issuer, ring in self.by_issuer.items()
        }

    def _remote(self) -> list[KeyRing]:
        return [r for r in self.by_issuer.values() if isinstance(r.source, RemoteSource)]

    async def _follow_withdrawals(self) -> None:
        while True:
            await self._withdrawn.wait()
            await asyncio.sleep(random.uniform(0, WITHDRAWN_SPREAD))  # noqa: S311  spreads load
            self._withdrawn.clear()  # what comes from here on calls for another round
            await asyncio.gather(*(ring.fetch() for ring in self._remote()))
            await asyncio.sleep(WITHDRAWN_AGAIN)
            await asyncio.gather(*(ring.fetch() for ring in self._remote()))
            failures = 1
            # Until it succeeds the withdrawn key is good here: that can't wait for `keys.refresh`.
            while failing := [ring for ring in self._remote() if ring.failing]:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_after(failures, LAST_RETRY)):
                        await self._withdrawn.wait()
                        break
                await asyncio.gather(*(ring.fetch() for ring in failing))
                failures += 1

    async def _reread(self) -> None:
        """Read all local sources. One at a time: of two readings the later must win."""
        async with self._reading:
            for ring in self.by_issuer.values():
                if not isinstance(ring.source, LocalSource):
                    continue
                try:
                    # In a thread: a file may lie on a network file system that hangs.
                    ring.accept(await asyncio.to_thread(ring.source.read))
                except KeySourceError as error:
                    ring.fail(error)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(report_end)
        self._tasks.append(task)


async def _keep_fetching(ring: KeyRing, refresh: float, tried: asyncio.Event) -> None:
    failures = 0
    while True:
        await ring.fetch()
        tried.set()
        failures = failures + 1 if ring.failing else 0
        spread = random.uniform(1 - JITTER, 1)  # noqa: S311 - spreads load, guards nothing
        await asyncio.sleep(pause_after(failures, refresh) * spread)


def pause_after(failures: int, refresh: float) -> float:
    """Seconds until the next fetch, after so many failures in a row; 0: after a success."""
    if failures == 0:
        return refresh
    doublings = min(failures - 1, 16)  # 2**16 half seconds are beyond `LAST_RETRY`
    return min(FIRST_RETRY * 2.0**doublings, LAST_RETRY, refresh)


def _source(issuer: IssuerSettings) -> LocalSource | RemoteSource:
    keys, algorithms = issuer.keys, frozenset(issuer.algorithms)
    if keys.jwks_file is not None:
        return JwksFile(keys.jwks_file, algorithms)
    if keys.secret_file is not None:
        return SecretFile(keys.secret_file, algorithms)
    if keys.secret_env is not None:
        return SecretVariable(keys.secret_env, algorithms)
    if keys.jwks_url is not None:
        return JwksUrl(keys.jwks_url, algorithms, limit=keys.timeout, ca_file=keys.ca_file)
    return Discovery(issuer.issuer, algorithms, limit=keys.timeout, ca_file=keys.ca_file)


def _url(issuer: IssuerSettings) -> str:
    return issuer.keys.jwks_url or issuer.issuer


def _check_ca_file(issuer: IssuerSettings, setting: str) -> None:
    try:
        tls_context(issuer.keys.ca_file)
    except KeySourceError as error:
        raise SettingsError(f"{setting}: {issuer.keys.ca_file}: {error}") from None
