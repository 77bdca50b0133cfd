"""How a process gets its Vault token. All of it blocks: it runs in threads."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hvac

from authz.keys.errors import KeySourceError
from authz.keys.local import read_file
from authz.keys.vault.errors import State, VaultError
from authz.settings.signing import AppRoleSettings, KubernetesAuthSettings, VaultSettings


class Lease(NamedTuple):
    """A token, and for how long it is good."""

    token: str
    seconds: float
    """0: without end."""
    renewable: bool


class Login(Protocol):
    """A way to get a token. What hvac raises is passed on."""

    path: str
    """What is asked of Vault, for messages."""

    def log_in(self, client: hvac.Client) -> Lease:
        """`client` has no token yet. VaultError: what is to be shown to Vault can't be read."""


class TokenFile:
    """A token that somebody else got, and replaces."""

    path = "auth/token/lookup-self"

    def __init__(self, file: Path) -> None:
        self._file = file

    def log_in(self, client: hvac.Client) -> Lease:
        """As `Login.log_in`."""
        client.token = _credential("token_file", self._file)
        data = client.auth.token.lookup_self()["data"]
        return Lease(client.token, float(data.get("ttl") or 0), bool(data.get("renewable")))


class AppRole:
    """A role and its secret id."""

    def __init__(self, settings: AppRoleSettings) -> None:
        self.path = f"auth/{settings.mount}/login"
        self._settings = settings

    def log_in(self, client: hvac.Client) -> Lease:
        """As `Login.log_in`."""
        file = self._settings.secret_id_file
        secret_id = None if file is None else _credential("approle.secret_id_file", file)
        return _lease(
            client.auth.approle.login(
                role_id=self._settings.role_id,
                secret_id=secret_id,
                mount_point=self._settings.mount,
                use_token=False,
            )
        )


class Kubernetes:
    """The pod's service account."""

    def __init__(self, settings: KubernetesAuthSettings) -> None:
        self.path = f"auth/{settings.mount}/login"
        self._settings = settings

    def log_in(self, client: hvac.Client) -> Lease:
        """As `Login.log_in`."""
        return _lease(
            client.auth.kubernetes.login(
                role=self._settings.role,
                jwt=_credential("kubernetes.token_file", self._settings.token_file),
                mount_point=self._settings.mount,
                use_token=False,
            )
        )


def login_of(settings: VaultSettings) -> Login:
    """The way that the settings say."""
    if settings.approle is not None:
        return AppRole(settings.approle)
    if settings.kubernetes is not None:
        return Kubernetes(settings.kubernetes)
    if settings.token_file is None:
        raise ValueError("VaultSettings without a way to log in")
    return TokenFile(settings.token_file)


def lease_of_renewal(token: str, answer: Any) -> Lease:
    """Of auth/token/renew-self, which doesn't name the token again."""
    return _lease(answer)._replace(token=token)


def _lease(answer: Any) -> Lease:
    """ValueError: it is no answer of Vault's, but say a proxy's that redirects."""
    auth = answer.get("auth") if isinstance(answer, dict) else None
    if not isinstance(auth, dict):
        raise ValueError("no auth")  # noqa: TRY004  one kind for all that is not Vault's
    return Lease(
        str(auth.get("client_token")),
        float(auth.get("lease_duration") or 0),
        bool(auth.get("renewable")),
    )


def _credential(setting: str, path: Path) -> str:
    """One line of a file. VaultError: it can't be read, or is empty."""
    try:
        text = read_file(path).decode().strip()
    except (KeySourceError, UnicodeDecodeError) as error:
        why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise VaultError(State.DENIED, f"vault.{setting}: {path}: {why}") from None
    if not text:
        raise VaultError(State.DENIED, f"vault.{setting}: {path}: is empty")
    return text
