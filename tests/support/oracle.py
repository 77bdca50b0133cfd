"""Compares a message of ours with the same message as `envoy_data_plane` reads it."""

from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from typing import Any

import betterproto2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

AnyDescriptor = Any
AnyField = Any
"""Descriptors, whose types protobuf's stubs give as a union of two implementations."""

WIRE_TYPES = {
    FieldDescriptor.TYPE_INT32: ("int32", 0),
    FieldDescriptor.TYPE_ENUM: ("enum", 0),
    FieldDescriptor.TYPE_STRING: ("string", 2),
    FieldDescriptor.TYPE_BYTES: ("bytes", 2),
    FieldDescriptor.TYPE_MESSAGE: ("message", 2),
}
"""Our type to its name and wire type (protobuf's encoding, "Message Structure")."""

ORACLE_WIRE_TYPES = {"int32": 0, "enum": 0, "string": 2, "bytes": 2, "message": 2, "map": 2}


def metadata(oracle: type[betterproto2.Message], field: str) -> Any:
    """What the oracle says of a field; KeyError where it has none of this name."""
    return _field(oracle, field).metadata["betterproto"]


def message_class(oracle: type[betterproto2.Message], field: str) -> type[betterproto2.Message]:
    """The class of a message field of the oracle's."""
    kind: type[betterproto2.Message] = oracle._cls_for(_field(oracle, field))
    return kind


def _field(oracle: type[betterproto2.Message], name: str) -> Any:
    return {field.name: field for field in fields(oracle)}[name]  # type: ignore[arg-type]


def is_map(field: AnyField) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def declared_fields(
    ours: AnyDescriptor, oracle: type[betterproto2.Message], path: str = ""
) -> Iterator[tuple[str, AnyField, type[betterproto2.Message]]]:
    """Every field that we declare, in depth: its path, our descriptor, the oracle's message.

    Struct is the library's own and not looked into.
    """
    for field in ours.fields:
        where = f"{path}.{field.name}".lstrip(".")
        yield where, field, oracle
        if field.message_type and not is_map(field) and field.message_type is not Struct.DESCRIPTOR:
            yield from declared_fields(field.message_type, message_class(oracle, field.name), where)


def differences(ours: Message, oracle: betterproto2.Message, path: str = "") -> list[str]:
    """The declared fields that the two read differently, each with both readings."""
    found: list[str] = []
    for field in ours.DESCRIPTOR.fields:
        where = f"{path}.{field.name}".lstrip(".")
        left, right = getattr(ours, field.name), getattr(oracle, field.name)
        if is_map(field):
            pairs = [
                (f"{where}[{key!r}]", dict(left).get(key), right.get(key))
                for key in {*left, *right}
            ]
        elif field.is_repeated:
            if len(left) != len(right):
                found.append(f"{where}: {len(left)} items, the oracle has {len(right)}")
            pairs = [
                (f"{where}[{index}]", *both)
                for index, both in enumerate(zip(left, right, strict=False))
            ]
        elif field.message_type:
            present = ours.HasField(field.name)
            if present != (right is not None):
                found.append(f"{where}: {'there' if present else 'absent'}, the oracle differs")
            pairs = [(where, left, right)] if present and right is not None else []
        else:
            pairs = [(where, left, right)]
        for name, one, other in pairs:
            if isinstance(one, Struct):
                found += _compare(name, struct_value(one), oracle_value(other))
            elif isinstance(one, Message):
                found += differences(one, other, name)
            else:
                found += _compare(name, _plain(one), _plain(other))
    return found


def struct_value(struct: Any) -> Any:
    """The Python value of a protobuf Struct, Value or ListValue."""
    if isinstance(struct, Struct):
        return {key: struct_value(value) for key, value in struct.fields.items()}
    match struct.WhichOneof("kind"):
        case "struct_value":
            return struct_value(struct.struct_value)
        case "list_value":
            return [struct_value(value) for value in struct.list_value.values]
        case None | "null_value":
            return None
        case kind:
            return getattr(struct, kind)


def oracle_value(value: Any) -> Any:
    """The same of the oracle's."""
    if hasattr(value, "fields"):
        return {key: oracle_value(item) for key, item in value.fields.items()}
    if value.struct_value is not None:
        return oracle_value(value.struct_value)
    if value.list_value is not None:
        return [oracle_value(item) for item in value.list_value.values]
    for kind in (value.bool_value, value.number_value, value.string_value):
        if kind is not None:
            return kind
    return None


def _compare(where: str, left: Any, right: Any) -> list[str]:
    return [] if left == right else [f"{where}: {left!r}, the oracle reads {right!r}"]


def _plain(value: Any) -> Any:
    """Text as its bytes and enums as their numbers, since that is how the two differ."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Enum):
        return value.value
    return value
