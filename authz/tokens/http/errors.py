"""What is answered instead of what was asked for: RFC 6749 section 5.2, for every status.

OAuthError                  status, `error`, `error_description`, headers
├── 400 invalid_request, invalid_grant, unauthorized_client, unsupported_grant_type,
│       invalid_scope, invalid_target (RFC 8707), invalid_dpop_proof, use_dpop_nonce (RFC 9449)
├── 401 invalid_client; invalid_token and insufficient_scope (RFC 6750) where a token is shown
├── 404, 405, 413, 415      of HTTP, in the same form
├── 429 too_many_requests   with Retry-After
└── 500 server_error, 503 temporarily_unavailable with Retry-After
"""

import math
import re
from collections.abc import Mapping
from typing import Final

RETRY_AFTER: Final = 2
"""Seconds that a client is asked to wait where nobody knows how long it takes: a failover of Redis
takes about as long."""

_NOT_ALLOWED = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
"""What RFC 6749 section 5.2 keeps out of `error_description`."""


class OAuthError(Exception):
    """An answer that is no success. It owns its meaning on the wire."""

    def __init__(
        self,
        status: int,
        error: str,
        description: str,
        headers: Mapping[str, str] | None = None,
        *,
        cause: str = "",
    ) -> None:
        """`cause`: a constant word for the metric, where `error` says too little."""
        super().__init__(description)
        self.status = status
        self.error = error
        self.description = _NOT_ALLOWED.sub("'", description)
        self.headers = dict(headers or {})
        self.cause = cause or error

    @property
    def body(self) -> dict[str, str]:
        return {"error": self.error, "error_description": self.description}


def invalid_request(description: str) -> OAuthError:
    return OAuthError(400, "invalid_request", description)


def invalid_grant(description: str) -> OAuthError:
    return OAuthError(400, "invalid_grant", description)


def invalid_scope(description: str) -> OAuthError:
    return OAuthError(400, "invalid_scope", description)


def invalid_target(description: str) -> OAuthError:
    """RFC 8707 section 2."""
    return OAuthError(400, "invalid_target", description)


def unauthorized_client(description: str) -> OAuthError:
    return OAuthError(400, "unauthorized_client", description)


def invalid_client(description: str) -> OAuthError:
    """Always with a challenge: RFC 6749 section 5.2 wants one where `Authorization` was used, and
    RFC 9110 section 15.5.2 with every 401.
    """
    return OAuthError(
        401, "invalid_client", description, {"www-authenticate": 'Basic realm="token service"'}
    )


def invalid_token(description: str, scheme: str = "Bearer") -> OAuthError:
    """RFC 6750 section 3.1, where a token is shown to this service itself."""
    challenge = f'{scheme} error="invalid_token", error_description="{description}"'
    return OAuthError(401, "invalid_token", description, {"www-authenticate": challenge})


def insufficient_scope(scope: str) -> OAuthError:
    """RFC 6750 section 3.1: `scope` is what the token would need."""
    return OAuthError(
        403,
        "insufficient_scope",
        f"the token lacks the scope {scope}",
        {"www-authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
    )


def too_many_requests(after: float, what: str) -> OAuthError:
    """RFC 6585 section 4. `after`: seconds until it is worth another try."""
    return OAuthError(
        429,
        "too_many_requests",
        f"too many requests of this {what}; come back later",
        {"retry-after": str(max(1, math.ceil(after)))},
    )


def unavailable(cause: str, after: float = RETRY_AFTER) -> OAuthError:
    """`cause`: a constant word, for the metric and the log; the client isn't told more."""
    return OAuthError(
        503,
        "temporarily_unavailable",
        "the service can't do this now; try again",
        {"retry-after": str(max(1, math.ceil(after)))},
        cause=cause,
    )


def of_status(status: int) -> OAuthError:
    """What the framework says with a bare status."""
    error, description = _BY_STATUS.get(status, ("invalid_request", "the request can't be read"))
    return OAuthError(status, error, description)


_BY_STATUS = {
    404: ("not_found", "there is nothing here; /docs says what there is"),
    405: ("method_not_allowed", "this is asked by another method"),
    413: ("invalid_request", "the body is too large"),
    415: ("invalid_request", "the body is a form: application/x-www-form-urlencoded"),
    500: ("server_error", "something went wrong here; it is in the log"),
}
