"""`authz revoke`: take a token back, or all tokens of a user."""

import asyncio
import getpass
import os
import time
from pathlib import Path

import click

from authz.cli.errors import CommandError
from authz.cli.options import config_option, read_token
from authz.cli.revocations import BadRevocationError, Reader
from authz.revocation.open import open_store
from authz.revocation.record import Note
from authz.revocation.store import Acknowledgement, Revocation, StoreError, TokenRevocation
from authz.settings import Settings, load_settings


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
    reader = Reader(settings, time.time)
    try:
        match (token, issuer, jti, expires_at, user, before):
            case (str(), None, None, None, None, None):
                revocation: Revocation = reader.of_token(read_token(token), note)
            case (None, str(), str(), str(), _, None):
                revocation = reader.of_jti(issuer, jti, expires_at, user, note)
            case (None, str(), None, None, str(), _):
                cut = note.at if before is None else before
                revocation = reader.of_user(issuer, user, cut, note)
            case _:
                raise click.UsageError(
                    "give --token, or --issuer --jti --expires-at [--user], "
                    "or --issuer --user [--before]"
                )
    except BadRevocationError as error:
        option = error.field.replace("_", "-")
        raise click.UsageError(f"--{option}: {error.problem}") from None
    if reader.is_over(revocation):
        print("nothing to revoke: the token has expired")
        return
    acknowledged = asyncio.run(_write(settings, revocation))
    what = "the token" if isinstance(revocation, TokenRevocation) else f"tokens of {user!r}"
    state = "was revoked already" if acknowledged.repeated else "revoked"
    print(f"{state}: {what}; confirmed by {acknowledged.replicas} replica(s)")


async def _write(settings: Settings, revocation: Revocation) -> Acknowledgement:
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
