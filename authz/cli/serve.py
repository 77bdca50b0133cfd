"""`authz serve`: the sidecar."""

from pathlib import Path

import click

from authz.cli.options import config_option
from authz.settings import load_settings


@click.command()
@config_option
def serve(config: Path | None) -> None:
    """Answer Envoy's checks until SIGTERM or Ctrl-C. SIGHUP reads the keys again.

    \b
    Example:
      authz serve --config authz.yaml
    """
    from authz.sidecar import run  # heavy: not for the other commands

    run(load_settings(config))
