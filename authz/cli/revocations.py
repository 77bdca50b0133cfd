"""What somebody wants revoked, read strictly: from options, or from a line of a file."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from authz.check.claims import identity_of, is_header_text
from authz.check.envelope import is_encrypted
from authz.check.jose import BadTokenError, require_compact_form, take_apart
from authz.keys.decryption import DecryptionRings
from authz.revocation.record import Note, bucket_of, token_digest, user_digest
from authz.revocation.store import Revocation, TokenRevocation, UserRevocation
from authz.settings import MAX_LEEWAY, MAX_LIFETIME, Settings, SettingsError

if TYPE_CHECKING:
    from authz.check.jwe import Opener

LAST_INSTANT = 253_402_300_800.0
"""Seconds since 1970: the end of the year 9999, where ISO 8601's four digits end too."""

MAX_SHOWN = 64
"""Characters of a value that an error repeats. A token has more, should one stand in a wrong
place."""


class BadRevocationError(Exception):
    """It makes no sense. `field`: which part, as it is called in a file; `problem`: why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Reader:
    """Makes revocations of what was given. Every method raises BadRevocationError."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        """`now`: seconds since 1970."""
        self._settings = settings
        self.now = now
        self._opener: Opener | None = None

    def of_token(self, token: str, note: Note) -> TokenRevocation:
        """Of the token itself, or of the one encrypted in it. Its signature isn't looked at."""
        try:
            if is_encrypted(token):
                token = self._open().open(token).token
            require_compact_form(token)
            jws = take_apart(token)
            issuer = jws.claims.get("iss")
            self._require_configured(issuer, "token")
            identity = identity_of(
                jws.claims, str(issuer), jws.signing_input, self._settings.store.buckets
            )
        except BadTokenError as error:
            raise BadRevocationError("token", f"no token that could be accepted: {error}") from None
        ref = identity.ref
        return TokenRevocation(ref.token, ref.user, ref.bucket, ref.expires_at, note)

    def of_jti(
        self, issuer: str, jti: str, expires_at: str | float, user: str | None, note: Note
    ) -> TokenRevocation:
        """Of the names of a token. `expires_at`: as for `instant`."""
        self._require_configured(issuer, "issuer")
        _require_usable(jti, "jti")
        if user is not None:
            _require_usable(user, "user")
        buckets = self._settings.store.buckets
        return TokenRevocation(
            token=token_digest(issuer, jti, b""),
            user=None if user is None else user_digest(issuer, user),
            bucket=None if user is None else bucket_of(issuer, user, buckets),
            expires_at=math.ceil(_instant(expires_at, "expires_at")),
            note=note,
        )

    def of_user(self, issuer: str, user: str, before: str | float, note: Note) -> UserRevocation:
        """Of all tokens of a user that were issued before. `before`: as for `instant`."""
        self._require_configured(issuer, "issuer")
        _require_usable(user, "user")
        cut = _instant(before, "before")
        if cut > self.now() + MAX_LEEWAY:
            raise BadRevocationError(
                "before", "lies in the future: those tokens are yet to be issued"
            )
        return UserRevocation(
            user=user_digest(issuer, user),
            bucket=bucket_of(issuer, user, self._settings.store.buckets),
            not_before=cut,
            max_lifetime=MAX_LIFETIME,
            note=note,
        )

    def is_over(self, revocation: Revocation) -> bool:
        """Whether there is nothing to revoke: the token has expired, for whatever sidecar."""
        # Not the leeway of these settings: other sidecars may have another.
        return (
            isinstance(revocation, TokenRevocation)
            and revocation.expires_at + MAX_LEEWAY <= self.now()
        )

    def _open(self) -> "Opener":
        """What opens encrypted tokens; made when the first one comes, for it needs private keys."""
        from authz.check.jwe import Opener  # with joserfc

        if self._opener is None:
            rings = DecryptionRings(self._settings.issuers)
            try:
                rings.load()
            except SettingsError as error:
                raise BadRevocationError("token", f"it is encrypted, and {error}") from None
            if not rings.by_issuer:
                raise BadRevocationError(
                    "token",
                    "it is encrypted, and no issuer in the settings has decryption.key_file; "
                    "name it by issuer and jti",
                )
            self._opener = Opener(rings.by_issuer)
        return self._opener

    def _require_configured(self, issuer: object, field: str) -> None:
        if all(issuer != known.issuer for known in self._settings.issuers):  # of any JSON type
            raise BadRevocationError(
                field, "the issuer is none of those under `issuers` in the settings"
            )


def _require_usable(value: str, field: str) -> None:
    """An empty variable of a script must not pass for somebody whose tokens were revoked."""
    if not is_header_text(value):
        raise BadRevocationError(field, f"no token that is accepted can have {shown(value)}")


def _instant(value: str | float, field: str) -> float:
    """Seconds since 1970, from such a number or ISO 8601; without a zone it is UTC."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = _iso_8601(str(value), field)
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds < LAST_INSTANT:  # nor NaN
        raise BadRevocationError(
            field,
            f"{shown(str(value))} is not between 1970 and 9999; numbers are seconds since 1970",
        )
    return seconds


def _iso_8601(text: str, field: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadRevocationError(
            field, f"{shown(text)} is neither seconds since 1970 nor ISO 8601"
        ) from None


def shown(text: str) -> str:
    """A value as an error may repeat it."""
    return repr(text) if len(text) <= MAX_SHOWN else f"a text of {len(text)} characters"
