"""Key sources of this machine: files and environment variables. Read whole, and strictly."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from authz.keys.encryption import parse_decryption_keys
from authz.keys.errors import KeySourceError
from authz.keys.jwk import MAX_DOCUMENT_BYTES, ParsedKeys, parse_jwks
from authz.keys.secret import parse_secret


@dataclass(frozen=True, slots=True)
class JwksFile:
    path: Path
    algorithms: Collection[str]
    setting: str = "jwks_file"

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> ParsedKeys:
        """KeySourceError: the file can't be read, or a key in it can't be used."""
        return parse_jwks(read_file(self.path), self.algorithms, strict=True)


@dataclass(frozen=True, slots=True)
class SecretFile:
    path: Path
    algorithms: Collection[str]
    setting: str = "secret_file"

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> ParsedKeys:
        """KeySourceError: the file can't be read, or the secret is weak."""
        return ParsedKeys(parse_secret(read_file(self.path), self.algorithms), ())


@dataclass(frozen=True, slots=True)
class SecretVariable:
    name: str
    algorithms: Collection[str]
    setting: str = "secret_env"

    @property
    def where(self) -> str:
        return self.name

    def read(self) -> ParsedKeys:
        """KeySourceError: the variable is not set, or the secret is weak."""
        value = os.environb.get(os.fsencode(self.name))
        if value is None:
            raise KeySourceError("the environment variable is not set")
        return ParsedKeys(parse_secret(value, self.algorithms), ())


@dataclass(frozen=True, slots=True)
class DecryptionFile:
    """Private keys that open an issuer's encrypted tokens."""

    path: Path
    algorithms: Collection[str]
    setting: str = "key_file"

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self) -> ParsedKeys:
        """KeySourceError: the file can't be read, or a key in it can't be used."""
        return parse_decryption_keys(read_file(self.path), self.algorithms)


LocalSource = JwksFile | SecretFile | SecretVariable | DecryptionFile


def read_file(path: Path) -> bytes:
    """All of a regular file. KeySourceError: unreadable, something else than a file, too large."""
    try:
        # O_NONBLOCK: a FIFO without a writer would block the open, and with it the process.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise KeySourceError("is not a regular file")
            data = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise KeySourceError(error.strerror or "can't be read") from None
    if len(data) > MAX_DOCUMENT_BYTES:
        raise KeySourceError(f"is larger than {MAX_DOCUMENT_BYTES} bytes")
    return data
