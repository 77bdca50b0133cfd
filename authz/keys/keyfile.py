"""Files of private keys: a JWK Set whose first key is the one in use, readable by its owner only.

Files are replaced by renaming a complete new one over them, so that no reader sees half of one.
"""

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from authz.keys.encryption import is_for_encryption, read_encryption_key
from authz.keys.errors import KeySourceError
from authz.keys.jwk import key_label, public_part, read_entries, read_key
from authz.keys.local import read_file
from authz.settings import ALGORITHMS, ENCRYPTION_ALGORITHMS

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644


def read_keys(path: Path, *, private: bool) -> list[dict[str, Any]]:
    """The JWKs of a file, each of them sound, as they stand. At least one.

    KeySourceError: the file can't be read, or a key in it can't be used or, with `private`, is a
    public key.
    """
    entries = read_entries(read_file(path))
    if not entries:
        raise KeySourceError("holds no key")
    for position, entry in enumerate(entries):
        try:
            if isinstance(entry, dict) and is_for_encryption(entry):
                read_encryption_key(entry, ENCRYPTION_ALGORITHMS)
            else:
                read_key(entry, ALGORITHMS)
        except KeySourceError as error:
            raise KeySourceError(f"{key_label(entry, position)}: {error}") from None
        if private and not isinstance(entry.get("d"), str):
            label = key_label(entry, position)
            raise KeySourceError(f"{label} has no private part; name the private key file")
    return entries


def write_keys(path: Path, keys: Sequence[dict[str, Any]], *, replace: bool) -> None:
    """Write private keys, mode 0600. FileExistsError: there is a file, and not `replace`."""
    _write(path, keys, PRIVATE_MODE, replace=replace)


def write_public_keys(path: Path, keys: Sequence[dict[str, Any]]) -> None:
    """Write the public parts, mode 0644, over whatever file is there."""
    _write(path, [public_part(key) for key in keys], PUBLIC_MODE, replace=True)


def dump(keys: Sequence[dict[str, Any]]) -> str:
    """A JWK Set as text."""
    return json.dumps({"keys": list(keys)}, indent=2) + "\n"


def is_exposed_file(path: Path) -> bool:
    """Whether users other than the owner can read the file."""
    with suppress(OSError):
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    return False


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep others of this package from replacing files in `path`'s folder: of two rotations at the
    same time neither gets lost. The lock is on the folder and leaves no file behind.
    """
    descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, keys: Sequence[dict[str, Any]], mode: int, *, replace: bool) -> None:
    path = path.resolve()  # through a link: the file it names is replaced, not the link
    # mkstemp: O_EXCL and 0600 from the first moment. The dot keeps it out of `*.json`.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(dump(keys))
            file.flush()
            os.fchmod(descriptor, mode)
            _keep_owner(path, descriptor)
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            # A hard link is the one way to name a complete file that fails where there is one.
            path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Where root rotates the keys of a service, the service must still be able to read them."""
    if os.geteuid() == 0:
        with suppress(FileNotFoundError):
            before = path.stat()
            os.fchown(descriptor, before.st_uid, before.st_gid)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
