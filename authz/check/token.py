"""A token whose signature and claims were found good."""

import re
from dataclasses import dataclass

from authz.revocation.record import TokenRef

SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")
"""`scope-token` of RFC 6749 section 3.3."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token says. Every text is free of control characters and outer blanks, so
    that it can stand in an HTTP header as it is.
    """

    issuer: str
    subject: str
    token_id: str
    """`jti`; where the token has none, TID."""
    scopes: tuple[str, ...]
    """Of `scope` (RFC 8693 section 4.2) or `scp`, in the token's order."""
    audiences: tuple[str, ...]
    ref: TokenRef


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Whom a token is bound to: its `cnf` (RFC 7800 section 3.1). All that is given must be met."""

    jkt: str | None = None
    """The thumbprint of a DPoP key (RFC 9449 section 6.1)."""
    certificate: str | None = None
    """`x5t#S256`: the SHA-256 of a client certificate (RFC 8705 section 3.1). Both in base64url."""
