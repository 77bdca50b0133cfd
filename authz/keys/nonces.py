"""The nonces that proofs of possession need, as `dpop.nonce` in the settings says."""

from authz.check.nonce import Nonces
from authz.settings import DpopSettings, nonce_secret


def open_nonces(settings: DpopSettings) -> Nonces | None:
    """None where proofs need none. SettingsError: the secret can't be read, or is too short."""
    if settings.nonce is None:
        return None
    return Nonces(nonce_secret(settings.nonce), settings.nonce.lifetime)
