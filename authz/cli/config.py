"""`authz config`: the effective settings and where each came from."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from authz.cli.options import config_option
from authz.observe.redact import MASK, redact_text
from authz.settings import (
    ENV_NESTING,
    ENV_PREFIX,
    StoreSettings,
    environment_values,
    load_settings,
    read_config_file,
    store_url_parts,
)


@click.command()
@config_option
def config(config: Path | None) -> None:
    """Print every setting, its value and where it came from.

    That is the file, a variable of the environment, or the default. Secrets are masked.

    \b
    Example:
      AUTHZ_STORE__TIMEOUT=40ms authz config --config authz.yaml
    """
    settings = load_settings(config)
    from_file, from_environment = read_config_file(config), environment_values()
    values = settings.model_dump(mode="json")
    for name, url in (("store", settings.store.url), ("relay", settings.relay.url)):
        values[name]["url"] = None if url is None else _without_password(StoreSettings(url=url))
    rows = list(_leaves(values, ()))
    name_width = max(len(".".join(path)) for path, _ in rows)
    value_width = min(max(len(str(value)) for _, value in rows), 60)
    for path, value in rows:
        if _has(from_environment, path):
            origin = _variable(path)
        elif _has(from_file, path):
            origin = "file"
        else:
            origin = "default"
        text = "-" if value is None else redact_text(str(value))
        print(f"{'.'.join(path):{name_width}}  {text:{value_width}}  {origin}")


def _without_password(store: StoreSettings) -> str:
    """`store.url`, put together again from what is no secret."""
    scheme, nodes, database = store_url_parts(store)
    user_info = f"{MASK}@" if "@" in store.url.get_secret_value() else ""
    hosts = ",".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes
    )
    return f"{scheme}://{user_info}{hosts}" + (f"/{database}" if database else "")


def _variable(path: tuple[str, ...]) -> str:
    """The variable that sets this, or something that it is part of."""
    names = {name.upper(): name for name in os.environ}
    for length in range(len(path), 0, -1):
        name = ENV_PREFIX + ENV_NESTING.join(path[:length]).upper()
        if name in names:
            return names[name]
    return "environment"


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every setting as its path and value; lists of plain values are one setting."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, value


def _has(source: Any, path: tuple[str, ...]) -> bool:
    """Whether a source sets this, or something that it is part of."""
    for key in path:
        if isinstance(source, Mapping) and key in source:
            source = source[key]
        elif isinstance(source, list) and key.isdecimal() and int(key) < len(source):
            source = source[int(key)]
        else:
            return not isinstance(source, Mapping | list)
    return True
