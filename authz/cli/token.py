"""`authz token`: tokens signed on the command line, for trying things out and for tests."""

import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import click

from authz.check.token import SCOPE_TOKEN
from authz.cli.errors import CommandError
from authz.cli.proof import open_holder, proof
from authz.durations import format_duration, parse_duration
from authz.keys.errors import KeySourceError
from authz.keys.keyfile import is_exposed_file
from authz.keys.local import read_file
from authz.keys.signing import SigningKey, load_signing_key, secret_signing_key, sign
from authz.settings import (
    CONFIG_VARIABLE,
    IssuerSettings,
    load_settings,
)

FILE = click.Path(dir_okay=False, path_type=Path)

MAX_EXPIRES_IN = 86400.0
"""Seconds: the largest `max_lifetime` that an issuer can be given."""

DEFAULT_EXPIRES_IN = 900.0

OWN_CLAIMS = {
    "iss": "--issuer",
    "sub": "--subject",
    "aud": "--audience",
    "exp": "--expires-in",
    "iat": None,
    "jti": "--jti",
    "scope": "--scope",
}
"""Claims that have an option, or that are set by the clock."""


class _Lifetime(click.ParamType[Any]):
    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not isinstance(seconds, float) or not 1 <= seconds <= MAX_EXPIRES_IN:
            self.fail(f"{value!r} is not between 1s and 24h", param, ctx)
        return seconds


class _Claim(click.ParamType[Any]):
    name = "name=json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r}: write it as name=value, the value in JSON", param, ctx)
        if name in OWN_CLAIMS:
            option = OWN_CLAIMS[name]
            self.fail(f"{name}: use {option}" if option else f"{name} is now", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            self.fail(f"{name}: the value is not JSON; a text is {name}='\"…\"'", param, ctx)


@click.group()
def token() -> None:
    """Issue tokens on the command line."""


token.add_command(proof)


@token.command()
@click.option("--key", type=FILE, help="A key file of `authz keys generate`; its first key signs.")
@click.option("--secret-file", type=FILE, help="An HMAC secret, less one trailing newline.")
@click.option(
    "--algorithm",
    type=click.Choice(["HS256", "HS384", "HS512"]),
    help="With a secret.  [default: HS256]",
)
@click.option("--issuer", help="The `iss` claim.  [default: the only issuer of --config]")
@click.option("--subject", required=True, help="The `sub` claim: whose token it is.")
@click.option(
    "--audience",
    "audiences",
    multiple=True,
    help="The `aud` claim; may be repeated.  [default: the issuer's first of --config]",
)
@click.option(
    "--expires-in",
    type=_Lifetime(),
    help="How long the token is good, at most 24h.  [default: 15m]",
)
@click.option("--scope", "scopes", multiple=True, help="Scopes; may be repeated.")
@click.option(
    "--jti",
    default="auto",
    show_default=True,
    help="The `jti` claim: auto is a random UUID, none leaves it out.",
)
@click.option(
    "--claim", "claims", type=_Claim(), multiple=True, help="One more claim; may be repeated."
)
@click.option(
    "--bind-to",
    type=FILE,
    help="Bind it to the first key of this file: it works with proofs of `authz token proof` only.",
)
@click.option(
    "--encrypt-to",
    type=FILE,
    help="Encrypt it to the first key of this file, of `authz keys generate --use enc`.",
)
@click.option(
    "--config",
    type=FILE,
    envvar=CONFIG_VARIABLE,
    help="Take defaults from the issuer in this file.",
)
def issue(
    key: Path | None,
    secret_file: Path | None,
    algorithm: str | None,
    issuer: str | None,
    subject: str,
    audiences: tuple[str, ...],
    expires_in: float | None,
    scopes: tuple[str, ...],
    jti: str,
    claims: tuple[tuple[str, Any], ...],
    bind_to: Path | None,
    encrypt_to: Path | None,
    config: Path | None,
) -> None:
    """Print a signed token, and nothing else.

    \b
    Example:
      authz token issue --key signing.json --issuer https://issuer.example \\
          --subject alice --audience api --scope "read write" --claim 'tenant="blue"'
    """
    if key is not None and secret_file is not None:
        raise click.UsageError("give --key or --secret-file, not both")
    known = _configured(config, issuer)
    issuer = issuer or (known.issuer if known else None)
    if issuer is None:
        raise click.UsageError("--issuer is missing")
    if not audiences and known:
        audiences = (known.audiences[0],)
    if not audiences:
        raise click.UsageError("--audience is missing")
    if algorithm and key is not None:
        raise click.UsageError("--algorithm goes with a secret; a key has its own")
    signer = _signer(key, secret_file, algorithm, known)
    if expires_in is None:
        limit = known.max_lifetime if known else MAX_EXPIRES_IN
        expires_in = min(DEFAULT_EXPIRES_IN, limit)
    _warn(signer, expires_in, known)
    now = int(time.time())
    body: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": audiences[0] if len(audiences) == 1 else list(audiences),
        "iat": now,
        "exp": now + int(expires_in),
    }
    if jti != "none":
        body["jti"] = str(uuid.uuid4()) if jti == "auto" else jti
    if scopes:
        body["scope"] = _scope(scopes)
    if bind_to is not None:
        body["cnf"] = {"jkt": open_holder(bind_to).jkt}
    text = sign({**body, **dict(claims)}, signer)
    sys.stdout.write((text if encrypt_to is None else _encrypted(text, encrypt_to)) + "\n")


def _configured(config: Path | None, issuer: str | None) -> IssuerSettings | None:
    """The issuer's settings: the one that is named, or the only one there is."""
    if config is None:
        return None
    issuers = load_settings(config).issuers
    if issuer is None:
        if len(issuers) > 1:
            names = ", ".join(each.issuer for each in issuers)
            raise click.UsageError(f"--issuer is missing; {config} has {names}")
        return issuers[0]
    return next((each for each in issuers if each.issuer == issuer), None)


def _signer(
    key: Path | None, secret_file: Path | None, algorithm: str | None, known: IssuerSettings | None
) -> SigningKey:
    if key is not None:
        _warn_exposed(key)
        try:
            return load_signing_key(key, time.time())
        except KeySourceError as error:
            raise CommandError(f"{key}: {error}") from None
    secret, where = _secret(secret_file, known)
    if algorithm is None:
        configured = known.algorithms[0] if known else "HS256"
        algorithm = configured if configured.startswith("HS") else "HS256"
    try:
        return secret_signing_key(secret, algorithm)
    except KeySourceError as error:
        raise CommandError(f"{where}: {error}") from None


def _encrypted(text: str, path: Path) -> str:
    """For whoever holds the private half of the file's first key."""
    from authz.tokens.encryption import TokenTooLargeError, encrypt  # with joserfc

    try:
        return encrypt(text, read_file(path))
    except (KeySourceError, TokenTooLargeError) as error:
        raise CommandError(f"{path}: {error}") from None


def _secret(secret_file: Path | None, known: IssuerSettings | None) -> tuple[bytes, str]:
    """The secret's bytes and where they are from: what is named, else what --config names."""
    if known and secret_file is None and known.keys.secret_env is not None:
        name = known.keys.secret_env
        value = os.environb.get(os.fsencode(name))
        if value is None:
            raise CommandError(f"{name}: the environment variable is not set")
        return value, name
    path = secret_file or (known.keys.secret_file if known else None)
    if path is None:
        raise click.UsageError("give --key FILE or --secret-file FILE to sign with")
    _warn_exposed(path)
    try:
        return read_file(path), str(path)
    except KeySourceError as error:
        raise CommandError(f"{path}: {error}") from None


def _scope(scopes: tuple[str, ...]) -> str:
    """RFC 6749 section 3.3: scope tokens, one space between them."""
    tokens = [each for scope in scopes for each in scope.split()]
    for each in tokens:
        if not SCOPE_TOKEN.fullmatch(each):
            raise click.UsageError(f"--scope: {each!r} has a character that no scope may have")
    return " ".join(tokens)


def _warn(signer: SigningKey, expires_in: float, known: IssuerSettings | None) -> None:
    """Say when the sidecar of --config will refuse the token, which may be just what is wanted."""
    if known is None:
        return
    if signer.algorithm not in known.algorithms:
        _say(f"{signer.algorithm} is not among the issuer's algorithms; the token will be refused")
    if expires_in > known.max_lifetime:
        longest = format_duration(known.max_lifetime)
        _say(f"it lives longer than the issuer's max_lifetime of {longest}; it will be refused")


def _warn_exposed(path: Path) -> None:
    if is_exposed_file(path):
        _say(f"{path}: others can read it; chmod 600 {path}")


def _say(text: str) -> None:
    click.echo(f"authz: warning: {text}", err=True)
