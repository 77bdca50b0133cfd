"""What the token service issues, and how long it lives."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from authz.addresses import require_http_url
from authz.durations import Duration
from authz.settings.base import ListenAddress, Section
from authz.settings.encryption import EncryptionSettings
from authz.settings.limits import MAX_LIFETIME
from authz.settings.signing import SigningSettings
from authz.settings.token_http import (
    CookieSettings,
    ExchangeSettings,
    TokensTlsSettings,
)
from authz.settings.token_limits import TokenLimitsSettings

DAY = 86400.0
"""Seconds."""

MAX_SESSION_LIFETIME = 400 * DAY
"""Seconds: as long as browsers keep a cookie (RFC 6265bis section 5.5)."""

MAX_SESSIONS = 100
"""Of one user. All of them are read and judged at each log-in and refresh: at about 1 KB each that
is 100 KB."""


def _issuer(value: str) -> str:
    require_http_url(value)
    if "?" in value or "#" in value:
        msg = f"{value!r} has a query or a fragment, which no issuer may have (RFC 8414 section 2)"
        raise ValueError(msg)
    return value


class TokensSettings(Section):
    """The token service, `authz tokens`."""

    issuer: Annotated[str, AfterValidator(_issuer)]
    """`iss` of the tokens. Sidecars need it among their `issuers`."""
    audiences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Whom tokens may be issued for; the first one where a request names none."""
    access_lifetime: Annotated[Duration, Field(ge=1, le=MAX_LIFETIME)] = 900.0
    """How long an access token is good, unless its client has a lifetime of its own."""
    refresh_lifetime: Annotated[Duration, Field(ge=1, le=MAX_SESSION_LIFETIME)] = 14 * DAY
    """How long a session lasts that isn't refreshed."""
    session_lifetime: Annotated[Duration, Field(ge=1, le=MAX_SESSION_LIFETIME)] = 90 * DAY
    """How long a session lasts at most, however often it is refreshed."""
    max_sessions: Annotated[int, Field(ge=1, le=MAX_SESSIONS)] = 10
    """Of one user. With one more the oldest is ended."""
    refresh_grace: Annotated[Duration, Field(ge=0, le=60)] = 10.0
    """For so long after a refresh token was used it gives the same successor again: two tabs may
    use it at once, and an answer may be lost. Later it ends the session."""
    signing: SigningSettings
    listen: ListenAddress = "127.0.0.1:9195"
    """Where OAuth's endpoints are answered, over HTTP/1.1."""
    http_listen: ListenAddress = "127.0.0.1:9196"
    """`/metrics`, `/healthz`, `/readyz`, `/status`."""
    tls: TokensTlsSettings | None = None
    """TLS on `listen`. Without it an Envoy in front has to end TLS."""
    trusted_hops: Annotated[int, Field(ge=0, le=8)] = 0
    """Proxies in front that append the address they see to `X-Forwarded-For`."""
    cookies: CookieSettings = CookieSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    limits: TokenLimitsSettings = TokenLimitsSettings()
    encryption: list[EncryptionSettings] = Field(default=[])
    """Audiences whose tokens are encrypted. A token for several is issued only where all of them
    want the same."""

    @model_validator(mode="after")
    def _the_shorter_within_the_longer(self) -> Self:
        if self.refresh_lifetime > self.session_lifetime:
            msg = "refresh_lifetime: is longer than session_lifetime"
            raise ValueError(msg)
        if self.access_lifetime > self.refresh_lifetime:
            msg = "access_lifetime: is longer than refresh_lifetime"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _encrypted_for_known_audiences(self) -> Self:
        names = [one.audience for one in self.encryption]
        for name in names:
            if name not in self.audiences:
                msg = f"encryption: {name!r} is none of audiences"
                raise ValueError(msg)
            if names.count(name) > 1:
                msg = f"encryption: {name!r} is given twice"
                raise ValueError(msg)
        return self
