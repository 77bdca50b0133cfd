"""How a command fails: one clear line on stderr, and an exit code."""


class CommandError(Exception):
    """The operation failed: exit code 1. The text is one line that says what to do.

    Wrong usage and unusable settings are `click.UsageError` and `authz.settings.SettingsError`,
    both exit code 2.
    """
