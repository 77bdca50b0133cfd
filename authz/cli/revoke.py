"""`authz revoke`: take a token back, or all tokens of a user."""

import asyncio
import getpass
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from authz.check.claims import identity_of, is_header_text
from authz.check.jose import BadTokenError, require_compact_form, take_apart
from authz.cli.errors import CommandError
from authz.cli.options import config_option, read_token
from authz.revocation.open import open_store
from authz.revocation.record import Note, bucket_of, token_digest, user_digest
from authz.revocation.store import (
    Acknowledgement,
    StoreError,
    TokenRevocation,
    UserRevocation,
)
from authz.settings import MAX_LEEWAY, MAX_LIFETIME, Settings, load_settings

LAST_INSTANT = 253_402_300_800.0
"""Seconds since 1970: the end of the year 9999, where ISO 8601's four digits end too."""


@click.command()
@config_option
@click.option("--token", help="The token itself, or - to read it from standard input.")
@click.option("--issuer", help="`iss` of the tokens to revoke.")
@click.option("--jti", help="Revoke the token with this id (with --issuer and --expires-at).")
@click.option("--expires-at", help="When that token expires: seconds since 1970 or ISO 8601.")
@click.option("--user", help="`sub`: revoke all tokens of this user (with --issuer).")
@click.option(
    "--before", help="Only tokens issued before: seconds since 1970 or ISO 8601.  [default: now]"
)
@click.option("--reason", default="revoked", show_default=True, help="Kept with the revocation.")
@click.option("--by", help="Who revokes; kept with the revocation.  [default: your login name]")
def revoke(
    config: Path | None,
    token: str | None,
    issuer: str | None,
    jti: str | None,
    expires_at: str | None,
    user: str | None,
    before: str | None,
    reason: str,
    by: str | None,
) -> None:
    """Revoke a token, or every token of a user.

    Returns once the store has the revocation and, where it has replicas, one of them confirmed it.
    Repeating it is harmless. A signature isn't checked: a token can be taken back when the issuer's
    keys are out of reach.

    \b
    Examples:
      authz revoke --config authz.yaml --token - < stolen.jwt
      authz revoke --issuer https://issuer.example --jti 4f1c --expires-at 2026-01-31T12:00:00Z
      authz revoke --issuer https://issuer.example --user alice --reason "password changed"
    """
    settings = load_settings(config)
    if settings.store.url.get_secret_value().startswith("memory:"):
        raise CommandError(
            "store.url is memory://, which only the sidecar itself can reach; use redis://"
        )
    note = Note(reason, by or _login_name(), time.time())
    match (token, issuer, jti, expires_at, user, before):
        case (str(), None, None, None, None, None):
            text = read_token(token)
            revocation: TokenRevocation | UserRevocation = _of_token(text, settings, note)
        case (None, str(), str(), str(), _, None):
            revocation = _of_jti(issuer, jti, expires_at, user, settings, note)
        case (None, str(), None, None, str(), _):
            revocation = _of_user(issuer, user, before, settings, note)
        case _:
            raise click.UsageError(
                "give --token, or --issuer --jti --expires-at [--user], "
                "or --issuer --user [--before]"
            )
    # Not the leeway of these settings: other sidecars may have another.
    if isinstance(revocation, TokenRevocation) and revocation.expires_at + MAX_LEEWAY <= note.at:
        print("nothing to revoke: the token has expired")
        return
    acknowledged = asyncio.run(_write(settings, revocation))
    what = "the token" if isinstance(revocation, TokenRevocation) else f"tokens of {user!r}"
    state = "was revoked already" if acknowledged.repeated else "revoked"
    print(f"{state}: {what}; confirmed by {acknowledged.replicas} replica(s)")


def _of_token(token: str, settings: Settings, note: Note) -> TokenRevocation:
    try:
        require_compact_form(token)
        jws = take_apart(token)
        issuer = jws.claims.get("iss")
        _require_configured(issuer, settings)
        identity = identity_of(jws.claims, str(issuer), jws.signing_input, settings.store.buckets)
    except BadTokenError as error:
        raise click.UsageError(f"--token: no token that could be accepted: {error}") from None
    ref = identity.ref
    return TokenRevocation(ref.token, ref.user, ref.bucket, ref.expires_at, note)


def _of_jti(
    issuer: str, jti: str, expires_at: str, user: str | None, settings: Settings, note: Note
) -> TokenRevocation:
    _require_configured(issuer, settings)
    _require_usable(jti, "--jti")
    if user is not None:
        _require_usable(user, "--user")
    return TokenRevocation(
        token=token_digest(issuer, jti, b""),
        user=None if user is None else user_digest(issuer, user),
        bucket=None if user is None else bucket_of(issuer, user, settings.store.buckets),
        expires_at=math.ceil(_instant(expires_at, "--expires-at")),
        note=note,
    )


def _of_user(
    issuer: str, user: str, before: str | None, settings: Settings, note: Note
) -> UserRevocation:
    _require_configured(issuer, settings)
    _require_usable(user, "--user")
    cut = note.at if before is None else _instant(before, "--before")
    if cut > note.at + MAX_LEEWAY:
        raise click.UsageError("--before lies in the future: those tokens are yet to be issued")
    return UserRevocation(
        user=user_digest(issuer, user),
        bucket=bucket_of(issuer, user, settings.store.buckets),
        not_before=cut,
        max_lifetime=MAX_LIFETIME,
        note=note,
    )


def _require_configured(issuer: object, settings: Settings) -> None:
    if all(issuer != known.issuer for known in settings.issuers):  # of any JSON type
        raise click.UsageError("the issuer is none of those under `issuers` in the settings")


def _require_usable(value: str, option: str) -> None:
    """An empty variable of a script must not pass for somebody whose tokens were revoked."""
    if not is_header_text(value):
        raise click.UsageError(f"{option}: no token that is accepted can have {value!r}")


def _instant(text: str, option: str) -> float:
    """Seconds since 1970, from such a number or ISO 8601; without a zone it is UTC."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = _iso_8601(text, option)
    if not 0 <= seconds < LAST_INSTANT:  # nor NaN
        raise click.UsageError(
            f"{option}: {text!r} is not between 1970 and 9999; numbers are seconds since 1970"
        )
    return seconds


def _iso_8601(text: str, option: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"{option}: {text!r} is neither seconds since 1970 nor ISO 8601"
        ) from None


async def _write(
    settings: Settings, revocation: TokenRevocation | UserRevocation
) -> Acknowledgement:
    store = open_store(settings)
    try:
        if isinstance(revocation, TokenRevocation):
            return await store.revoke_token(revocation)
        return await store.revoke_user(revocation)
    except StoreError as error:
        raise CommandError(str(error)) from None
    finally:
        await store.aclose()


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
