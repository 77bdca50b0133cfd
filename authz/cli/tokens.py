"""`authz tokens`: the token service."""

from pathlib import Path

import click

from authz.cli.errors import needs_extra
from authz.cli.options import config_option
from authz.settings import IssuerlessSettings, load_settings


@click.command()
@config_option
def tokens(config: Path | None) -> None:
    """Issue, refresh and take back tokens over HTTP, until SIGTERM or Ctrl-C.

    It needs `tokens` in the settings, a Redis in `store.url`, and clients (`authz clients add`).

    \b
    Example:
      authz tokens --config authz.yaml
    """
    settings = load_settings(config, IssuerlessSettings)
    with needs_extra("tokens"):
        from authz.tokens.service import run  # heavy: not for the other commands

    run(settings)
