"""What a proof of possession (DPoP, RFC 9449) must be like."""

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from authz.addresses import check_origin
from authz.durations import Duration
from authz.settings.base import Section, SettingsError

MIN_NONCE_SECRET_BYTES = 32
"""The size of the HMAC's output, as RFC 7518 section 3.2 asks for HS256."""


class NonceSettings(Section):
    """Nonces of ours in every proof, so that none can be made ahead."""

    secret_file: Path | None = None
    """At least 32 random bytes, less one trailing newline; the same for all sidecars."""
    secret_env: str | None = None
    """The name of an environment variable that holds them."""
    lifetime: Annotated[Duration, Field(ge=2, le=3600)] = 300.0
    """For how long a nonce is taken, at most; half of it at least."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.secret_file is None) == (self.secret_env is None):
            msg = "needs exactly one of secret_file, secret_env"
            raise ValueError(msg)
        return self


class DpopSettings(Section):
    """Proofs that come with tokens that are bound to a key."""

    max_age: Annotated[Duration, Field(ge=1, le=600)] = 60.0
    """Since a proof's `iat`. Each is remembered for so long."""
    origins: (
        Annotated[list[Annotated[str, AfterValidator(check_origin)]], Field(min_length=1)] | None
    ) = None
    """By which clients know us: `htu` must begin with one of them. Without it, it is compared with
    the host that the request names, which its sender chooses."""
    nonce: NonceSettings | None = None
    """With it, a proof must have a nonce of ours, and the time of that counts instead of `iat`."""


def nonce_secret(settings: NonceSettings) -> bytes:
    """The secret's bytes. SettingsError: it can't be read, or is too short."""
    if settings.secret_file is not None:
        where = f"dpop.nonce.secret_file: {settings.secret_file}"
        try:
            secret = settings.secret_file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{where}: {error.strerror}") from None
    else:
        where = f"dpop.nonce.secret_env: {settings.secret_env}"
        value = os.environ.get(settings.secret_env or "")
        if value is None:
            raise SettingsError(f"{where}: is not set")
        secret = os.fsencode(value)
    if secret.endswith(b"\n"):
        secret = secret[:-1].removesuffix(b"\r")
    if len(secret) < MIN_NONCE_SECRET_BYTES:
        msg = f"{where}: has {len(secret)} bytes; at least {MIN_NONCE_SECRET_BYTES} are needed"
        raise SettingsError(msg)
    return secret
