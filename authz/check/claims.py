"""What a token's claims say of its holder, read strictly (RFC 7519 section 4)."""

import re
from functools import lru_cache
from typing import Any

from authz.check.jose import BadTokenError
from authz.check.token import SCOPE_TOKEN, Confirmation, Identity
from authz.check.verdict import Reason
from authz.revocation.record import TokenRef, bucket_of, token_digest, user_digest

MAX_NUMERIC_DATE = 2**53
"""The largest NumericDate that every JSON implementation reads exactly (RFC 7519 section 2)."""

_CONTROL = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_HEADER_TEXT = re.compile(rf"(?!\s)[^{_CONTROL}]+(?<!\s)")
"""What can be a header's value without being changed on the way: no control characters, no lone
surrogates, no outer blanks (they would be trimmed, and ` alice` become alice)."""

_CONFIRMATIONS = {"jkt": "jkt", "x5t#S256": "certificate"}
"""Members of `cnf`, and where they go in a `Confirmation` (RFC 9449 section 6.1, RFC 8705 3.1)."""

_SHA256 = re.compile(r"[A-Za-z0-9_-]{43}")
"""A SHA-256 in base64url."""


def numeric_date(claims: dict[str, Any], name: str) -> int:
    """A NumericDate (RFC 7519 section 2) in whole seconds, which is all that issuers need; text,
    fractions and booleans are refused so that no two readers can differ about the instant.
    """
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= MAX_NUMERIC_DATE:
        raise BadTokenError(Reason.CLAIM_INVALID, name)
    return value


def not_before(claims: dict[str, Any]) -> int:
    """The later of `nbf` and `iat`: from when on the token may be used."""
    issued_at = numeric_date(claims, "iat")
    return max(issued_at, numeric_date(claims, "nbf")) if "nbf" in claims else issued_at


def identity_of(
    claims: dict[str, Any], issuer: str, signing_input: bytes, buckets: int
) -> Identity:
    """Whose token this is, and what a revocation of it would be called. BadTokenError: a claim
    that is needed is missing or not of its type. Says nothing about signature, time or audience.
    """
    expires_at = numeric_date(claims, "exp")
    issued_at = numeric_date(claims, "iat")  # without it no cut-off could ever apply
    if expires_at <= issued_at:
        raise BadTokenError(Reason.CLAIM_INVALID, "exp")
    subject = claims.get("sub")
    if subject is None or subject == "":
        raise BadTokenError(Reason.SUBJECT_MISSING)
    if not is_header_text(subject):
        raise BadTokenError(Reason.CLAIM_INVALID, "sub")
    jti = claims.get("jti")
    if "jti" in claims and not is_header_text(jti):  # null is no text either
        raise BadTokenError(Reason.CLAIM_INVALID, "jti")
    tid = token_digest(issuer, jti, signing_input)
    return Identity(
        issuer=issuer,
        subject=subject,
        token_id=jti or tid,
        scopes=_scopes(claims),
        audiences=_audiences(claims),
        ref=TokenRef(
            user=user_digest(issuer, subject),
            token=tid,
            bucket=bucket_of(issuer, subject, buckets),
            issued_at=issued_at,
            expires_at=expires_at,
        ),
    )


def confirmation_of(claims: dict[str, Any]) -> Confirmation | None:
    """Whom the token is bound to; None: whoever holds it may use it. BadTokenError: by a method
    that we don't know (RFC 7800 section 3.1 lets us ignore it, and that would unbind the token).
    """
    cnf = claims.get("cnf")
    if "cnf" not in claims:
        return None
    if not isinstance(cnf, dict) or not cnf:
        raise BadTokenError(Reason.CLAIM_INVALID, "cnf")
    if not cnf.keys() <= _CONFIRMATIONS.keys():
        raise BadTokenError(Reason.BINDING_UNSUPPORTED)
    if not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in cnf.values()):
        raise BadTokenError(Reason.CLAIM_INVALID, "cnf")
    return Confirmation(**{_CONFIRMATIONS[name]: value for name, value in cnf.items()})


def is_header_text(value: object) -> bool:
    """Whether a claim is a text that can stand in an HTTP header as it is."""
    return isinstance(value, str) and _HEADER_TEXT.fullmatch(value) is not None


def _audiences(claims: dict[str, Any]) -> tuple[str, ...]:
    value = claims.get("aud")
    values = [value] if isinstance(value, str) else value  # section 4.1.3: either form
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise BadTokenError(Reason.CLAIM_INVALID, "aud")
    return _shared(tuple(values))


def _scopes(claims: dict[str, Any]) -> tuple[str, ...]:
    value = claims.get("scope", claims.get("scp", ""))
    # RFC 6749 section 3.3: separated by spaces. Not by all that Unicode calls a blank: who reads
    # `read\x1fadmin` as two scopes grants what the issuer never did.
    values = list(filter(None, value.split(" "))) if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise BadTokenError(Reason.CLAIM_INVALID, "scope")
    return _checked_scopes(tuple(values))


LISTS_SHARED = 1024
"""Lists of scopes or audiences. Many tokens have the same few, and a list of 2 takes 170 bytes."""


@lru_cache(LISTS_SHARED)
def _shared(values: tuple[str, ...]) -> tuple[str, ...]:
    """One object for all equal ones."""
    return values


@lru_cache(LISTS_SHARED)
def _checked_scopes(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(map(SCOPE_TOKEN.fullmatch, values)):
        raise BadTokenError(Reason.CLAIM_INVALID, "scope")
    return values
