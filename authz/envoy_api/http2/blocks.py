"""Header blocks as they come in: put together, decoded by the `hpack` library, and remembered.

Until the peer has acknowledged that there is no dynamic table, a block may refer to what was said
earlier, and add to what later ones refer to: each must be decoded, whatever becomes of its request.
From then on a block means the same each time, and so does each field in it.
"""

from collections.abc import Iterable
from typing import Final

from hpack import Decoder, HPACKError, OversizedHeaderListError

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.errors import CompressionError, EnhanceYourCalmError
from authz.envoy_api.http2.headers import HEAD_TOO_LARGE, Field, RequestHead

# The first bits of a field (RFC 7541 section 6), and of its number or index.
_INDEXED: Final = 0x80
_INDEXED_NUMBER: Final = 0x7F
_ADDED: Final = 0x40
_ADDED_NUMBER: Final = 0x3F
_UPDATE: Final = 0x20
_UPDATE_BITS: Final = 0xE0
_UPDATE_NUMBER: Final = 0x1F
_LITERAL_NUMBER: Final = 0x0F
_STRING_NUMBER: Final = 0x7F

_MORE: Final = 0x80
_OCTETS_MAX: Final = 4
"""Of a number, behind its prefix: 28 bits, far beyond any block that is read."""

_PARTS_MAX: Final = 1 + limits.MAX_HEADER_LIST // 32
"""Of a block within the limit: a table size update, and fields that count 32 bytes each, at least.
"""


class UnfinishedBlock:
    """A header block whose CONTINUATION is still to come (section 6.10)."""

    __slots__ = ("begun_at", "data", "end_stream", "frames", "stream_id")

    def __init__(self, stream_id: int, end_stream: int, data: bytes, now: float) -> None:
        """`end_stream`: non-zero where the HEADERS frame ends the stream."""
        self.stream_id = stream_id
        self.end_stream = end_stream
        self.data = bytearray(data)
        self.frames = 0
        self.begun_at = now

    def add(self, payload: bytes) -> None:
        """EnhanceYourCalmError: too many frames, or too many bytes (CVE-2024-27316)."""
        self.frames += 1
        self.data += payload
        if self.frames > limits.MAX_CONTINUATIONS or len(self.data) > limits.MAX_HEADER_BLOCK:
            raise EnhanceYourCalmError("a header block over its limit")


class BlockReader:
    """Decodes the header blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._decoder = Decoder(limits.MAX_EARLY_HEADER_LIST)
        self._table_forbidden = False
        self._heads: dict[bytes, RequestHead] = {}
        self._fields: dict[bytes, Field] = {}

    def forbid_table(self) -> None:
        """The peer acknowledged SETTINGS_HEADER_TABLE_SIZE 0: the next block must say that its
        table is empty (RFC 7541 section 4.2), or decoding it fails.
        """
        self._table_forbidden = True
        self._decoder.max_allowed_table_size = 0
        self._decoder.max_header_list_size = limits.MAX_HEADER_LIST

    def read(self, data: bytes) -> RequestHead:
        """HEAD_TOO_LARGE for one that is over `limits.MAX_HEADER_LIST`. CompressionError: not a
        block, or one that refers to nothing. EnhanceYourCalmError: its list is over
        `limits.MAX_EARLY_HEADER_LIST`. Both end the connection, as what later blocks refer to is
        lost.
        """
        known = self._heads.get(data)
        if known is not None:
            return known
        if not self._table_forbidden:
            return self._head(self._decode_early(data))
        try:
            head = self._read_apart(data)
        except OversizedHeaderListError:  # no later block refers to this one
            head = HEAD_TOO_LARGE
        if self._decoder.header_table_size:
            raise CompressionError("a header block that doesn't say that the table is empty")
        if len(data) + head.weight <= limits.MEMO_ENTRY_SIZE:
            if len(self._heads) >= limits.MEMO_BLOCKS:
                self._heads.clear()
            self._heads[data] = head
        return head

    def _read_apart(self, data: bytes) -> RequestHead:
        """A block whose fields mean the same as ever. OversizedHeaderListError: one is too long."""
        if len(data) > limits.MAX_HEADER_LIST:
            return self._skip(data)
        parts = split(data)
        if len(parts) > _PARTS_MAX:
            return self._skip(data)
        return self._head([field for one in parts for field in self._read_field(one)])

    def _decode_early(self, data: bytes) -> list[Field]:
        try:
            return self._decode(data)
        except OversizedHeaderListError:
            raise EnhanceYourCalmError("a header list over its limit") from None

    def _decode(self, data: bytes) -> list[Field]:
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(data, True)]
        except OversizedHeaderListError:
            raise
        except HPACKError:
            raise CompressionError("a header block that can't be decoded") from None

    def _read_field(self, data: bytes) -> Iterable[Field]:
        """One field, or none for a table size update."""
        known = self._fields.get(data)
        if known is not None:
            return (known,)
        fields = self._decode(data)
        if fields and len(data) <= limits.MEMO_FIELD_SIZE:
            if len(self._fields) >= limits.MEMO_FIELDS:
                self._fields.clear()
            self._fields[data] = fields[0]
        return fields

    def _skip(self, data: bytes) -> RequestHead:
        """A block that is too large as it was sent. To decode it could take 100 ms."""
        if data[0] & _UPDATE_BITS == _UPDATE:
            self._decoder.header_table_size = 0  # all that it may say, and says once
        return HEAD_TOO_LARGE

    @staticmethod
    def _head(fields: list[Field]) -> RequestHead:
        # As RFC 9113 section 6.5.2 counts.
        size = sum(len(name) + len(value) + 32 for name, value in fields)
        return HEAD_TOO_LARGE if size > limits.MAX_HEADER_LIST else RequestHead(fields)


def split(block: bytes) -> list[bytes]:
    """The fields and table size updates of a block, each as it was sent. CompressionError: it ends
    within one, or an update comes after a field (RFC 7541 section 4.2).
    """
    parts: list[bytes] = []
    at, end = 0, len(block)
    field_seen = False
    try:
        while at < end:
            start, first = at, block[at]
            if first & _INDEXED:
                _, at = _number(block, at, _INDEXED_NUMBER)
            elif first & _UPDATE_BITS == _UPDATE:
                if field_seen:
                    raise CompressionError("a table size update after a field")
                _, at = _number(block, at, _UPDATE_NUMBER)
                parts.append(block[start:at])
                continue
            else:
                mask = _ADDED_NUMBER if first & _ADDED else _LITERAL_NUMBER
                name, at = _number(block, at, mask)
                if not name:
                    length, at = _number(block, at, _STRING_NUMBER)
                    at += length
                length, at = _number(block, at, _STRING_NUMBER)
                at += length
            field_seen = True
            parts.append(block[start:at])
    except IndexError:
        raise CompressionError("a header block that ends within a field") from None
    if at > end:
        raise CompressionError("a header block that ends within a field")
    return parts


def _number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """An integer whose prefix has the bits of `mask`, and the offset behind it (RFC 7541 section
    5.1). IndexError: the block ends within it.
    """
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for shift in range(0, 7 * _OCTETS_MAX, 7):
        octet = block[at]
        at += 1
        number += (octet & ~_MORE) << shift
        if not octet & _MORE:
            return number, at
    raise CompressionError("a number over its limit in a header block")
