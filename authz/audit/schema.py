"""The form of a record: which fields it has, and of what type each is."""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any, get_origin, get_type_hints

from authz.audit.fields import ENTRIES, VERSION, Stamp

_NAMES = {int: "a whole number", str: "text", bool: "true or false"}


def wrong_fields(record: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a line's JSON object; nothing where it is a record of this format."""
    if record.get("v") != VERSION:
        yield f"format version is not {VERSION}"
        return
    event = record.get("event")
    if not isinstance(event, str) or event not in ENTRIES:
        yield "event is none that is known"
        return
    expected = _types(event)
    for name in expected.keys() - record.keys():
        yield f"field {name} is missing"
    for name in record.keys() - expected.keys():
        yield f"field {name[:64]!r} is unknown"
    for name, kind in expected.items():
        if name in record and type(record[name]) is not kind:
            yield f"field {name} is not {_NAMES[kind]}"


@cache
def _types(event: str) -> dict[str, type]:
    types: dict[str, type] = {}
    for kind in (Stamp, ENTRIES[event]):
        hints = get_type_hints(kind)
        for one in fields(kind):
            hint = hints[one.name]
            types[one.name] = str if get_origin(hint) is not None else hint  # a Literal of words
    return types
