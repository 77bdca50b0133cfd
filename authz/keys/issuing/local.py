"""Signing keys that lie on this machine: a key file, a variable with the same, a secret."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from authz.keys.errors import KeySourceError
from authz.keys.issuing.document import grown, read_document, shrunk
from authz.keys.issuing.held import HeldKey, LocalSigner
from authz.keys.issuing.schedule import KeyTimes
from authz.keys.keyfile import is_exposed_file, lock, read_keys, write_keys
from authz.keys.local import read_file
from authz.keys.rotation import name_of
from authz.keys.secret import parse_secret
from authz.keys.signing import secret_signing_key
from authz.observe import events

READ_EVERY = 60.0
"""Seconds: a network file system doesn't report what other machines do."""

ALGORITHM = "HS256"

SECRET_NAME = "secret"  # noqa: S105  how the only one is called
"""Stands for the `kid` of a secret, which has none."""

log = structlog.get_logger(__name__)


class KeyFile:
    """The file of `authz keys generate`. Readings and writings are in threads, for a file may lie
    on a network file system that hangs.
    """

    setting = "key_file"
    remote = False
    rotates = True
    read_every = READ_EVERY

    def __init__(self, path: Path, algorithm: str | None) -> None:
        """`algorithm`: of keys that are made; None: that of the key that signs."""
        self.watched: Path | None = path
        self.where = str(path)
        self._path = path
        self._algorithm = algorithm
        self._warned = False

    async def read(self) -> Sequence[HeldKey]:
        """As `KeyStore.read`."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Sequence[HeldKey]:
        keys = read_document(read_file(self._path))
        if is_exposed_file(self._path) and not self._warned:
            log.warning(events.SIGNING_KEYS_EXPOSED, where=self.where)
            self._warned = True
        return keys

    async def rotate(self, now: float, *, ahead: float, newest: str | None = None) -> str | None:
        """As `KeyStore.rotate`. Of two processes with the same file one makes the key."""
        return await asyncio.to_thread(self._rotate, now, ahead, newest)

    def _rotate(self, now: float, ahead: float, newest: str | None) -> str | None:
        try:
            with lock(self._path):
                keys = read_keys(self._path, private=True)
                before = set(map(name_of, keys))
                result = grown(keys, self._algorithm, now=now, ahead=ahead, newest=newest)
                if result is None:
                    return None
                write_keys(self._path, result.keys, replace=True)
        except OSError as error:
            raise KeySourceError(error.strerror or "can't be written") from None
        return next(name for name in map(name_of, result.keys) if name not in before)

    async def withdraw(self, kid: str, now: float) -> Sequence[str]:
        """As `KeyStore.withdraw`."""
        return await asyncio.to_thread(self._withdraw, kid, now)

    def _withdraw(self, kid: str, now: float) -> Sequence[str]:
        try:
            with lock(self._path):
                keys = read_keys(self._path, private=True)
                result = shrunk(keys, self._algorithm, kid, now=now)
                write_keys(self._path, result.keys, replace=True)
        except OSError as error:
            raise KeySourceError(error.strerror or "can't be written") from None
        return [name_of(key) for key in result.dropped]

    async def aclose(self) -> None:
        """Nothing is open."""


class _Given:
    """Keys that somebody else replaces."""

    remote = False
    rotates = False
    setting = ""
    read_every = READ_EVERY

    async def rotate(self, now: float, *, ahead: float, newest: str | None = None) -> str | None:
        """KeySourceError: always."""
        del now, ahead, newest
        raise KeySourceError("can't be written from here; replace it where it is set")

    async def withdraw(self, kid: str, now: float) -> Sequence[str]:
        """KeySourceError: always."""
        del kid, now
        raise KeySourceError(
            "can't be written from here; replace it where it is set, then run "
            "`authz keys withdraw --announce`"
        )

    async def aclose(self) -> None:
        """Nothing is open."""


class KeyVariable(_Given):
    """An environment variable with the same JSON, which a process reads once for all."""

    setting = "key_env"
    watched: Path | None = None

    def __init__(self, name: str) -> None:
        self.where = name

    async def read(self) -> Sequence[HeldKey]:
        """As `KeyStore.read`."""
        value = os.environb.get(os.fsencode(self.where))
        if value is None:
            raise KeySourceError("the environment variable is not set")
        return read_document(value)


class Secret(_Given):
    """An HMAC secret for HS256, of a file or a variable."""

    def __init__(self, path: Path | None, variable: str | None) -> None:
        """Exactly one of the two."""
        self.setting = "secret_env" if path is None else "secret_file"
        self.where = str(path) if path is not None else str(variable)
        self.watched = path

    async def read(self) -> Sequence[HeldKey]:
        """As `KeyStore.read`."""
        secret = await asyncio.to_thread(self._secret)
        signer = LocalSigner(secret_signing_key(secret, ALGORITHM))
        (verifies,) = parse_secret(secret, [ALGORITHM])
        return [HeldKey(KeyTimes(SECRET_NAME, None), signer, verifies, None)]

    def _secret(self) -> bytes:
        if self.watched is not None:
            return read_file(self.watched)
        value = os.environb.get(os.fsencode(self.where))
        if value is None:
            raise KeySourceError("the environment variable is not set")
        return value
