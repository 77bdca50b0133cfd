"""The claims of an access token (RFC 9068)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from authz.settings import MAX_LIFETIME


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a token is good: whole seconds since 1970."""

    issued_at: int
    expires_at: int


def span(now: float, *, cut_off: float, lifetime: float, ends: float | None = None) -> Span:
    """The times of a token issued now, for `lifetime` seconds. It isn't good beyond `ends`, but for
    a second in any case.

    Cut-offs are exact to the millisecond, `iat` counts seconds: a token that is issued in the very
    second of a log-out, and after it, would be taken for one from before. It is dated ahead, to the
    next full second, which is less than any usual leeway.
    """
    issued_at = max(math.floor(now), math.ceil(cut_off))
    lives = max(1, math.floor(min(lifetime, MAX_LIFETIME)))
    if ends is not None:
        lives = max(1, min(lives, math.floor(ends) - issued_at))
    return Span(issued_at, issued_at + lives)


def access_claims(
    when: Span,
    *,
    issuer: str,
    subject: str,
    client_id: str,
    audiences: Sequence[str],
    scopes: Sequence[str],
    jti: str,
    sid: str | None,
    auth_time: int | None,
    cnf: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Section 2.2; `sid` as in OpenID Connect Front-Channel Logout 1.0 section 3."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": audiences[0] if len(audiences) == 1 else list(audiences),
        "client_id": client_id,
        "iat": when.issued_at,
        "exp": when.expires_at,
        "jti": jti,
    }
    if scopes:
        claims["scope"] = " ".join(scopes)
    if sid is not None:
        claims["sid"] = sid
    if auth_time is not None:
        claims["auth_time"] = auth_time
    if cnf is not None:
        claims["cnf"] = dict(cnf)
    return claims
