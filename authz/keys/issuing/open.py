"""The signing keys that `tokens.signing` names."""

import time
from collections.abc import Callable

from authz.keys.issuing.followed import ROTATION_SPREAD, FollowedKeys
from authz.keys.issuing.held import KeyStore
from authz.keys.issuing.local import KeyFile, KeyVariable, Secret
from authz.settings.base import SettingsError
from authz.settings.signing import SigningSettings


def open_signing_keys(
    settings: SigningSettings,
    *,
    clock: Callable[[], float] = time.time,
    rotation_spread: float = ROTATION_SPREAD,
) -> FollowedKeys:
    """Not yet started. `clock`: seconds since 1970. SettingsError as `open_key_store`."""
    store = open_key_store(settings)
    return FollowedKeys(settings, store, clock=clock, rotation_spread=rotation_spread)


def open_key_store(settings: SigningSettings) -> KeyStore:
    """Where the keys are kept; nothing has been read yet. SettingsError: a library is missing, or
    `vault.ca_file` can't be used.
    """
    if settings.key_file is not None:
        return KeyFile(settings.key_file, settings.new_keys)
    if settings.key_env is not None:
        return KeyVariable(settings.key_env)
    if settings.vault is None:
        return Secret(settings.secret_file, settings.secret_env)
    try:  # deferred: only who has keys in Vault needs it
        from authz.keys.vault.open import open_vault
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "authz":
            raise
        msg = "tokens.signing.vault: needs, in a checkout: pip install '.[tokens]'"
        raise SettingsError(msg) from None
    return open_vault(settings.vault, settings)
