"""A client application (RFC 6749 section 2) as it is kept in the store.

One record in JSON. What can't be read is an error, never a client with fewer restrictions.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pydantic import TypeAdapter

CLIENT_CREDENTIALS = "client_credentials"
REFRESH_TOKEN = "refresh_token"  # noqa: S105  the name of a grant
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105

GRANTS = (CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE)

MAX_TEXT = 256
"""Characters of a client's id, of one scope, of one audience: more than a URL in practice, and
what a key file's `kid` may have."""

MAX_ENTRIES = 64
"""Scopes, audiences or keys of one client. They are read with each request."""

_ID = re.compile(r"[A-Za-z0-9._~:/@-]{1,256}")
"""RFC 6749 appendix A.1 allows all of printable ASCII. These need no escaping in a form or in a
log; in HTTP Basic the colon does (`%3A`, section 2.3.1), as in ids that are URLs."""

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
"""RFC 6749 section 3.3: `scope-token`."""

_AUDIENCE = re.compile(r"[\x21-\x7e]{1,256}")


class BadClientError(Exception):
    """A record that is none, or a client that can't be. One line that says what is wrong."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of a client, as its argon2 hash."""

    hash: str = field(repr=False)
    """In PHC form: algorithm, parameters, salt and digest."""
    created: float
    """Seconds since 1970."""
    until: float | None = None
    """From when on it is refused; None: as long as it stands here. Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who may ask for what."""

    id: str
    created: float
    """Seconds since 1970."""
    grants: tuple[str, ...]
    """Of GRANTS."""
    scopes: tuple[str, ...] = ()
    """The most that its tokens may carry."""
    audiences: tuple[str, ...] = ()
    """Whom its tokens may be for; empty: those of `tokens.audiences`."""
    secrets: tuple[Secret, ...] = ()
    """Empty exactly where the client is public (RFC 6749 section 2.1)."""
    lifetime: float | None = None
    """Seconds that its access tokens live; None: `tokens.access_lifetime`."""
    may_exchange: bool = False
    """A login service: it says who its users are (RFC 8693), by `keys` of its own or with tokens of
    a trusted issuer."""
    keys: tuple[Mapping[str, Any], ...] = ()
    """Public JWKs with which a login service signs what it says of its users."""
    may_introspect: bool = False
    """It may look at tokens of others (RFC 7662), as a resource server does."""
    cookies: bool = False
    """Tokens go into cookies instead of the answer's body: a browser's application."""
    disabled: bool = False

    @property
    def public(self) -> bool:
        return not self.secrets

    def check(self) -> "Client":
        """The same, if it makes sense. BadClientError says why not."""
        if not _ID.fullmatch(self.id):
            raise BadClientError(
                f"{self.id[:MAX_TEXT]!r}: a client's id has 1 to {MAX_TEXT} of A-Z a-z 0-9 ._~:/@-"
            )
        self._check_names()
        if not self.grants or not set(self.grants) <= set(GRANTS):
            raise BadClientError(f"grants: at least one of {', '.join(GRANTS)}")
        if self.public and (CLIENT_CREDENTIALS in self.grants or self.may_exchange):
            raise BadClientError(
                "a public client has no secret, so it can have neither client_credentials "
                "nor may_exchange"
            )
        if self.may_introspect and self.public:
            raise BadClientError("may_introspect is for clients with a secret")
        if self.keys and not self.may_exchange:
            raise BadClientError("keys are for a login service; they go with may_exchange")
        if self.cookies and CLIENT_CREDENTIALS in self.grants:
            raise BadClientError("cookies are for a user's browser, not for client_credentials")
        return self

    def _check_names(self) -> None:
        for what, names, form in (
            ("scopes", self.scopes, _SCOPE),
            ("audiences", self.audiences, _AUDIENCE),
        ):
            if len(names) > MAX_ENTRIES:
                raise BadClientError(f"{what}: {MAX_ENTRIES} at most")
            for name in names:
                if not form.fullmatch(name):
                    raise BadClientError(f"{what}: {name[:MAX_TEXT]!r} is not one")
        if len(self.keys) > MAX_ENTRIES:
            raise BadClientError(f"keys: {MAX_ENTRIES} at most")

    def usable_secrets(self, now: float) -> list[Secret]:
        """Those that are not over. `now` in seconds since 1970."""
        return [one for one in self.secrets if one.until is None or now < one.until]

    def with_secret(self, secret: Secret, *, overlap: float, now: float) -> "Client":
        """The same with another secret. Those before hold for `overlap` seconds more."""
        older = [
            replace(one, until=min(one.until or now + overlap, now + overlap))
            for one in self.usable_secrets(now)
        ]
        kept = [one for one in older if one.until is not None and now < one.until]
        return replace(self, secrets=(*kept, secret))

    def dump(self) -> str:
        """As it is stored: always the same text for the same client."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def load(cls, text: str | bytes) -> "Client":
        """BadClientError: it is no client's record, or one of another version."""
        try:
            record = json.loads(text)
            if set(record) != {one.name for one in fields(cls)}:
                raise BadClientError("the record has other fields than this version knows")
            client = _RECORD.validate_json(text, strict=True)
        except (
            ValueError,
            TypeError,
            RecursionError,
        ):  # pydantic's ValidationError is a ValueError
            raise BadClientError("the record is not a client's") from None
        return client.check()


_RECORD = TypeAdapter(Client)
"""Reads each field as the type that it has, and nothing as another."""
