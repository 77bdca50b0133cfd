"""The signing keys that `tokens.signing` names."""

import time
from collections.abc import Callable

from authz.keys.issuing.followed import FollowedKeys
from authz.keys.issuing.held import KeyStore
from authz.keys.issuing.local import KeyFile, KeyVariable, Secret
from authz.settings.signing import SigningSettings


def open_signing_keys(
    settings: SigningSettings, *, clock: Callable[[], float] = time.time
) -> FollowedKeys:
    """Not yet started. `clock`: seconds since 1970."""
    return FollowedKeys(settings, open_key_store(settings), clock=clock)


def open_key_store(settings: SigningSettings) -> KeyStore:
    """Where the keys are kept; nothing has been read yet."""
    if settings.key_file is not None:
        return KeyFile(settings.key_file, settings.algorithm)
    if settings.key_env is not None:
        return KeyVariable(settings.key_env)
    if settings.vault is None:
        return Secret(settings.secret_file, settings.secret_env)
    from authz.keys.vault.open import open_vault  # brings requests, which others need not load

    return open_vault(settings.vault, settings)
