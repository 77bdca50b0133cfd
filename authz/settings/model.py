"""All settings, in one model."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from authz.durations import Duration
from authz.settings.base import ListenAddress
from authz.settings.dpop import DpopSettings
from authz.settings.guards import CsrfSettings
from authz.settings.issuers import IssuerSettings
from authz.settings.limits import MAX_LEEWAY
from authz.settings.sidecar import (
    AuditSettings,
    CacheSettings,
    FeedSettings,
    ListenTlsSettings,
    LogSettings,
)
from authz.settings.store import RelaySettings, StoreSettings
from authz.settings.tokens import TokensSettings

ENV_PREFIX = "AUTHZ_"
ENV_NESTING = "__"


def _credential(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind not in {"header", "cookie"} or not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
        msg = f"{value!r}: write header:NAME or cookie:NAME, as in header:authorization"
        raise ValueError(msg)
    return f"header:{name.lower()}" if kind == "header" else value


class Settings(BaseSettings):
    """The whole configuration. `load_settings` is the way to make one."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_NESTING,
        hide_input_in_errors=True,
    )

    listen: Annotated[list[ListenAddress], Field(min_length=1)] = [
        "unix:/run/authz/authz.sock",
        "127.0.0.1:9191",
    ]
    """Where gRPC `Check` and `grpc.health.v1` are answered."""
    http_listen: ListenAddress = "127.0.0.1:9192"
    """`/metrics`, `/healthz`, `/readyz`, `/status`."""
    transport: Literal["native", "grpcio"] = "native"
    """`native`: authz' own HTTP/2. `grpcio`: the same service on the gRPC library, as reference."""
    listen_tls: ListenTlsSettings | None = None
    """TLS on the TCP addresses of `listen`; Unix sockets stay as they are."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer checks. One for a pod's sidecar; as many as cores for a node's."""
    issuers: Annotated[list[IssuerSettings], Field(min_length=1)]
    leeway: Annotated[Duration, Field(ge=0, le=MAX_LEEWAY)] = 5.0
    """Clock difference allowed for `exp`, `nbf` and `iat`."""
    credentials: Annotated[
        list[Annotated[str, AfterValidator(_credential)]], Field(min_length=1)
    ] = ["header:authorization", "cookie:__Host-access"]
    """Where a token may be. A request that carries more than one is refused."""
    dpop: DpopSettings = DpopSettings()
    require_https: bool = False
    """Refuse tokens that came over plain HTTP; a route may say otherwise."""
    revoke_exposed: bool = False
    """Revoke them as well, since others may have seen them."""
    csrf: CsrfSettings = CsrfSettings()
    store: StoreSettings = StoreSettings()
    cache: CacheSettings = CacheSettings()
    feed: FeedSettings = FeedSettings()
    relay: RelaySettings = RelaySettings()
    tokens: TokensSettings | None = None
    """The token service. What only checks tokens needs none of it."""
    fail_mode: Literal["open", "closed"] = "open"
    """What becomes of a request when the store can't be asked and nothing is known locally."""
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    drain_timeout: Annotated[Duration, Field(ge=0, le=8)] = 5.0
    """How long in-flight answers may take after SIGTERM."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [issuer.issuer for issuer in self.issuers]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            msg = f"issuers: {doubled[0]!r} is configured twice"
            raise ValueError(msg)
        if self.workers > 1 and self.transport != "native":
            msg = "workers: more than one needs transport: native"
            raise ValueError(msg)
        if self.listen_tls and all(address.startswith("unix:") for address in self.listen):
            msg = "listen_tls: is for TCP, and listen has Unix sockets only"
            raise ValueError(msg)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings  # the file's values come in as init arguments


class IssuerlessSettings(Settings):
    """For what handles no tokens, and so needs no issuer."""

    issuers: list[IssuerSettings] = []
