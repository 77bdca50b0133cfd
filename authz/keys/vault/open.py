"""The keys in Vault that the settings name."""

from authz.keys.errors import KeySourceError
from authz.keys.issuing.held import KeyStore
from authz.keys.remote import tls_context
from authz.keys.vault.client import Vault
from authz.keys.vault.kv import KvKeys
from authz.keys.vault.transit import TransitKey
from authz.settings.base import SettingsError
from authz.settings.signing import SigningSettings, VaultSettings


def open_vault(settings: VaultSettings, signing: SigningSettings) -> KeyStore:
    """Nothing has been asked of Vault yet. SettingsError: `ca_file` can't be used."""
    try:
        tls_context(settings.ca_file)
    except KeySourceError as error:
        msg = f"tokens.signing.vault.ca_file: {settings.ca_file}: {error}"
        raise SettingsError(msg) from None
    vault = Vault(settings)
    if settings.key is not None:
        return TransitKey(
            vault,
            settings.mounted_at,
            settings.key,
            signing.algorithm,
            publish_ahead=signing.publish_ahead,
        )
    return KvKeys(vault, settings.mounted_at, str(settings.kv_path), signing.new_keys)
