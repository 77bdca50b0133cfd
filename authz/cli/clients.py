"""`authz clients`: the client applications of the token service."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from authz.cli.errors import CommandError, needs_extra
from authz.cli.options import config_option
from authz.durations import Duration, format_duration, parse_duration
from authz.keys.errors import KeySourceError
from authz.keys.jwk import public_part, read_entries
from authz.keys.local import read_file
from authz.revocation.open import open_store
from authz.revocation.redis.store import RedisStore
from authz.revocation.store import StoreError
from authz.settings import MAX_LIFETIME, IssuerlessSettings, Settings, load_settings
from authz.tokens.clients.client import (
    CLIENT_CREDENTIALS,
    REFRESH_TOKEN,
    TOKEN_EXCHANGE,
    BadClientError,
    Client,
    Secret,
)
from authz.tokens.clients.store import ClientChangedError, RedisClients
from authz.tokens.http.subjects import check_keys

T = TypeVar("T")

FILE = click.Path(dir_okay=False, path_type=Path)

SHORT = {
    "client_credentials": CLIENT_CREDENTIALS,
    "refresh_token": REFRESH_TOKEN,
    "token_exchange": TOKEN_EXCHANGE,
}
"""Grants as the command line has them; the last one's own name is a URN."""

MAX_OVERLAP = 30 * 86400.0
"""Seconds that an old secret may be kept beside a new one."""


class _Span(click.ParamType[Any]):
    """A duration between these, in seconds."""

    name = "duration"

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Duration:
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not isinstance(seconds, float) or not self._least <= seconds <= self._most:
            bounds = f"{self._least:g}s and {format_duration(self._most)}"
            self.fail(f"{value!r} is not between {bounds}", param, ctx)
        return seconds


@click.group()
def clients() -> None:
    """Say who may ask the token service for what.

    What is changed takes hold with the next request. Secrets are shown once, when they are made;
    what is kept is their argon2 hash.
    """


@clients.command()
@config_option
@click.argument("client_id", metavar="ID")
@click.option(
    "--grant",
    "grants",
    type=click.Choice(list(SHORT)),
    multiple=True,
    required=True,
    help="How it gets tokens; may be repeated.",
)
@click.option("--scope", "scopes", multiple=True, help="A scope that its tokens may have.")
@click.option(
    "--audience",
    "audiences",
    multiple=True,
    help="Whom its tokens may be for.  [default: all of tokens.audiences]",
)
@click.option("--public", is_flag=True, help="It can keep no secret: an app, a page.")
@click.option("--cookies", is_flag=True, help="Its tokens go into cookies: a browser's app.")
@click.option("--may-exchange", is_flag=True, help="A login service: it says who its users are.")
@click.option("--jwks", type=FILE, help="The public keys with which it says so: a JWK Set.")
@click.option("--may-introspect", is_flag=True, help="It may look at tokens of other clients.")
@click.option(
    "--lifetime",
    type=_Span(1, MAX_LIFETIME),
    help="Of its access tokens.  [default: tokens.access_lifetime]",
)
def add(
    config: Path | None,
    client_id: str,
    grants: tuple[str, ...],
    scopes: tuple[str, ...],
    audiences: tuple[str, ...],
    public: bool,
    cookies: bool,
    may_exchange: bool,
    jwks: Path | None,
    may_introspect: bool,
    lifetime: float | None,
) -> None:
    """Add a client, and print its secret. Take an ID that no user has.

    \b
    Examples:
      authz clients add billing --grant client_credentials --scope orders:read --audience api
      authz clients add login --grant token_exchange --may-exchange --jwks login.jwks.json
      authz clients add app --public --grant token_exchange --grant refresh_token --scope read
    """
    settings = load_settings(config, IssuerlessSettings)
    now = time.time()
    secret, hashed = (None, None) if public else _new_secret(now)
    client = Client(
        id=client_id,
        created=now,
        grants=tuple(dict.fromkeys(SHORT[name] for name in grants)),
        scopes=tuple(dict.fromkeys(scopes)),
        audiences=tuple(dict.fromkeys(audiences)),
        secrets=() if hashed is None else (hashed,),
        lifetime=lifetime,
        may_exchange=may_exchange,
        keys=() if jwks is None else _read_keys(jwks),
        may_introspect=may_introspect,
        cookies=cookies,
    )
    try:
        client.check()
    except BadClientError as error:
        raise click.UsageError(str(error)) from None
    _require_known(settings, client)
    try:
        _run(settings, lambda store: store.add(client))
    except CommandError as error:
        hint = f"; if {client_id} is listed now, `authz clients rotate-secret` gives its secret"
        raise CommandError(f"{error}{hint if secret else ''}") from None
    _show_secret(client, secret)


@clients.command(name="list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, without secrets.")
def list_clients(config: Path | None, as_json: bool) -> None:
    """List all clients.

    \b
    Example:
      authz clients list --config authz.yaml
    """
    settings = load_settings(config, IssuerlessSettings)
    found = _run(settings, lambda store: store.every())
    now = time.time()
    for client in found:
        about = _about(client, now)
        if as_json:
            print(json.dumps(about))
        else:
            created = datetime.fromtimestamp(client.created, UTC)
            about["created"] = created.isoformat(timespec="seconds")
            rest = "  ".join(f"{name}={_text(one)}" for name, one in about.items() if name != "id")
            print(f"{client.id}  {rest}")


@clients.command()
@config_option
@click.argument("client_id", metavar="ID")
def disable(config: Path | None, client_id: str) -> None:
    """Refuse a client from now on. Tokens that it has live on until they expire or are revoked.

    \b
    Example:
      authz clients disable billing --config authz.yaml
    """
    _change(config, client_id, lambda client: replace(client, disabled=True))
    print(f"disabled: {client_id}")


@clients.command()
@config_option
@click.argument("client_id", metavar="ID")
def enable(config: Path | None, client_id: str) -> None:
    """Let a client in again that was disabled.

    \b
    Example:
      authz clients enable billing --config authz.yaml
    """
    _change(config, client_id, lambda client: replace(client, disabled=False))
    print(f"enabled: {client_id}")


@clients.command(name="rotate-secret")
@config_option
@click.argument("client_id", metavar="ID")
@click.option(
    "--overlap",
    type=_Span(0, MAX_OVERLAP),
    default="24h",
    show_default=True,
    help="How long the secret before is good as well. 0s: the client was robbed.",
)
def rotate_secret(config: Path | None, client_id: str, overlap: float) -> None:
    """Give a client a new secret, and print it.

    \b
    Example:
      authz clients rotate-secret billing --overlap 1h --config authz.yaml
    """
    now = time.time()
    secret, hashed = _new_secret(now)

    def renew(client: Client) -> Client:
        if client.public:
            raise CommandError(f"{client_id} is public: it has no secret")
        return client.with_secret(hashed, overlap=overlap, now=now)

    _show_secret(_change(config, client_id, renew), secret)


def _require_known(settings: Settings, client: Client) -> None:
    """UsageError: an audience that no token is ever issued for. Where it isn't known, all are."""
    known = client.audiences if settings.tokens is None else settings.tokens.audiences
    strange = [one for one in client.audiences if one not in known]
    if strange:
        raise click.UsageError(f"--audience {strange[0]}: is none of tokens.audiences")


def _change(config: Path | None, client_id: str, change: Callable[[Client], Client]) -> Client:
    """The client as it is now. CommandError: there is none, or it could not be changed."""
    settings = load_settings(config, IssuerlessSettings)

    async def work(store: RedisClients) -> Client:
        client = await store.get(client_id)
        if client is None:
            raise CommandError(f"there is no client {client_id!r}; see `authz clients list`")
        after = change(client)
        await store.replace(client, after)
        return after

    return _run(settings, work)


def _run(settings: Settings, work: Callable[[RedisClients], Awaitable[T]]) -> T:
    async def go() -> T:
        store = open_store(settings)
        if not isinstance(store, RedisStore):
            raise CommandError("store.url is memory://, which keeps no clients; use redis://")
        try:
            return await work(RedisClients(store.scripts, store.nodes, settings.store.buckets))
        except StoreError as error:
            raise CommandError(str(error)) from None
        except ClientChangedError as error:
            raise CommandError(f"{error}: exists, or was changed meanwhile; look again") from None
        finally:
            await store.aclose()

    return asyncio.run(go())


def _new_secret(now: float) -> tuple[str, Secret]:
    """A secret as its client gets it, and as it is kept."""
    with needs_extra("tokens"):
        from authz.tokens.clients.secret import SecretHasher, new_secret

    secret, hasher = new_secret(), SecretHasher()
    try:
        return secret, Secret(hasher.hash(secret), now)
    finally:
        hasher.close()


def _read_keys(path: Path) -> tuple[dict[str, Any], ...]:
    """CommandError: the file holds no keys that can be used."""
    try:
        keys = tuple(public_part(one) for one in read_entries(read_file(path)))
        check_keys(keys)
    except KeySourceError as error:
        raise CommandError(f"{path}: {error}") from None
    return keys


def _about(client: Client, now: float) -> dict[str, Any]:
    """What may be shown."""
    names = {urn: name for name, urn in SHORT.items()}
    return {
        "id": client.id,
        "disabled": client.disabled,
        "public": client.public,
        "grants": [names[one] for one in client.grants],
        "scopes": list(client.scopes),
        "audiences": list(client.audiences),
        "lifetime": client.lifetime,
        "may_exchange": client.may_exchange,
        "may_introspect": client.may_introspect,
        "cookies": client.cookies,
        "keys": [str(key.get("kid", "-")) for key in client.keys],
        "secrets": len(client.usable_secrets(now)),
        "created": client.created,
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)


def _show_secret(client: Client, secret: str | None) -> None:
    """The secret stands alone on the standard output, fit for a pipe."""
    if secret is None:
        print(client.id)
        return
    click.echo(f"the secret of {client.id}; it is shown this once:", err=True)
    print(secret)
