"""The request that `authz explain` asks about, as its options describe it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import click

from authz.addresses import require_http_url
from authz.check.credentials import CredentialFinder
from authz.check.request import FORWARDED_PROTO_HEADER, PROOF_HEADER, PlainRequest
from authz.cli.errors import CommandError

COOKIE = "token"
"""The name of the cookie in which the token comes; any will do."""


class RequestOptions(NamedTuple):
    """How the token comes."""

    method: str
    url: str
    headers: tuple[str, ...]
    """Each `NAME=VALUE`."""
    cookie: bool
    certificate: Path | None

    @property
    def finder(self) -> CredentialFinder:
        """Finds the token where `request` puts it."""
        return CredentialFinder([f"cookie:{COOKIE}" if self.cookie else "header:authorization"])

    def request(self, token: str, extensions: Mapping[str, str]) -> PlainRequest:
        """click.UsageError: an option makes no sense. CommandError: a file that can't be read."""
        try:
            require_http_url(self.url)
        except ValueError as error:
            raise click.UsageError(f"--url {self.url!r}: {error}") from None
        url = urlsplit(self.url)
        headers = {name: (value,) for name, value in map(_header, self.headers)}
        headers.setdefault(FORWARDED_PROTO_HEADER, (url.scheme,))
        if self.cookie:
            headers["cookie"] = (f"{COOKIE}={token}",)
        else:
            scheme = "DPoP" if PROOF_HEADER in headers else "Bearer"
            headers["authorization"] = (f"{scheme} {token}",)
        return PlainRequest(
            headers=headers,
            extensions=extensions,
            request_id="explain",
            method=self.method.upper(),
            scheme=url.scheme,
            host=url.netloc,
            path=url.path or "/",
            certificate="" if self.certificate is None else _pem(self.certificate),
        )


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options whose values make a `RequestOptions`."""
    options = (
        click.option("--method", default="GET", show_default=True, help="The request's method."),
        click.option(
            "--url",
            default="https://explain.example/",
            show_default=True,
            help="Its URL; http:// for a token that came in the clear.",
        ),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="NAME=VALUE",
            help="A header that came with it, e.g. origin=https://app.example or dpop=PROOF. "
            "May be repeated.",
        ),
        click.option("--cookie", is_flag=True, help="The token came in a cookie."),
        click.option(
            "--certificate",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="The client's certificate, PEM.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--header {text!r}: write NAME=VALUE")
    return name.lower(), value


def _pem(path: Path) -> str:
    try:
        return quote(path.read_text(encoding="ascii"), safe="")
    except OSError as error:
        raise CommandError(f"--certificate {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"--certificate {path}: is not PEM") from None
