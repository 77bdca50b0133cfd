"""How a sidecar remembers, follows, records and is listened to."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from authz.durations import Duration
from authz.settings.base import Section


class CacheSettings(Section):
    tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """Verified tokens kept (LRU)."""
    revocations: Annotated[int, Field(ge=1, le=50_000_000)] = 100_000
    """Revocations kept (LRU), and as many `not revoked` answers."""
    negative_ttl: Annotated[Duration, Field(ge=0, le=60)] = 1.0
    """How long `not revoked` is believed before the store is asked again."""


class FeedSettings(Section):
    """How revocations come to the sidecar by themselves (`store` a Redis)."""

    enabled: bool = True
    """Without it the store is asked about every token, again after `cache.negative_ttl`."""
    max_staleness: Annotated[Duration, Field(ge=0.2, le=60)] = 2.0
    """For so long after it was last verified that none is missing, what the feed doesn't list is
    not revoked. It is verified twice in that time."""
    false_positives: Annotated[float, Field(ge=1e-9, le=0.1)] = 1e-6
    """The share of good tokens that are taken for revoked at first, so that the store is asked."""


class AuditSettings(Section):
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


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class ListenTlsSettings(Section):
    """TLS towards Envoy, with ALPN `h2`. The files are read again on SIGHUP."""

    cert_file: Path
    """PEM: the certificate and its chain."""
    key_file: Path
    client_ca_file: Path | None = None
    """Clients must show a certificate that one of these signed."""
