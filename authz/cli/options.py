"""Options that several commands share."""

import sys
from pathlib import Path

import click

STDIN = "-"

config_option = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The YAML file with the settings; else the one AUTHZ_CONFIG names.",
)


def read_token(argument: str) -> str:
    """The token that an argument gives: itself, or standard input where it is `-`."""
    if argument != STDIN:
        return argument
    # Bytes that are no UTF-8 are no token either, and the guards say so.
    return sys.stdin.buffer.read().decode(errors="replace").strip()
