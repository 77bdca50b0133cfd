"""Masks what must not leave the process, wherever text leaves it: defence in depth.

Nothing in authz hands a token or a secret to a log or to the audit. This is for the day when
something does: an error text of a library that quotes its input, a token in a path.
"""

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

MASK = "[redacted]"

MAX_DEPTH = 8
"""Levels of nesting that are looked into; what lies deeper is masked whole. Log fields and
`/status` are three levels deep."""

_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:password|passwd|passphrase|secret|token|authorization|cookie|credentials?"
    r"|(?:private|api|access|signing|secret)[_\-]?key)$",
    re.IGNORECASE,
)
"""Ends of names: `access_token` and `set-cookie` are secret, `token_id` and `tokens` are not."""

_DOTTED = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{10,}+(?:\.[A-Za-z0-9_-]*+){1,4}")
"""Segments of base64url with dots between (RFC 7515 section 7.1; JWE has five). A JOSE header of
fewer than ten characters can't name an algorithm. Possessive, so that it stays linear."""

_JOSE_START = "eyJ"
"""`{"` in base64url: how nearly every token begins."""

_JOSE_HEADER = re.compile(rb'\{\s*"')

_USERINFO = re.compile(r"(?<=://)[^/\s\"']+@")
"""RFC 3986 section 3.2.1: `redis://user:password@host`. Up to the last `@`: one in a password ought
to be percent-encoded, but may not be."""

_PREFIXED = re.compile(r"(?:rt1_|\bhv[bsr]\.|\b[sb]\.(?=[A-Za-z0-9]{24}))[A-Za-z0-9_.-]{16,}+")
"""Refresh tokens of the token service (`tokens.refresh.PREFIX`), and tokens of Vault or OpenBao:
`hvs.`, `hvb.` and `hvr.`, before Vault 1.10 and in OpenBao `s.` and `b.` with 24 characters."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z]+ )*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
"""RFC 7468."""


def redact_text(text: str) -> str:
    """The text with JWTs, refresh tokens, Vault's tokens, user info in URLs and PEM private keys
    masked.
    """
    if "." in text:
        text = _DOTTED.sub(_mask_if_jose, text)
    if "." in text or "rt1_" in text:
        text = _PREFIXED.sub(MASK, text)
    if "@" in text:
        text = _USERINFO.sub(f"{MASK}@", text)
    if "-----BEGIN" in text:
        text = _PRIVATE_KEY.sub(MASK, text)
    return text


def redact(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A copy of a JSON-like value, masked: texts as `redact_text`, and whatever stands under a
    name such as `password`, `token` or `cookie`. Unknown types become their masked `str`.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redact_text(value)
        case _ if depth == 0:
            return MASK
        case Mapping():
            return {
                key: MASK if is_secret_name(str(key)) and inner else redact(inner, depth - 1)
                for key, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [redact(inner, depth - 1) for inner in value]
        case _:
            return redact_text(str(value))


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def _mask_if_jose(match: re.Match[str]) -> str:
    """Masks what begins like a JSON object once decoded; a host name does not."""
    text = match[0]
    if _JOSE_HEADER.match(urlsafe_b64decode(text[:8])):  # its first ten are of the alphabet
        return MASK
    before, found, _ = text.partition(_JOSE_START)  # after a prefix, as in `session-eyJ…`
    return before + MASK if found else text
