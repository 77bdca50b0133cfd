"""Reads the settings from a YAML file and the environment."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from authz.settings.base import SettingsError
from authz.settings.model import ENV_NESTING, ENV_PREFIX, Settings

CONFIG_VARIABLE = "AUTHZ_CONFIG"  # names the YAML file; the only AUTHZ_ variable not a setting


def load_settings(
    path: Path | None = None,
    model: type[Settings] = Settings,
    given: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the YAML file (`path`, else the one `AUTHZ_CONFIG` names) and the environment.

    `given`: what the command line says instead; values that are None say nothing.

    SettingsError: unreadable file, invalid YAML, an unknown key or variable, a value out of range.
    """
    file_values = read_config_file(path)
    _refuse_unknown_variables(os.environ)
    try:
        return (model if given is None else _told(model, given))(**file_values)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    except ValueError as error:  # pydantic-settings: a variable that isn't JSON where it must be
        raise SettingsError(f"environment: {error}") from None


def _told(model: type[Settings], given: Mapping[str, Any]) -> type[Settings]:
    """The same settings with one more source, before all others."""
    said = {
        name: {key: one for key, one in value.items() if one is not None}
        if isinstance(value, Mapping)
        else value
        for name, value in given.items()
        if value is not None
    }

    class Told(model):  # type: ignore[valid-type,misc]  # a base that is a variable
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *args: Any, **sources: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            rest = super().settings_customise_sources(settings_cls, *args, **sources)
            return (InitSettingsSource(settings_cls, said), *rest)

    return Told


def read_config_file(path: Path | None = None) -> dict[str, Any]:
    """The YAML file's content as it stands: `{}` where none is named. SettingsError as above."""
    if path is None:
        named = os.environ.get(CONFIG_VARIABLE)
        if not named:
            return {}
        path = Path(named)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date, UTF-8
        raise SettingsError(f"--config {path}: not valid YAML{_yaml_problem(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(
            f"--config {path}: must be a mapping of settings, see authz/settings/README.md"
        )
    return content


def _yaml_problem(error: Exception) -> str:
    """Where and what, without the text that PyYAML quotes: a password may stand on that line."""
    mark = getattr(error, "problem_mark", None)
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    what = re.split("['\"]", getattr(error, "problem", None) or "")[0].strip()
    return f"{where}: {what}" if what else where


def environment_values() -> dict[str, Any]:
    """What the environment alone sets, nested as the settings are."""
    return EnvSettingsSource(Settings)()


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    for name in environment:
        if not name.upper().startswith(ENV_PREFIX) or name.upper() == CONFIG_VARIABLE:
            continue
        first = name.upper().removeprefix(ENV_PREFIX).split(ENV_NESTING)[0].lower()
        if first not in Settings.model_fields:
            raise SettingsError(f"environment: {name}: unknown setting {first!r}")


def _one_line(error: ValidationError) -> str:
    """The first finding of a validation as `setting.path: what is wrong`."""
    finding = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in finding["loc"]) or "settings"
    what = finding["msg"].removeprefix("Value error, ")
    if finding["type"] == "extra_forbidden":
        what = "unknown setting"
    more = error.error_count() - 1
    return f"{where}: {what}" + (f" (and {more} more)" if more else "")
