"""`authz token proof`: proofs of possession made on the command line, for trying things out."""

import time
import uuid
from pathlib import Path

import click

from authz.addresses import require_http_url
from authz.cli.errors import CommandError
from authz.cli.options import read_token
from authz.keys.errors import KeySourceError
from authz.keys.possession import Holder, load_holder

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--key", type=FILE, required=True, help="The key file that the token is bound to.")
@click.option("--method", default="GET", show_default=True, help="The request's method.")
@click.option("--url", required=True, help="Its URL; a query is left out.")
@click.option("--nonce", help="That of the header DPoP-Nonce, where one was asked for.")
@click.argument("token", required=False)
def proof(key: Path, method: str, url: str, nonce: str | None, token: str | None) -> None:
    """Print a proof that this request is sent by whoever has the key, and nothing else.

    TOKEN is the token of the request, or - for standard input; none for asking for one. A proof
    works once, for a minute.

    \b
    Examples:
      authz token proof --key client.json --url https://api.example/orders - < token.jwt
      authz token proof --key client.json --method POST --url https://issuer.example/oauth2/token
    """
    try:
        require_http_url(url)
    except ValueError as error:
        raise click.UsageError(f"--url {url!r}: {error}") from None
    holder = open_holder(key)
    try:
        text = holder.prove(
            method.upper(),
            url.partition("#")[0].partition("?")[0],
            token=None if token is None else read_token(token),
            nonce=nonce,
            jti=str(uuid.uuid4()),
            now=time.time(),
        )
    except KeySourceError as error:
        raise CommandError(f"{key}: {error}") from None
    click.echo(text)


def open_holder(path: Path) -> Holder:
    """CommandError: the key file can't be used."""
    try:
        return load_holder(path)
    except KeySourceError as error:
        raise CommandError(f"{path}: {error}") from None
