"""How the token service is reached, and what it gives to browsers."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from authz.addresses import check_origin
from authz.durations import Duration
from authz.settings.base import Section
from authz.settings.issuers import IssuerSettings


class TokensTlsSettings(Section):
    """TLS towards clients. Without it an Envoy in front has to end TLS."""

    cert_file: Path
    """PEM: the certificate and its chain."""
    key_file: Path


class CookieSettings(Section):
    """For clients whose tokens go into cookies."""

    same_site: Literal["strict", "lax"] = "strict"
    """Of the access token's cookie. The refresh token's is always `Strict`."""
    trusted_origins: list[Annotated[str, AfterValidator(check_origin)]] = Field(default=[])
    """Origins whose pages may refresh and log out, besides the issuer's own."""


class TrustedIssuerSettings(IssuerSettings):
    """An identity provider whose users a login service may bring (RFC 8693)."""

    subject_prefix: str = ""
    """Put before the `sub` of its users, so that two providers' users can't be one."""


class ExchangeSettings(Section):
    issuers: list[TrustedIssuerSettings] = Field(default=[])
    max_assertion_lifetime: Annotated[Duration, Field(gt=0, le=3600)] = 300.0
    """`exp - iat` at most, of what a login service signs itself."""

    @model_validator(mode="after")
    def _users_stay_apart(self) -> Self:
        prefixes = [one.subject_prefix for one in self.issuers]
        names = [one.issuer for one in self.issuers]
        if len(set(names)) < len(names):
            msg = "issuers: one is configured twice"
            raise ValueError(msg)
        # Also where one begins with another: `a` + `bob` and `ab` + `ob` are the same.
        if any(
            a.startswith(b)
            for i, a in enumerate(prefixes)
            for b in prefixes[:i] + prefixes[i + 1 :]
        ):
            msg = "issuers: no subject_prefix may begin with another's, or two users could be one"
            raise ValueError(msg)
        return self
