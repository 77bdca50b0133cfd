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
@click.option(
    "--from-file",
    metavar="FILE",
    help="Revoke what each line of this file says, or - for standard input.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep how far that got.  [default: FILE.progress]",
)
@click.option(
    "--failed",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to put lines that could not be revoked.  [default: FILE.failed]",
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
    from_file: str | None,
    state: Path | None,
    failed: Path | None,
    reason: str,
    by: str | None,
) -> None:
    """Revoke a token, every token of a user, or what the lines of a file say.

    Returns once the store has the revocation and, where it has replicas, one of them confirmed it.
    Repeating it is harmless. A signature isn't checked: a token can be taken back when the issuer's
    keys are out of reach.

    A line of a file is a token by itself, or a JSON object: {"token"}, {"issuer", "jti",
    "expires_at"} with or without "user", or {"issuer", "user"} with or without "before"; each also
    with "reason" and "by". Blank lines and those that begin with # are skipped. Where it was
    interrupted the same command goes on. Lines that could not be revoked are put into another file,
    which can be given in turn.

    \b
    Examples:
      authz revoke --config authz.yaml --token - < stolen.jwt
      authz revoke --issuer https://issuer.example --jti 4f1c --expires-at 2026-01-31T12:00:00Z
      authz revoke --issuer https://issuer.example --user alice --reason "password changed"
      authz revoke --config authz.yaml --from-file stolen.jsonl --reason "key leaked"
    """
    settings = load_settings(config)
    if settings.store.url.get_secret_value().startswith("memory:"):
        raise CommandError(
            "store.url is memory://, which only the sidecar itself can reach; use redis://"
        )
    by = by or _login_name()
    if from_file is not None:
        if any(one is not None for one in (token, issuer, jti, expires_at, user, before)):
            raise click.UsageError("give --from-file, or what to revoke, not both")
        _revoke_file(settings, from_file, state, failed, reason, by)
        return
    if state is not None or failed is not None:
        raise click.UsageError("--state and --failed go with --from-file")
    note = Note(reason, by, time.time())
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
                    "or --issuer --user [--before], or --from-file"
                )
    except BadRevocationError as error:
        option = error.field.replace("_", "-")
        raise click.UsageError(f"--{option}: {error.problem}") from None
    if reader.is_over(revocation):
        print("nothing to revoke: the token has expired")
        return
    acknowledged = asyncio.run(_write(settings, revocation))
    what = "the token" if isinstance(revocation, TokenRevocation) else f"tokens of {user!r}"
    done = "was revoked already" if acknowledged.repeated else "revoked"
    print(f"{done}: {what}; confirmed by {acknowledged.replicas} replica(s)")


def _revoke_file(
    settings: Settings, source: str, state: Path | None, failed: Path | None, reason: str, by: str
) -> None:
    from authz.cli.bulk.run import Job, revoke_file  # rich and the rest, for this form only

    print(asyncio.run(revoke_file(settings, Job(source, state, failed, reason, by))))


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
