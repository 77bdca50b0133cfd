"""Where revocations are kept, here and in another region."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, Field, SecretStr, model_validator

from authz.addresses import StoreUrlParts, check_store_url, store_address
from authz.durations import Duration
from authz.settings.base import Section, SettingsError


class TlsSettings(Section):
    """TLS towards the store, for `rediss://` and `rediss+cluster://`."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify_hostname: bool = True


class StoreAccessSettings(Section):
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
