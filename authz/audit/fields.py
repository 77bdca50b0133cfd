"""What an audit record holds: every field, with one line of meaning.

A line of the audit is one JSON object: the fields of `Stamp`, then those of the entry. README.md
beside this file is the same list for readers, and a test compares the two with what is written.
"""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from authz.observe.redact import redact_text

VERSION = 2
"""Of the format. Adding a field leaves it; removing one, or changing what one means, does not. 2
brought the chain (`prev`), which no verifier may do without."""

FAIL_OPEN = "fail_open"
"""`event`: a request was let through although nobody could say whether its token is revoked."""

RECONCILED = "reconciled"
"""`event`: a token that had been let through was looked at again, once the store could be asked."""

MAX_TEXT = 256
"""Characters kept of a text that someone else chose. Subjects are at most 255 (OpenID Connect Core
section 2), host names 253 (RFC 1035), and the digests find the token whatever its `jti` was."""

MAX_PATH = 1024
"""Characters kept of a path; what an incident needs of one, at an eighth of what Envoy accepts."""

CUT = "\u2026"
"""Stands at the end of a text that was longer."""


def bounded(text: str, most: int = MAX_TEXT) -> str:
    """The text as a record may hold it: masked where it looks like a token, and cut."""
    text = redact_text(text)
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


def _means(meaning: str) -> Any:
    return field(metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the audit adds to every entry."""

    v: int = _means("version of this format: 2")
    time: str = _means("when it was decided, RFC 3339 in UTC with milliseconds")
    event: str = _means("what happened: `fail_open` or `reconciled`")
    seq: int = _means("number of the record within `instance`: 1, 2, 3 … without a gap")
    instance: str = _means("host name and a random number, new at each start of the sidecar")
    prev: str = _means("SHA-256 of the line before it of the same `instance`, see the chain")


@dataclass(frozen=True, slots=True)
class FailOpen:
    """A request that is about to be let through without an answer of the store."""

    event: ClassVar[str] = FAIL_OPEN

    request_id: str = _means("`x-request-id`, the same as in Envoy's access log and in answers")
    method: str = _means("HTTP method")
    path: str = _means("path without query and fragment")
    host: str = _means("`Host` or `:authority`")
    source: str = _means("client address as Envoy gave it; empty where it gave none")
    issuer: str = _means("`iss` of the token")
    subject: str = _means("`sub` of the token")
    token_id: str = _means("`jti` of the token; where it has none, the same as `token`")
    token: str = _means("TID, the digest by which the token is revoked and looked up")
    user: str = _means("digest of issuer and subject, as in the keys of the store")
    bucket: int = _means("hash tag of the user's keys in the store")
    issued_at: int = _means("`iat` of the token, seconds since 1970")
    expires_at: int = _means("`exp` of the token, seconds since 1970")
    cause: str = _means(
        "why the store was not asked: `timeout`, `connection`, `breaker_open`, `error`"
    )
    fail_mode_from: Literal["route", "settings"] = _means(
        "who said to fail open: `route` (Envoy's `authz.fail_mode`) or `settings`"
    )


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of one token that was let through: had it been revoked by then?"""

    event: ClassVar[str] = RECONCILED

    issuer: str = _means("`iss` of the token")
    subject: str = _means("`sub` of the token")
    token_id: str = _means("`jti` of the token; where it has none, the same as `token`")
    token: str = _means("TID, the digest by which the token is revoked and looked up")
    user: str = _means("digest of issuer and subject, as in the keys of the store")
    bucket: int = _means("hash tag of the user's keys in the store")
    issued_at: int = _means("`iat` of the token, seconds since 1970")
    expires_at: int = _means("`exp` of the token, seconds since 1970")
    first_at: str = _means("when it was first let through, as `time` of that record")
    last_at: str = _means("when it was last let through; later ones have a record of their own")
    requests: int = _means("how many requests were let through with it from first to last")
    was_revoked: bool = _means("whether the token is revoked: before, between or after these")
    revoked_at: str = _means(
        "when it was first revoked, as who revoked it had the time; empty where it was not, or "
        "nobody can tell"
    )
    revoked_by: str = _means("who revoked it, as `authz revoke --by` said")
    revoked_reason: str = _means("why, as `authz revoke --reason` said")
    requests_after: int = _means(
        "how many of `requests` came when it was revoked or later; see below for its exactness"
    )
    evidence: Literal["store", "stream", "expired"] = _means(
        "how that is known: `store`, `stream` or `expired`, see below"
    )


Entry = FailOpen | Reconciled
"""What can be recorded. Each class names its `event`."""

ENTRIES: dict[str, type[Entry]] = {FAIL_OPEN: FailOpen, RECONCILED: Reconciled}
"""The classes by their `event`."""


def meanings(kind: type[Stamp | Entry]) -> dict[str, str]:
    """Field to meaning, in the order in which they are written."""
    return {one.name: one.metadata["meaning"] for one in fields(kind)}
