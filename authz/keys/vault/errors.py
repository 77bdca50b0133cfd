"""What can be wrong with Vault, in words for whoever has to put it right."""

from enum import Enum, unique

import requests
from hvac import exceptions

from authz.keys.errors import KeySourceError

MAX_WORDS = 200
"""Characters of Vault's own words that are passed on."""


@unique
class State(Enum):
    """How Vault stands. The values are words for people; with each, the seconds after which another
    try may be worth it.
    """

    SEALED = "sealed", 30.0
    UNREACHABLE = "unreachable", 5.0
    SLOW = "slow", 5.0
    DENIED = "denied", 30.0
    MISSING = "missing", 30.0
    BUSY = "busy", 1.0
    CONFLICT = "conflict", 1.0
    REFUSED = "refused", 5.0

    @property
    def retry_after(self) -> float:
        return self.value[1]

    @property
    def passes(self) -> bool:
        """It concerns Vault as a whole: whoever asks next gets the same answer."""
        return self in {State.SEALED, State.UNREACHABLE, State.SLOW}


class VaultError(KeySourceError):
    """Vault did not do what it was asked. The text holds no token and no key material."""

    def __init__(self, state: State, text: str) -> None:
        super().__init__(text)
        self.state = state


def in_words(error: Exception, path: str, *, timeout: float) -> VaultError:
    """What a library raised when it asked Vault for `path`."""
    match error:
        case exceptions.VaultDown() if "sealed" in _words(error).lower():
            return VaultError(State.SEALED, "Vault is sealed; unseal it")
        case exceptions.VaultDown() | exceptions.BadGateway() | exceptions.VaultNotInitialized():
            return VaultError(State.UNREACHABLE, f"Vault is not ready: {_words(error)}")
        case exceptions.Forbidden() | exceptions.Unauthorized():
            return VaultError(
                State.DENIED, f"permission denied on {path}: the token or its policy lacks it"
            )
        case exceptions.InvalidPath():
            return VaultError(State.MISSING, f"there is no {path}")
        case exceptions.RateLimitExceeded():
            return VaultError(State.BUSY, "Vault's rate limit is exceeded")
        case exceptions.InvalidRequest() if "check-and-set" in _words(error):
            return VaultError(State.CONFLICT, f"{path} was changed by somebody else meanwhile")
        case exceptions.VaultError():
            return VaultError(State.REFUSED, f"{path}: {_words(error)}")
        case requests.exceptions.SSLError():
            return VaultError(
                State.UNREACHABLE, "Vault's certificate can't be verified (vault.ca_file)"
            )
        case requests.exceptions.Timeout() | TimeoutError():
            return VaultError(State.SLOW, f"no answer within {timeout:g} s (vault.timeout)")
        case requests.exceptions.RequestException() | OSError():
            return VaultError(State.UNREACHABLE, "Vault can't be reached")
    return VaultError(State.REFUSED, f"{path}: unexpected answer ({type(error).__name__})")


def _words(error: exceptions.VaultError) -> str:
    """What Vault said; never the URL or the request."""
    listed = error.errors if isinstance(error.errors, list) else []
    text = " ".join(" ".join(map(str, listed)).split())[:MAX_WORDS]
    return text if text and text.isprintable() else type(error).__name__
