"""Verdicts, the reasons for them, and the HTTP answer that each becomes.

The reasons are one enum: the same words stand in the body of an answer, in metrics, in the log and
in the audit.
"""

import json
from dataclasses import dataclass, field
from enum import Enum, StrEnum, unique
from functools import lru_cache
from typing import NamedTuple

from authz.check.token import Identity

REALM = "authz"

PROOF_ALGORITHMS = ("ES256", "ES384", "EdDSA", "PS256", "RS256")
"""With which a DPoP proof may be signed: asymmetric ones only (RFC 9449 section 4.2). In the order
in which they are recommended to clients."""


class Decision(StrEnum):
    """`x-authz-decision`. FAIL_OPEN is not ALLOW: nobody asked whether the token is revoked."""

    ALLOW = "allow"
    FAIL_OPEN = "fail-open"
    DENY = "deny"

    # Enum's own is Python code, and every check is counted by decision and reason.
    __hash__ = str.__hash__


class _Meaning(NamedTuple):
    word: str
    status: int
    """The HTTP status of a denial for this reason; 200 where it is a reason to allow."""
    error: str
    """RFC 6750 section 3.1 error code, or the body's `error` where the RFC has none."""
    description: str
    """For people; also `error_description`, so: no `"` and no backslash (RFC 6750 section 3)."""


@unique
class Reason(Enum):
    """Why a verdict is what it is."""

    # allowed
    OK = _Meaning("ok", 200, "", "the token is valid and not revoked")
    ANONYMOUS = _Meaning("anonymous", 200, "", "no token, on a route where one is optional")
    # allowed on record, or refused with 503 where the fail mode is closed
    STORE_UNAVAILABLE = _Meaning(
        "store_unavailable",
        503,
        "temporarily_unavailable",
        "the store cannot be asked at the moment",
    )
    # 401: no usable credential
    TOKEN_MISSING = _Meaning("token_missing", 401, "", "a bearer token is required")
    SCHEME_UNSUPPORTED = _Meaning(
        "scheme_unsupported", 401, "", "the authorization scheme must be Bearer or DPoP"
    )
    MULTIPLE_CREDENTIALS = _Meaning(
        "multiple_credentials", 401, "invalid_request", "the request carries more than one token"
    )
    # 401: the token as a text
    TOKEN_TOO_LARGE = _Meaning(
        "token_too_large", 401, "invalid_token", "the token is larger than 8192 bytes"
    )
    TOKEN_MALFORMED = _Meaning(
        "token_malformed", 401, "invalid_token", "the token is not a signed JWT"
    )
    HEADER_UNSUPPORTED = _Meaning(
        "header_unsupported", 401, "invalid_token", "the token's header asks for an extension"
    )
    ALGORITHM_NOT_ALLOWED = _Meaning(
        "algorithm_not_allowed", 401, "invalid_token", "the signature algorithm is not accepted"
    )
    # 401: what it is wrapped in
    ENCRYPTION_NOT_ALLOWED = _Meaning(
        "encryption_not_allowed", 401, "invalid_token", "the token's encryption is not accepted"
    )
    ENCRYPTION_REQUIRED = _Meaning(
        "encryption_required", 401, "invalid_token", "the issuer's tokens must be encrypted"
    )
    DECRYPTION_KEY_UNKNOWN = _Meaning(
        "decryption_key_unknown",
        401,
        "invalid_token",
        "the key that the token is encrypted to is not known",
    )
    DECRYPTION_FAILED = _Meaning(
        "decryption_failed", 401, "invalid_token", "the token does not decrypt"
    )
    # 401: who vouches for it
    ISSUER_UNKNOWN = _Meaning("issuer_unknown", 401, "invalid_token", "the issuer is not trusted")
    KEY_UNKNOWN = _Meaning("key_unknown", 401, "invalid_token", "the signing key is not known")
    SIGNATURE_INVALID = _Meaning(
        "signature_invalid", 401, "invalid_token", "the signature does not verify"
    )
    # 401: what it claims
    CLAIM_INVALID = _Meaning(
        "claim_invalid", 401, "invalid_token", "a claim is missing or has the wrong type"
    )
    SUBJECT_MISSING = _Meaning("subject_missing", 401, "invalid_token", "the token has no subject")
    TOKEN_EXPIRED = _Meaning("token_expired", 401, "invalid_token", "the token has expired")
    TOKEN_NOT_YET_VALID = _Meaning(
        "token_not_yet_valid", 401, "invalid_token", "the token is not valid yet"
    )
    LIFETIME_TOO_LONG = _Meaning(
        "lifetime_too_long", 401, "invalid_token", "the token's lifetime exceeds the limit"
    )
    AUDIENCE_MISMATCH = _Meaning(
        "audience_mismatch", 401, "invalid_token", "the token is meant for another audience"
    )
    # 401: whom it is bound to
    BINDING_UNSUPPORTED = _Meaning(
        "binding_unsupported", 401, "invalid_token", "the token is bound in a way that is not known"
    )
    BINDING_MISMATCH = _Meaning(
        "binding_mismatch",
        401,
        "invalid_token",
        "the token is bound to a certificate that did not come with it",
    )
    BINDING_REQUIRED = _Meaning(
        "binding_required",
        401,
        "invalid_token",
        "this route needs a token that is bound to a key or certificate",
    )
    SCHEME_MISMATCH = _Meaning(
        "scheme_mismatch",
        401,
        "invalid_token",
        "a token that is bound to a key goes with the scheme DPoP, and no other does",
    )
    # 401: the proof that who sends it has the key
    PROOF_MISSING = _Meaning(
        "proof_missing", 401, "invalid_dpop_proof", "a proof of possession is required"
    )
    PROOF_INVALID = _Meaning(
        "proof_invalid", 401, "invalid_dpop_proof", "the proof of possession is not good"
    )
    PROOF_REPLAYED = _Meaning(
        "proof_replayed", 401, "invalid_dpop_proof", "the proof of possession was used before"
    )
    NONCE_REQUIRED = _Meaning(
        "nonce_required",
        401,
        "use_dpop_nonce",
        "the proof of possession needs the nonce of the header DPoP-Nonce",
    )
    # 401: taken back, or used up
    TOKEN_REVOKED = _Meaning("token_revoked", 401, "invalid_token", "the token was revoked")
    POSSIBLY_REVOKED = _Meaning(
        "possibly_revoked",
        401,
        "invalid_token",
        "the token was probably revoked, and that can't be looked up",
    )
    TOKEN_USED = _Meaning(
        "token_used", 401, "invalid_token", "the token was used before, and works once only"
    )
    # 403: good, but not good enough for this route
    INSUFFICIENT_SCOPE = _Meaning(
        "insufficient_scope", 403, "insufficient_scope", "the token lacks a scope of this route"
    )
    ROUTE_AUDIENCE_MISMATCH = _Meaning(
        "route_audience_mismatch",
        403,
        "insufficient_scope",
        "the token is not meant for this route",
    )
    # 403: good, but not when it comes like this
    HTTPS_REQUIRED = _Meaning(
        "https_required", 403, "invalid_request", "the token came over plain HTTP"
    )
    CROSS_SITE_REQUEST = _Meaning(
        "cross_site_request",
        403,
        "invalid_request",
        "the token came in a cookie, and the request may be another site's",
    )
    # 5xx: our side
    MISCONFIGURED_ROUTE = _Meaning(
        "misconfigured_route", 500, "server_error", "the route's authz settings are not usable"
    )
    AUDIT_UNAVAILABLE = _Meaning(
        "audit_unavailable",
        503,
        "temporarily_unavailable",
        "the decision could not be put on record",
    )
    KEYS_UNAVAILABLE = _Meaning(
        "keys_unavailable",
        503,
        "temporarily_unavailable",
        "the issuer's keys have not been obtained yet",
    )

    __hash__ = object.__hash__  # as for Decision

    def __str__(self) -> str:
        return self.value.word


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one check. What is decided, and why, is given by whoever decides: neither is a
    default.
    """

    decision: Decision
    reason: Reason
    identity: Identity | None
    """Whose token it was, once its signature was verified; else None."""
    detail: str
    """What a person needs beyond the reason, free of anything the client sent; may be empty."""
    headers: tuple[tuple[str, str], ...] = ()
    """What else the client is told: names in lower case, and values."""
    encoded: bytes | None = field(default=None, init=False, repr=False, compare=False)
    """The answer that the encoder made of it, where that is the same for any request: made once
    for a verdict that is kept."""

    def keep(self, encoded: bytes) -> bytes:
        """Put `encoded` there. Gives it back."""
        object.__setattr__(self, "encoded", encoded)
        return encoded


def allow(identity: Identity, headers: tuple[tuple[str, str], ...] = ()) -> Verdict:
    return Verdict(Decision.ALLOW, Reason.OK, identity, "", headers)


def allow_anonymous() -> Verdict:
    return _ANONYMOUS


def allow_fail_open(identity: Identity) -> Verdict:
    return Verdict(Decision.FAIL_OPEN, Reason.STORE_UNAVAILABLE, identity, "")


def deny(
    reason: Reason,
    *,
    identity: Identity | None = None,
    detail: str = "",
    headers: tuple[tuple[str, str], ...] = (),
) -> Verdict:
    if identity is None and not detail and not headers:
        return _BARE_DENIALS[reason]
    return Verdict(Decision.DENY, reason, identity, detail, headers)


_ANONYMOUS = Verdict(Decision.ALLOW, Reason.ANONYMOUS, None, "")
_BARE_DENIALS = {reason: Verdict(Decision.DENY, reason, None, "") for reason in Reason}


class Denial(NamedTuple):
    """The HTTP response of a denial."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body_start: str
    """A JSON object up to the value of its last member, `request_id`."""

    def body(self, request_id: str) -> str:
        return f"{self.body_start}{json.dumps(request_id)}}}"


RETRY_AFTER_SECONDS = 1
"""The breaker probes twice a second, so a second is when asking again makes sense."""


_ABOUT_POSSESSION = frozenset({
    Reason.SCHEME_MISMATCH, Reason.PROOF_MISSING, Reason.PROOF_INVALID, Reason.PROOF_REPLAYED,
    Reason.NONCE_REQUIRED,
})  # fmt: skip
"""Answered with the challenge of RFC 9449 section 7.1."""


def _challenge(reason: Reason) -> str:
    if reason in _ABOUT_POSSESSION:
        return f'DPoP realm="{REALM}", algs="{" ".join(PROOF_ALGORITHMS)}"'
    return f'Bearer realm="{REALM}"'


DENIALS_KEPT = 1024
"""Responses by reason and detail. Details are words of ours and scopes that routes need, so there
are few; 1 KB each."""


@lru_cache(DENIALS_KEPT)
def denial(reason: Reason, detail: str) -> Denial:
    """The response that a denied client gets: RFC 6750 section 3 challenge and a JSON body."""
    word, status, error, description = reason.value
    if detail:
        description = f"{description}: {detail}"
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    if status in {401, 403}:
        challenge = _challenge(reason)
        if error:  # RFC 6750 section 3.1: no error code where no credential was offered
            challenge += f', error="{error}", error_description="{description}"'
        headers.append(("www-authenticate", challenge))
    elif status == 503:  # noqa: PLR2004
        headers.append(("retry-after", str(RETRY_AFTER_SECONDS)))
    body = {
        "error": error or "unauthorized",
        "reason": word,
        "error_description": description,
    }
    body_start = json.dumps(body).removesuffix("}") + ', "request_id": '
    return Denial(status, tuple(headers), body_start)
