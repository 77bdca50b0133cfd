"""The entry point: finds the command and turns every failure into one line."""

import sys
from importlib import import_module
from typing import NoReturn

import click

from authz import __version__
from authz.cli.errors import CommandError
from authz.settings import SettingsError

COMMANDS = (
    "serve", "revoke", "relay", "explain", "token", "tokens", "clients", "keys", "envoy", "audit",
    "config", "demo",
)  # fmt: skip
"""Each is the click command of this name in the module of this name beside this one."""


class _Commands(click.Group):
    """Imports a command when it is called: a sidecar needs nothing of the demo's in its memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"authz.cli.{cmd_name}"), cmd_name)
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="authz", message="%(prog)s %(version)s")
def app() -> None:
    """An Envoy ext_authz sidecar that can take a JWT back."""


def main() -> NoReturn:
    """Run `authz`. Exit codes: 0 done, 1 the operation failed, 2 usage or settings are wrong."""
    try:
        code = app(standalone_mode=False)
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        _fail(error.format_message() + hint, 2)
    except SettingsError as error:
        _fail(str(error), 2)
    except CommandError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    print(f"authz: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
