"""Header sections: what the head of a request must look like (RFC 9113 section 8.3), and blocks to
answer with.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

Field = tuple[bytes, bytes]

_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
"""RFC 9113 section 8.2.2. `te` may only say `trailers`."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
"""A token (RFC 9110 section 5.6.2) in lower case (RFC 9113 section 8.2)."""

_BAD_VALUE = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$")
"""RFC 9113 section 8.2.1."""

_BAD_VALUE_FAULT = "a field value has control characters or outer blanks"

_LENGTH = re.compile(rb"[0-9]{1,18}")

_FIELD_WEIGHT = 160
"""Bytes that CPython takes for a field beside its text: a pair, two strings, a place in a tuple."""


class RequestHead:
    """The header section of a request. Equal blocks of a connection give the same object, so the
    layer above can keep what it made of it in `call`.
    """

    __slots__ = ("authority", "call", "content_length", "fault", "headers", "method", "path",
                 "scheme", "trailers_fault", "weight")  # fmt: skip

    def __init__(self, fields: Sequence[Field]) -> None:
        pseudo = {name: value for name, value in fields if name.startswith(b":")}
        self.method = pseudo.get(b":method", b"")
        self.scheme = pseudo.get(b":scheme", b"")
        self.path = pseudo.get(b":path", b"")
        self.authority = pseudo.get(b":authority", b"")
        self.headers = tuple(field for field in fields if not field[0].startswith(b":"))
        """The regular fields, in their order, names in lower case."""
        self.weight = sum(map(len, chain.from_iterable(fields))) + _FIELD_WEIGHT * len(fields)
        """Bytes that it takes in memory, about."""
        fault = _fields_fault(self.headers)
        self.fault = _head_fault(fields) or fault
        """Why the request is malformed; None where it isn't."""
        self.trailers_fault = "a pseudo-header field in trailers" if pseudo else fault
        """The same, were this the trailer section of one (RFC 9113 section 8.1)."""
        self.content_length: int | None = None
        """Of `content-length`, where there is a usable one."""
        self.call: Any = None
        self._read_content_length()

    def _read_content_length(self) -> None:
        values = {value for name, value in self.headers if name == b"content-length"}
        if not values:
            return
        value = values.pop()
        if values or not _LENGTH.fullmatch(value):
            self.fault = self.fault or "content-length is not one number"
        else:
            self.content_length = int(value)


def _head_fault(fields: Sequence[Field]) -> str | None:
    regular_seen = False
    seen: set[bytes] = set()
    for name, value in fields:
        if not name.startswith(b":"):
            regular_seen = True
        elif regular_seen:
            return "a pseudo-header field after a regular one"
        elif name not in _PSEUDO:
            return "an unknown pseudo-header field"
        elif name in seen:
            return "a pseudo-header field twice"
        elif _BAD_VALUE.search(value):
            return _BAD_VALUE_FAULT
        else:
            seen.add(name)
    values = dict(fields)
    if values.get(b":method") == b"CONNECT":
        # RFC 9113 section 8.5
        unwanted = {b":scheme", b":path"} & seen or b":authority" not in seen
        return "CONNECT names a scheme or a path, or no authority" if unwanted else None
    if not all(values.get(name) for name in (b":method", b":scheme", b":path")):
        return ":method, :scheme or :path is missing"
    return None


def _fields_fault(fields: Sequence[Field]) -> str | None:
    for name, value in fields:
        if not _NAME.fullmatch(name):
            return "a field name is not a token in lower case"
        if _BAD_VALUE.search(value):
            return _BAD_VALUE_FAULT
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            return "a connection-specific field"
    return None


HEAD_TOO_LARGE = RequestHead(())
"""Stands for a head whose list is over `limits.MAX_HEADER_LIST`."""
HEAD_TOO_LARGE.trailers_fault = "a trailer section over its limit"


def encode_block(fields: Iterable[Field]) -> bytes:
    """A header block without Huffman codes or the dynamic table: literals that are not indexed
    (RFC 7541 section 6.2.2). It means the same on every connection, so constant fields make a
    constant block. Names must be in lower case, pseudo-header fields first.
    """
    block = bytearray()
    for name, value in fields:
        if name == b":status" and value in _STATUS_INDEX:
            block.append(0x80 | _STATUS_INDEX[value])
            continue
        block.append(0x00)
        for text in (name, value):
            block += _length(len(text))
            block += text
    return bytes(block)


_STATUS_INDEX = {b"200": 8, b"204": 9, b"206": 10, b"304": 11, b"400": 12, b"404": 13, b"500": 14}
"""Of the static table (RFC 7541 appendix A)."""

_LENGTH_PREFIX_MAX = 127


def _length(number: int) -> bytes:
    """An integer with a 7-bit prefix (RFC 7541 section 5.1)."""
    if number < _LENGTH_PREFIX_MAX:
        return bytes((number,))
    octets = bytearray((_LENGTH_PREFIX_MAX,))
    number -= _LENGTH_PREFIX_MAX
    while number > _LENGTH_PREFIX_MAX:
        octets.append(number & _LENGTH_PREFIX_MAX | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
