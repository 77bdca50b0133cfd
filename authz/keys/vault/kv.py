"""A private JWK Set in a KV engine, version 2: kept by Vault, used by this process.

Written by check-and-set, so that of two who change it at the same time one begins anew.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from authz.keys.errors import KeySourceError
from authz.keys.issuing.document import grown, read_document, shrunk
from authz.keys.issuing.held import HeldKey
from authz.keys.jwk import read_entries
from authz.keys.keyfile import dump
from authz.keys.rotation import Keys, Rotation, name_of
from authz.keys.vault.client import Vault, data_of
from authz.keys.vault.errors import State, VaultError

FIELD = "jwks"
"""Of the secret: where the set stands, as text or as JSON."""

ATTEMPTS = 5
"""At a change that others keep overtaking."""


class KvKeys:
    """A `KeyStore` in one secret."""

    setting = "vault.kv_path"
    remote = True
    rotates = True
    watched: Path | None = None

    def __init__(self, vault: Vault, mount: str, path: str, algorithm: str | None) -> None:
        """`algorithm`: of keys that are made; None: that of the key that signs."""
        self.where = f"{vault.where} {mount}/{path}"
        self._vault = vault
        self._mount = mount
        self._path = path.strip("/")
        self._algorithm = algorithm

    @property
    def read_every(self) -> float:
        """As `KeyStore.read_every`."""
        return self._vault.read_every

    async def read(self) -> Sequence[HeldKey]:
        """As `KeyStore.read`."""
        fields, _ = await self._secret()
        return read_document(_document(fields))

    async def rotate(self, now: float, *, ahead: float, newest: str | None = None) -> str | None:
        """As `KeyStore.rotate`. Where there is no secret yet, it is made with its first key."""
        before: set[str] = set()

        def grow(keys: Keys) -> Rotation | None:
            before.update(map(name_of, keys))
            return grown(keys, self._algorithm, now=now, ahead=ahead, newest=newest)

        result = await self._change(grow, may_be_missing=newest is None)
        if result is None:
            return None
        return next(name for name in map(name_of, result.keys) if name not in before)

    async def withdraw(self, kid: str, now: float) -> Sequence[str]:
        """As `KeyStore.withdraw`."""
        result = await self._change(lambda keys: shrunk(keys, self._algorithm, kid, now=now))
        return [] if result is None else [name_of(key) for key in result.dropped]

    async def aclose(self) -> None:
        """As `KeyStore.aclose`."""
        await self._vault.aclose()

    async def _change(
        self, change: Callable[[Keys], Rotation | None], *, may_be_missing: bool = False
    ) -> Rotation | None:
        """What `change` made of the keys, once that is in Vault. None: it made nothing of them."""
        for attempt in range(ATTEMPTS):
            fields, version = await self._secret(may_be_missing=may_be_missing)
            keys = read_entries(_document(fields)) if version else []
            if version:
                read_document(
                    _document(fields)
                )  # each key is sound: nothing is written over rubbish
            result = change(keys)
            if result is None:
                return None
            try:
                await self._write({**fields, FIELD: dump(result.keys)}, version)
            except VaultError as error:
                if error.state is State.CONFLICT and attempt + 1 < ATTEMPTS:
                    continue
                raise
            return result
        raise KeySourceError("is changed by others all the time")

    async def _secret(self, *, may_be_missing: bool = False) -> tuple[dict[str, Any], int]:
        """Its fields and its version; without any and 0 where there is none and may be none."""
        await self._vault.tend()
        path = f"{self._mount}/data/{self._path}"
        try:
            answer = await self._vault.call(
                path,
                lambda client: client.secrets.kv.v2.read_secret_version(
                    self._path, mount_point=self._mount, raise_on_deleted_version=True
                ),
            )
        except VaultError as error:
            if error.state is not State.MISSING:
                raise
            if may_be_missing:
                return {}, 0
            hint = "write the first key with `authz keys rotate --config`"
            raise VaultError(State.MISSING, f"there is no {path}; {hint}") from None
        data = data_of(answer, path)
        fields, version = data.get("data"), (data.get("metadata") or {}).get("version")
        if not isinstance(fields, dict) or not isinstance(version, int):
            raise VaultError(State.REFUSED, f"{path} is not of a KV engine, version 2")
        return fields, version

    async def _write(self, fields: dict[str, Any], version: int) -> None:
        await self._vault.call(
            f"{self._mount}/data/{self._path}",
            lambda client: client.secrets.kv.v2.create_or_update_secret(
                self._path, fields, cas=version, mount_point=self._mount
            ),
        )


def _document(fields: dict[str, Any]) -> bytes:
    """KeySourceError: the secret has no such field."""
    value = fields.get(FIELD)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):  # written with `vault kv put … @file.json`
        return json.dumps(value).encode()
    raise KeySourceError(f"has no field {FIELD!r} with a private JWK Set")
