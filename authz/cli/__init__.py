"""The `authz` command."""
