"""Keys in an OpenBao."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from authz.keys.issuing import followed
from authz.keys.issuing.followed import FollowedKeys
from authz.keys.issuing.open import open_signing_keys
from authz.keys.vault import client
from authz.settings.signing import SigningSettings
from support.openbao import OpenBao

StartKeys = Callable[..., Awaitable[FollowedKeys]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vault is back soon, here."""
    monkeypatch.setattr(client, "REST", 0.1)
    monkeypatch.setattr(followed, "LAST_RETRY", 0.2)


@pytest.fixture
def token_file(openbao: OpenBao, tmp_path: Path) -> str:
    """A token that may do everything."""
    return str(openbao.token(tmp_path))


def signing(vault: dict[str, Any], **changes: Any) -> SigningSettings:
    """Settings with `vault`; `changes` may be out of the bounds that are for people."""
    algorithm = changes.pop("algorithm", "ES256")
    settings = SigningSettings.model_validate({"algorithm": algorithm, "vault": vault})
    return settings.model_copy(update=changes)


@pytest.fixture
async def start_keys() -> AsyncIterator[StartKeys]:
    """Start the keys of `vault` settings: `start_keys({…}, publish_ahead=1)`. They are closed."""
    started: list[FollowedKeys] = []

    async def start(vault: dict[str, Any], **changes: Any) -> FollowedKeys:
        keys = open_signing_keys(signing(vault, **changes), rotation_spread=0.0)
        started.append(keys)
        await keys.start()
        return keys

    yield start
    for keys in started:
        await keys.aclose()
