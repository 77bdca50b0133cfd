"""The shapes of requests and answers, for the description at `/openapi.json`."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from authz.tokens.clients.client import GRANTS
from authz.tokens.http.form import FORM
from authz.tokens.http.subjects import TYPES


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorAnswer(_Shape):
    """RFC 6749 section 5.2."""

    error: str
    error_description: str


class TokenAnswer(_Shape):
    """RFC 6749 section 5.1, RFC 8693 section 2.2.1. A client with cookies gets its tokens there and
    not here.
    """

    access_token: str | None = None
    token_type: str
    expires_in: int
    scope: str
    refresh_token: str | None = None
    issued_token_type: str | None = None


class IntrospectionAnswer(_Shape):
    """RFC 7662 section 2.2."""

    active: bool


class Session(_Shape):
    """One session of a user. Times are seconds since 1970."""

    id: str
    client_id: str
    device: str
    address: str
    issued: float
    refreshed: float
    expires: float
    refreshable: bool
    scope: str
    tokens: int = Field(description="access tokens that live now")
    current: bool = Field(description="it is the session of the token that asks")


class SessionsAnswer(_Shape):
    sessions: list[Session]


class EndedAnswer(_Shape):
    ended: int = Field(description="sessions that were ended")


class JwksAnswer(_Shape):
    """RFC 7517 section 5."""

    keys: list[dict[str, Any]]


class MetadataAnswer(_Shape):
    """RFC 8414 section 2."""

    issuer: str
    token_endpoint: str


_TEXT: dict[str, Any] = {"type": "string"}
_CLIENT = {"client_id": _TEXT, "client_secret": _TEXT}


def form_of(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    """The `requestBody` of a form."""
    schema = {"type": "object", "required": required, "properties": {**fields, **_CLIENT}}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": schema}}}}


TOKEN_FORM = form_of(
    ["grant_type"],
    grant_type={**_TEXT, "enum": list(GRANTS)},
    scope=_TEXT,
    audience=_TEXT,
    resource=_TEXT,
    refresh_token=_TEXT,
    subject_token=_TEXT,
    subject_token_type={**_TEXT, "enum": list(TYPES)},
    requested_token_type=_TEXT,
    device=_TEXT,
    address=_TEXT,
)
TOKEN_ONLY_FORM = form_of(["token"], token=_TEXT, token_type_hint=_TEXT)
REVOKE_FORM = form_of([], token=_TEXT, token_type_hint=_TEXT)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint, besides its success."""
    always = (400, 408, 413, 415, 429, 500, 503) if 415 in statuses else (500, 503)  # noqa: PLR2004
    return {status: {"model": ErrorAnswer} for status in sorted({*statuses, *always})}
