"""What the token service signs with."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from authz.addresses import require_http_url
from authz.durations import Duration
from authz.settings.base import Section

SigningAlgorithm = Literal["RS256", "ES256", "EdDSA", "HS256"]

MIN_ROTATE_EVERY = 900.0
"""Seconds. A key stays published for a day after its last signature; at one each quarter of an hour
these are 96, and a key set has 128 keys at most (`authz.keys.jwk.MAX_KEYS`)."""

SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""Where Kubernetes puts a pod's own token."""


def _address(value: str) -> str:
    require_http_url(value)
    parts = urlsplit(value)
    if "@" in parts.netloc or parts.query or parts.fragment:
        msg = "takes no user, password, query or fragment; how to log in stands beside it"
        raise ValueError(msg)
    return value.rstrip("/")


class AppRoleSettings(Section):
    """Log in as an AppRole. The secret id is read at each log-in, so it can be replaced."""

    role_id: Annotated[str, Field(min_length=1)]
    secret_id_file: Path | None = None
    """None: the role asks for no secret id."""
    mount: Annotated[str, Field(min_length=1)] = "approle"


class KubernetesAuthSettings(Section):
    """Log in with the pod's service account."""

    role: Annotated[str, Field(min_length=1)]
    token_file: Path = SERVICE_ACCOUNT_TOKEN
    mount: Annotated[str, Field(min_length=1)] = "kubernetes"


class VaultSettings(Section):
    """Keys in HashiCorp Vault or OpenBao: of the transit engine, or in a KV store."""

    address: Annotated[str, AfterValidator(_address)]
    mount: Annotated[str, Field(min_length=1)] | None = None
    """Where the engine is mounted. None: `transit` with `key`, `secret` with `kv_path`."""
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")] | None = None
    """A key of the transit engine. It never leaves Vault, which signs."""
    kv_path: Annotated[str, Field(min_length=1)] | None = None
    """A secret of a KV engine, version 2, with a private JWK Set in its field `jwks`."""
    token_file: Path | None = None
    """A token, as Vault's agent writes it. Read again when the file changes."""
    approle: AppRoleSettings | None = None
    kubernetes: KubernetesAuthSettings | None = None
    namespace: str | None = None
    ca_file: Path | None = None
    """Certificates to trust for the address, instead of the system's."""
    timeout: Annotated[Duration, Field(ge=0.05, le=30)] = 2.0
    """The limit of one request to Vault, a signature included."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.key is None) == (self.kv_path is None):
            msg = "needs exactly one of key (transit engine), kv_path (KV engine)"
            raise ValueError(msg)
        ways = [way for way in (self.token_file, self.approle, self.kubernetes) if way is not None]
        if len(ways) != 1:
            msg = "needs exactly one of token_file, approle, kubernetes"
            raise ValueError(msg)
        return self

    @property
    def mounted_at(self) -> str:
        return self.mount or ("transit" if self.key is not None else "secret")


class SigningSettings(Section):
    """Where the signing keys are, of exactly one source, and when they are replaced."""

    algorithm: SigningAlgorithm = "RS256"
    """What new keys are for. Where it isn't given, the same as the key that signs. HS256 goes with
    secret_file and secret_env, the others do not."""
    key_file: Path | None = None
    """A private JWK Set, as `authz keys generate` writes it."""
    key_env: Annotated[str, Field(min_length=1)] | None = None
    """The name of an environment variable that holds the same JSON."""
    secret_file: Path | None = None
    """An HMAC secret: the file's bytes, less one trailing newline."""
    secret_env: Annotated[str, Field(min_length=1)] | None = None
    """The name of an environment variable that holds an HMAC secret."""
    vault: VaultSettings | None = None
    rotate_every: Annotated[Duration, Field(ge=MIN_ROTATE_EVERY)] | None = 30 * 86400.0
    """How long a key signs before the next one does. `null`: until `authz keys rotate`. Only of
    `key_file` and `vault`; who sets the others replaces them."""
    publish_ahead: Annotated[Duration, Field(ge=0, le=86400)] = 600.0
    """How long a new key is published before it signs: twice what sidecars keep a key set for by
    default (`issuers[].keys.refresh`)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = ("key_file", "key_env", "secret_file", "secret_env", "vault")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"found {', '.join(given)}" if given else "found none"
            msg = f"needs exactly one of {', '.join(names)}; {found}"
            raise ValueError(msg)
        if (self.algorithm == "HS256") != self.symmetric:
            msg = "algorithm: HS256 goes with secret_file or secret_env, and they with no other"
            raise ValueError(msg)
        if self.rotate_every is not None and self.rotate_every <= self.publish_ahead:
            msg = "rotate_every: must be longer than publish_ahead"
            raise ValueError(msg)
        return self

    @property
    def new_keys(self) -> SigningAlgorithm | None:
        """What new keys of `key_file` and `vault.kv_path` are for. None: it wasn't said, so as the
        key that signs.
        """
        return self.algorithm if "algorithm" in self.model_fields_set else None

    @property
    def symmetric(self) -> bool:
        """A secret signs, which can't be published."""
        return self.secret_file is not None or self.secret_env is not None
