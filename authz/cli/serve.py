"""`authz serve`: the sidecar."""

from pathlib import Path

import click

from authz.cli.options import config_option
from authz.settings import load_settings


@click.command()
@config_option
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes that answer checks, instead of the setting `workers`.  [default: 1]",
)
def serve(config: Path | None, workers: int | None) -> None:
    """Answer Envoy's checks until SIGTERM or Ctrl-C. SIGHUP reads the keys again.

    \b
    Example:
      authz serve --config authz.yaml
    """
    settings = load_settings(config)
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    if settings.workers > 1:
        from authz.workers.supervisor import run  # without the weight of a sidecar
    else:
        from authz.sidecar import run  # heavy: not for the other commands

    run(settings)
