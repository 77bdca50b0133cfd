"""Options that several commands share."""

from pathlib import Path

import click

config_option = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The YAML file with the settings; else the one AUTHZ_CONFIG names.",
)
