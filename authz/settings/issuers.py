"""Whose tokens are accepted, and where the keys for that come from."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from authz.addresses import require_http_url
from authz.durations import Duration
from authz.settings.base import Section
from authz.settings.limits import (
    MAX_LIFETIME,
    Algorithm,
    EncryptionAlgorithm,
)


class KeySourceSettings(Section):
    """Where an issuer's verification keys come from: exactly one of the five."""

    jwks_file: Path | None = None
    jwks_url: str | None = None
    discovery: bool = False
    """Read `jwks_uri` from `<issuer>/.well-known/openid-configuration` (OpenID Discovery 1.0)."""
    secret_file: Path | None = None
    """An HMAC secret: the file's bytes, less one trailing newline."""
    secret_env: str | None = None
    """The name of an environment variable that holds an HMAC secret."""
    refresh: Annotated[Duration, Field(ge=1)] = 300.0
    """How long a fetched key set is used before it is fetched again (URLs)."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0
    """The limit of one fetch (URLs)."""
    ca_file: Path | None = None
    """Certificates to trust for the URL, instead of the system's."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [
            name
            for name in ("jwks_file", "jwks_url", "discovery", "secret_file", "secret_env")
            if getattr(self, name)
        ]
        if len(given) != 1:
            found = f"found {', '.join(given)}" if given else "found none"
            msg = (
                "needs exactly one of jwks_file, jwks_url, discovery: true, secret_file, "
                f"secret_env; {found}"
            )
            raise ValueError(msg)
        if self.jwks_url is not None:
            require_http_url(self.jwks_url)
        return self

    @property
    def symmetric(self) -> bool:
        return self.secret_file is not None or self.secret_env is not None


class DecryptionSettings(Section):
    """How an issuer's encrypted tokens (JWE, RFC 7516) are opened."""

    key_file: Path
    """Private keys, a JWK Set of `authz keys generate --use enc`. Watched."""
    algorithms: list[EncryptionAlgorithm] = Field(default=["RSA-OAEP-256", "ECDH-ES"], min_length=1)
    """How the key of a token may be conveyed; the content is always A256GCM."""
    required: bool = False
    """Refuse the issuer's tokens that aren't encrypted."""


class IssuerSettings(Section):
    """One issuer whose tokens are accepted."""

    issuer: Annotated[str, Field(min_length=1)]
    """Compared with `iss` code point by code point (RFC 7519 section 4.1.1)."""
    audiences: Annotated[list[str], Field(min_length=1)]
    """A token must name at least one of these in `aud`."""
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    keys: KeySourceSettings
    decryption: DecryptionSettings | None = None
    max_lifetime: Annotated[Duration, Field(gt=0, le=MAX_LIFETIME)] = MAX_LIFETIME
    """`exp - iat` at most; longer tokens are refused."""

    @model_validator(mode="after")
    def _algorithms_fit_the_keys(self) -> Self:
        hmac = [a for a in self.algorithms if a.startswith("HS")]
        if self.keys.symmetric and len(hmac) != len(self.algorithms):
            msg = "algorithms: a secret_file or secret_env goes with HS256, HS384, HS512 only"
            raise ValueError(msg)
        if not self.keys.symmetric and hmac:
            msg = (
                f"algorithms: {hmac[0]} needs secret_file or secret_env; "
                "a published key must never double as an HMAC secret"
            )
            raise ValueError(msg)
        if self.keys.discovery:
            require_http_url(self.issuer)
        return self
