"""Every setting of authz, with its unit, its default and its bounds, in one model.

Values come from a YAML file and are overridden by `AUTHZ_…` variables (`__` between levels, JSON
for lists): `AUTHZ_STORE__TIMEOUT=40ms`. A key that is not here is an error, in either place.
Durations are numbers of seconds or text with a unit: `250ms`, `5s`, `10m`, `24h`, `7d`.

`model.py` has them all; the others are its sections, those of the token service `tokens.py`,
`signing.py`, `encryption.py` and `token_*.py`; `load.py` reads them.
"""

from authz.settings.base import SettingsError
from authz.settings.dpop import DpopSettings, NonceSettings, nonce_secret
from authz.settings.encryption import EncryptionSettings
from authz.settings.guards import CsrfSettings
from authz.settings.issuers import DecryptionSettings, IssuerSettings, KeySourceSettings
from authz.settings.limits import ALGORITHMS, ENCRYPTION_ALGORITHMS, MAX_LEEWAY, MAX_LIFETIME
from authz.settings.load import (
    CONFIG_VARIABLE,
    environment_values,
    load_settings,
    read_config_file,
)
from authz.settings.model import ENV_NESTING, ENV_PREFIX, IssuerlessSettings, Settings
from authz.settings.sidecar import (
    AuditSettings,
    CacheSettings,
    FeedSettings,
    ListenTlsSettings,
    LogSettings,
)
from authz.settings.signing import SigningSettings, VaultSettings
from authz.settings.store import (
    StoreSettings,
    TlsSettings,
    store_credentials,
    store_url_parts,
)
from authz.settings.tokens import TokensSettings

__all__ = [
    "ALGORITHMS",
    "CONFIG_VARIABLE",
    "ENCRYPTION_ALGORITHMS",
    "ENV_NESTING",
    "ENV_PREFIX",
    "MAX_LEEWAY",
    "MAX_LIFETIME",
    "AuditSettings",
    "CacheSettings",
    "CsrfSettings",
    "DecryptionSettings",
    "DpopSettings",
    "EncryptionSettings",
    "FeedSettings",
    "IssuerSettings",
    "IssuerlessSettings",
    "KeySourceSettings",
    "ListenTlsSettings",
    "LogSettings",
    "NonceSettings",
    "Settings",
    "SettingsError",
    "SigningSettings",
    "StoreSettings",
    "TlsSettings",
    "TokensSettings",
    "VaultSettings",
    "environment_values",
    "load_settings",
    "nonce_secret",
    "read_config_file",
    "store_credentials",
    "store_url_parts",
]
