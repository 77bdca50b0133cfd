"""How a command fails: one clear line on stderr, and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """The operation failed: exit code 1. The text is one line that says what to do.

    Wrong usage and unusable settings are `click.UsageError` and `authz.settings.SettingsError`,
    both exit code 2.
    """


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around imports of what only `pip install '.[extra]'` brings. CommandError: it isn't there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is missing: pip install '.[{extra}]'") from None
