"""Durations as people write them: `250ms`, `5s`, `10m`, `24h`, `7d`, or a number of seconds."""

import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def parse_duration(value: object) -> object:
    """Seconds, from a number of seconds or text such as `25ms`, `1s`, `24h`."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            msg = f"{value!r} is not a duration; write a number and a unit: 25ms, 1s, 5m, 24h, 7d"
            raise ValueError(msg)
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool):  # YAML's `yes` and `on`; pydantic would read a second
        msg = "is not a duration; write a number and a unit: 25ms, 1s, 5m, 24h, 7d"
        raise ValueError(msg)  # noqa: TRY004  pydantic turns only ValueError into its own
    return value


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as `seconds`."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNITS[unit] and (seconds / _UNITS[unit]).is_integer():
            return f"{int(seconds / _UNITS[unit])}{unit}"
    return f"{seconds * 1000:.10g}ms"


Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")
]
"""Seconds as a float."""
