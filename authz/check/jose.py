"""A JWS in compact form, taken apart strictly and believed in nothing (RFC 7515)."""

import binascii
import json
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any, NoReturn

from authz.check.verdict import Reason

MAX_TOKEN_BYTES = 8192
"""Bytes of a token's text. Request headers are limited to 8 KiB in nginx and Apache; Envoy's 60 KiB
for all of them leave room. A token of 50 scopes has about 2 KiB."""

MAX_DEPTH = 64
"""Objects and arrays inside each other. Claim sets have three or four. Without a limit of our own
the interpreter's decides, which is another in each version of Python and on each call stack."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")  # RFC 7515 section 7.1
_NOT_A_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[^][{}"]+', re.DOTALL)
"""Texts, and whatever else has no part in how deep JSON is nested."""


class BadTokenError(Exception):
    """The token is refused: `reason`, and in `detail` constant words such as a claim's name."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Jws:
    """The parts of a token. Nothing here has been verified."""

    header: dict[str, Any]
    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    signing_input: bytes
    signature_text: str

    @property
    def signature(self) -> bytes:
        """BadTokenError: not base64url."""
        return _decode(self.signature_text)


def require_compact_form(token: str) -> None:
    """Three base64url segments within the size limit: the cheapest guard. BadTokenError else."""
    if len(token) > MAX_TOKEN_BYTES:
        raise BadTokenError(Reason.TOKEN_TOO_LARGE)
    if not _COMPACT.fullmatch(token):
        raise BadTokenError(Reason.TOKEN_MALFORMED)


def take_apart(token: str) -> Jws:
    """The parts of a token in compact form. BadTokenError: not JSON, an extension we don't know."""
    signing_input, _, signature_text = token.rpartition(".")
    header_text, _, claims_text = signing_input.partition(".")
    header = json_object(header_text)
    if "crit" in header or "b64" in header:  # section 4.1.11, RFC 7797: we understand none
        raise BadTokenError(Reason.HEADER_UNSUPPORTED)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None):
        raise BadTokenError(Reason.TOKEN_MALFORMED)
    claims = json_object(claims_text)
    return Jws(header, algorithm, kid, claims, signing_input.encode(), signature_text)


def _decode(segment: str) -> bytes:
    """base64url without padding (section 2)."""
    try:
        return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise BadTokenError(Reason.TOKEN_MALFORMED) from None


def json_object(segment: str) -> dict[str, Any]:
    """A segment that is a JSON object in base64url. BadTokenError: it isn't."""
    try:
        text = _decode(segment).decode()
        _require_shallow(text)
        value = _JSON.decode(text)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise BadTokenError(Reason.TOKEN_MALFORMED) from None
    if not isinstance(value, dict):
        raise BadTokenError(Reason.TOKEN_MALFORMED)
    return value


def _require_shallow(text: str) -> None:
    """ValueError where JSON is nested deeper than MAX_DEPTH."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _NOT_A_BRACKET.sub("", text):
        depth += 1 if bracket in "{[" else -1
        if depth > MAX_DEPTH:
            raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Section 4: reject duplicate names, which parsers read differently."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def _no_constant(text: str) -> NoReturn:
    """NaN and Infinity are not JSON."""
    raise ValueError(text)


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
"""Made once: `json.loads` with hooks makes one each time, which takes as long as the reading."""
