"""The rings of keys that open encrypted tokens: loaded at start, kept fresh after that."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from authz.keys.errors import KeySourceError
from authz.keys.local import DecryptionFile
from authz.keys.ring import KeyRing, load_ring
from authz.keys.watch import report_end, watch_files
from authz.settings import IssuerSettings


class DecryptionRings:
    """One ring for each issuer whose encrypted tokens are accepted."""

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        *,
        only: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`issuers`: all, in the order of the settings, whose names errors give. `only`: the one
        that matters; None: each.
        """
        self._issuers = tuple(issuers)
        self._sources = {
            issuer.issuer: DecryptionFile(
                issuer.decryption.key_file, frozenset(issuer.decryption.algorithms)
            )
            for issuer in self._issuers
            if issuer.decryption is not None and only in {None, issuer.issuer}
        }
        self.by_issuer: Mapping[str, KeyRing] = MappingProxyType(
            {name: KeyRing(name, source, clock=clock) for name, source in self._sources.items()}
        )
        self._watching: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()

    def load(self) -> None:
        """Read the files. SettingsError: one can't be used, or holds no key that opens."""
        for position, issuer in enumerate(self._issuers):
            source = self._sources.get(issuer.issuer)
            if source is not None:
                setting = f"issuers.{position}.decryption.{source.setting}"
                load_ring(self.by_issuer[issuer.issuer], source, setting)

    async def start(self) -> None:
        """Begin to follow the files; call `load` before."""
        if self._sources:
            paths = {source.path for source in self._sources.values()}
            idle = min(issuer.keys.refresh for issuer in self._issuers)
            self._watching = asyncio.create_task(watch_files(paths, self.reload, idle=idle))
            self._watching.add_done_callback(report_end)

    async def reload(self) -> None:
        """Read the files now, one reading at a time: of two the later must win. What fails keeps
        its last good keys.
        """
        async with self._reading:
            for name, source in self._sources.items():
                try:
                    # In a thread: a file may lie on a network file system that hangs.
                    self.by_issuer[name].accept(await asyncio.to_thread(source.read))
                except KeySourceError as error:
                    self.by_issuer[name].fail(error)

    async def aclose(self) -> None:
        """End what `start` began. The rings keep their keys."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
