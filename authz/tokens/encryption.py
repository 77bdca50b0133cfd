"""Tokens for audiences that want them encrypted: a JWE around the signed token.

A token is encrypted to one key, that of its audience, which is read from a file and followed there.
A file that can't be used any more leaves the last good key in use; never is a token given out in
the clear instead.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import structlog
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from authz.check.jwe import CONTENT_ENCRYPTION, MAX_ENCRYPTED_BYTES, NESTED
from authz.keys.encryption import encryption_key
from authz.keys.errors import KeySourceError
from authz.keys.jwk import ForeignKeyError, key_label, read_entries
from authz.keys.keyset import VerificationKey
from authz.keys.local import read_file
from authz.keys.watch import watch_files
from authz.observe import events
from authz.settings import ENCRYPTION_ALGORITHMS, EncryptionSettings, SettingsError

WATCH_IDLE = 300.0
"""Seconds after which files are read even if no change was reported, as with other keys."""

log = structlog.get_logger(__name__)

_REGISTRY = jwe.JWERegistry(algorithms=[*ENCRYPTION_ALGORITHMS, CONTENT_ENCRYPTION])


class MixedAudiencesError(Exception):
    """The audiences of one token don't want it encrypted to the same key."""


class TokenTooLargeError(Exception):
    """The token would be larger than any sidecar accepts, as it is or encrypted."""


def encrypt(token: str, jwks: bytes) -> str:
    """A signed token as an encrypted one (RFC 7519 section 5.2), for the holder of the first key of
    a JWK Set. KeySourceError: it has none that can be encrypted to. TokenTooLargeError.
    """
    return _sealed(token, first_key(jwks))


def _sealed(token: str, key: VerificationKey) -> str:
    (algorithm,) = key.algorithms
    header = {"alg": algorithm, "enc": CONTENT_ENCRYPTION, "cty": NESTED, "kid": key.kid}
    public = cast("RSAKey | ECKey", key.key)
    text = jwe.encrypt_compact(header, token, public, registry=_REGISTRY)
    if len(text) > MAX_ENCRYPTED_BYTES:
        raise TokenTooLargeError(f"{len(text)} bytes; sidecars take {MAX_ENCRYPTED_BYTES}")
    return text


class Encryption:
    """Which audiences want their tokens encrypted, and to what key now.

    `load` reads the files, `start` begins to follow them, `aclose` ends that.
    """

    def __init__(self, settings: Sequence[EncryptionSettings]) -> None:
        self._files = {one.audience: one.jwks_file for one in settings}
        self._keys: dict[Path, VerificationKey] = {}
        self._errors: dict[Path, str] = {}
        self._watching: asyncio.Task[None] | None = None

    def load(self) -> None:
        """SettingsError: a file has no key that can be used. Its line names the setting."""
        for position, path in enumerate(self._files.values()):
            try:
                self._keys[path] = first_key(read_file(path))
            except KeySourceError as error:
                setting = f"tokens.encryption.{position}.jwks_file"
                raise SettingsError(f"{setting}: {path}: {error}") from None

    async def start(self) -> None:
        """Follow the files; call `load` before."""
        if self._files:
            paths = set(self._files.values())
            self._watching = asyncio.create_task(
                watch_files(paths, self.reload, idle=WATCH_IDLE), name="keys: encryption"
            )

    async def reload(self) -> None:
        """Read the files now. What fails keeps its last good key."""
        for path in set(self._files.values()):
            try:
                # In a thread: a file may lie on a network file system that hangs.
                self._accept(path, first_key(await asyncio.to_thread(read_file, path)))
            except KeySourceError as error:
                self._fail(path, str(error))

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def seal(self, token: str, audiences: Sequence[str]) -> str:
        """The token as its audiences want it: encrypted, or as it is.

        MixedAudiencesError: they want different things. TokenTooLargeError.
        """
        path = self.wanted(audiences)
        return token if path is None else _sealed(token, self._keys[path])

    def wanted(self, audiences: Sequence[str]) -> Path | None:
        """The file of the key that all the audiences want; None: all want it in the clear.

        MixedAudiencesError: they don't agree, so that one of them could not read the token.
        """
        files = {self._files.get(audience) for audience in audiences}
        if len(files) > 1:
            raise MixedAudiencesError
        return files.pop() if files else None

    def status(self) -> dict[str, Any]:
        """JSON-ready: by audience, the key that tokens are encrypted to."""
        return {
            audience: {
                "where": str(path),
                "kid": self._keys[path].kid,
                "error": self._errors.get(path),
            }
            for audience, path in self._files.items()
        }

    def _accept(self, path: Path, key: VerificationKey) -> None:
        failed = self._errors.pop(path, None)
        if key != self._keys[path]:
            log.info(events.KEYS_CHANGED, use="enc", where=str(path), added=[key.kid])
        elif failed:
            log.info(events.KEYS_SOURCE_RECOVERED, use="enc", where=str(path))
        self._keys[path] = key

    def _fail(self, path: Path, error: str) -> None:
        if self._errors.get(path) != error:
            log.error(events.KEYS_SOURCE_FAILED, use="enc", where=str(path), error=error)
        self._errors[path] = error


def first_key(data: bytes) -> VerificationKey:
    """The first key of a JWK Set that tokens can be encrypted to. KeySourceError: there is none, or
    one before it is damaged.
    """
    for position, entry in enumerate(read_entries(data)):
        try:
            return encryption_key(entry)
        except ForeignKeyError:
            continue  # a set may hold signing keys as well
        except KeySourceError as error:
            raise KeySourceError(f"{key_label(entry, position)}: {error}") from None
    wanted = ", ".join(ENCRYPTION_ALGORITHMS)
    raise KeySourceError(f"holds no key to encrypt to, for {wanted}")
