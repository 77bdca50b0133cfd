"""Every setting of authz, with its unit, its default and its bounds, in one model.

Values come from a YAML file and are overridden by `AUTHZ_…` variables (`__` between levels, JSON
for lists): `AUTHZ_STORE__TIMEOUT=40ms`. A key that is not here is an error, in either place.
Durations are numbers of seconds or text with a unit: `250ms`, `5s`, `10m`, `24h`, `7d`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from authz.addresses import (
    StoreUrlParts,
    check_listen_address,
    check_store_url,
    require_http_url,
    store_address,
)
from authz.durations import Duration

ENV_PREFIX = "AUTHZ_"
ENV_NESTING = "__"
CONFIG_VARIABLE = "AUTHZ_CONFIG"  # names the YAML file; the only AUTHZ_ variable not a setting

MAX_LEEWAY = 60.0
"""Seconds. A revocation outlives its token's `exp` by this much, so that no sidecar's leeway can
bring a revoked token back in its last seconds. The bound keeps the two in step."""

MAX_LIFETIME = 86400.0
"""Seconds. No token may live longer than a day, whatever an issuer's `max_lifetime` says."""

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512",
)  # fmt: skip
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512",
]  # fmt: skip


class SettingsError(Exception):
    """The settings can't be used. The text is one line that names the setting and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KeySourceSettings(_Section):
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


class IssuerSettings(_Section):
    """One issuer whose tokens are accepted."""

    issuer: Annotated[str, Field(min_length=1)]
    """Compared with `iss` code point by code point (RFC 7519 section 4.1.1)."""
    audiences: Annotated[list[str], Field(min_length=1)]
    """A token must name at least one of these in `aud`."""
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    keys: KeySourceSettings
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


class TlsSettings(_Section):
    """TLS towards the store, for `rediss://` and `rediss+cluster://`."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify_hostname: bool = True


class StoreAccessSettings(_Section):
    """How a store is reached."""

    username: str | None = None
    """The ACL user; instead of the one in the URL."""
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and self.password_file is not None:
            msg = "give password or password_file, not both"
            raise ValueError(msg)
        return self


StoreUrl = Annotated[SecretStr, AfterValidator(check_store_url)]


class StoreSettings(StoreAccessSettings):
    """Where revocations are kept."""

    url: StoreUrl = SecretStr("memory://")
    """`memory://`, `redis://[user:password@]host:port[/db]`, `rediss://…`,
    `redis+cluster://host:port,host:port`, `rediss+cluster://…`."""
    timeout: Annotated[Duration, Field(ge=0.001, le=10)] = 0.025
    """No check waits for the store longer than this."""
    connect_timeout: Annotated[Duration, Field(ge=0.01, le=30)] = 1.0
    """The limit of one connection attempt, which goes on behind the checks that gave up on it."""
    write_timeout: Annotated[Duration, Field(ge=0.01, le=60)] = 5.0
    """The limit of one revocation, retries after a failover included."""
    buckets: Annotated[int, Field(ge=1, le=1024)] = 16
    """Users are spread over this many hash slots. The same for every part of a deployment."""
    wait_replicas: Literal["auto"] | Annotated[int, Field(ge=0, le=5)] = "auto"
    """How many replicas must hold a revocation before it is acknowledged (`WAIT`). `auto`: one
    where the shard has a replica, else none."""
    wait_timeout: Annotated[Duration, Field(ge=0.001, le=10)] = 0.5

    @model_validator(mode="after")
    def _tls_is_used(self) -> Self:
        if self.tls != TlsSettings() and not self.url.get_secret_value().startswith("rediss"):
            msg = "tls: is for rediss:// and rediss+cluster://; this url does not use TLS"
            raise ValueError(msg)
        return self


class RelaySettings(StoreAccessSettings):
    """The store of another region, whose revocations `authz relay` copies into `store`. Limits of
    time and the number of buckets are those of `store`.
    """

    url: StoreUrl | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    """Of the cursor that is kept in `store`; else it is made of the hosts in `url`."""


class CacheSettings(_Section):
    tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """Verified tokens kept (LRU)."""
    revocations: Annotated[int, Field(ge=1, le=50_000_000)] = 100_000
    """Revocations kept (LRU), and as many `not revoked` answers."""
    negative_ttl: Annotated[Duration, Field(ge=0, le=60)] = 1.0
    """How long `not revoked` is believed before the store is asked again."""


class FeedSettings(_Section):
    """How revocations come to the sidecar by themselves (`store` a Redis)."""

    enabled: bool = True
    """Without it the store is asked about every token, again after `cache.negative_ttl`."""
    max_staleness: Annotated[Duration, Field(ge=0.2, le=60)] = 2.0
    """For so long after it was last verified that none is missing, what the feed doesn't list is
    not revoked. It is verified twice in that time."""
    false_positives: Annotated[float, Field(ge=1e-9, le=0.1)] = 1e-6
    """The share of good tokens that are taken for revoked at first, so that the store is asked."""


class AuditSettings(_Section):
    path: Path | None = Path("/var/log/authz/audit.jsonl")
    """JSON lines, appended. `null`: no audit, which `required` does not accept."""
    required: bool = True
    """Deny with 503 where a fail-open decision can't be recorded first."""
    timeout: Annotated[Duration, Field(gt=0, le=5)] = 0.1
    """A record that is not written within this time counts as not written."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.path is None and self.required:
            msg = "path: null needs required: false, or every fail-open decision would be refused"
            raise ValueError(msg)
        return self


class LogSettings(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


def _credential(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind not in {"header", "cookie"} or not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
        msg = f"{value!r}: write header:NAME or cookie:NAME, as in header:authorization"
        raise ValueError(msg)
    return f"header:{name.lower()}" if kind == "header" else value


ListenAddress = Annotated[str, AfterValidator(check_listen_address)]


class ListenTlsSettings(_Section):
    """TLS towards Envoy, with ALPN `h2`. The files are read again on SIGHUP."""

    cert_file: Path
    """PEM: the certificate and its chain."""
    key_file: Path
    client_ca_file: Path | None = None
    """Clients must show a certificate that one of these signed."""


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
    store: StoreSettings = StoreSettings()
    cache: CacheSettings = CacheSettings()
    feed: FeedSettings = FeedSettings()
    relay: RelaySettings = RelaySettings()
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


def load_settings(
    path: Path | None = None,
    model: type[Settings] = Settings,
    given: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the YAML file (`path`, else the one `AUTHZ_CONFIG` names) and the environment.

    `given`: what the command line says instead; values that are None say nothing.

    SettingsError: unreadable file, invalid YAML, an unknown key or variable, a value out of range.
    """
    file_values = read_config_file(path)
    _refuse_unknown_variables(os.environ)
    try:
        return (model if given is None else _told(model, given))(**file_values)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    except ValueError as error:  # pydantic-settings: a variable that isn't JSON where it must be
        raise SettingsError(f"environment: {error}") from None


def _told(model: type[Settings], given: Mapping[str, Any]) -> type[Settings]:
    """The same settings with one more source, before all others."""
    said = {
        name: {key: one for key, one in value.items() if one is not None}
        if isinstance(value, Mapping)
        else value
        for name, value in given.items()
        if value is not None
    }

    class Told(model):  # type: ignore[valid-type,misc]  # a base that is a variable
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **sources: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            rest = super().settings_customise_sources(settings_cls, *args, **sources)
            return (InitSettingsSource(settings_cls, said), *rest)

    return Told


def read_config_file(path: Path | None = None) -> dict[str, Any]:
    """The YAML file's content as it stands: `{}` where none is named. SettingsError as above."""
    if path is None:
        named = os.environ.get(CONFIG_VARIABLE)
        if not named:
            return {}
        path = Path(named)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date, UTF-8
        raise SettingsError(f"--config {path}: not valid YAML{_yaml_problem(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(f"--config {path}: must be a mapping of settings, see README.md")
    return content


def _yaml_problem(error: Exception) -> str:
    """Where and what, without the text that PyYAML quotes: a password may stand on that line."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    what = re.split("['\"]", getattr(error, "problem", None) or "")[0].strip()
    return f"{where}: {what}" if what else where


def environment_values() -> dict[str, Any]:
    """What the environment alone sets, nested as the settings are."""
    return EnvSettingsSource(Settings)()


def store_url_parts(settings: StoreSettings) -> tuple[str, list[tuple[str, int]], int]:
    """As `store_address`, of `store.url`."""
    return store_address(settings.url.get_secret_value())


def store_credentials(settings: StoreSettings) -> tuple[str | None, str | None]:
    """ACL user and password. SettingsError where `store.password_file` can't be read."""
    userinfo = StoreUrlParts.of(settings.url.get_secret_value()).userinfo
    user, _, password = (unquote(part) for part in userinfo.partition(":"))
    if settings.password is not None:
        password = settings.password.get_secret_value()
    elif settings.password_file is not None:
        try:
            password = settings.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            msg = f"store.password_file: {settings.password_file}: {reason}"
            raise SettingsError(msg) from None
    return settings.username or user or None, password or None


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    for name in environment:
        if not name.upper().startswith(ENV_PREFIX) or name.upper() == CONFIG_VARIABLE:
            continue
        first = name.upper().removeprefix(ENV_PREFIX).split(ENV_NESTING)[0].lower()
        if first not in Settings.model_fields:
            raise SettingsError(f"environment: {name}: unknown setting {first!r}")


def _one_line(error: ValidationError) -> str:
    """The first finding of a validation as `setting.path: what is wrong`."""
    finding = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in finding["loc"]) or "settings"
    what = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "extra_forbidden":
        what = "unknown setting"
    more = error.error_count() - 1
    return f"{where}: {what}" + (f" (and {more} more)" if more else "")
