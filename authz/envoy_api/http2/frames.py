"""Frames: their layout, and what must hold of each by itself (RFC 9113 sections 4.1 and 6)."""

from collections.abc import Iterable
from struct import Struct
from typing import Final

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.errors import (
    ConnectionFault,
    FlowControlError,
    FrameSizeError,
    ProtocolError,
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

SETTINGS_HEADER_TABLE_SIZE: Final = 0x1
SETTINGS_ENABLE_PUSH: Final = 0x2
SETTINGS_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTINGS_INITIAL_WINDOW_SIZE: Final = 0x4
SETTINGS_MAX_FRAME_SIZE: Final = 0x5
SETTINGS_MAX_HEADER_LIST_SIZE: Final = 0x6

HEADER_SIZE: Final = 9
HEADER: Final = Struct(">IBI")
"""Length (24 bits) and type (8) in one number, flags, reserved bit (1) and stream identifier (31).
The reserved bit is ignored on receipt, as section 4.1 asks."""

_SETTING: Final = Struct(">HI")
_UINT32: Final = Struct(">I")
_MAX_FRAME_SIZE_MAX: Final = 2**24 - 1
_PRIORITY_SIZE: Final = 5
_PING_SIZE: Final = 8
_GOAWAY_SIZE: Final = 8
_UINT32_SIZE: Final = 4


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in values))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _UINT32.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _UINT32.pack(increment))


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _UINT32.pack(last_stream_id) + _UINT32.pack(code) + debug)


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def require_stream(stream_id: int) -> None:
    """ProtocolError: a frame that belongs to a stream came for the connection."""
    if stream_id == 0:
        raise ProtocolError("a frame of a stream on stream 0")


def require_connection(stream_id: int) -> None:
    """ProtocolError: a frame that belongs to the connection came for a stream."""
    if stream_id != 0:
        raise ProtocolError("a frame of the connection on a stream")


def without_padding(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS less its padding (section 6.1). What the padding holds is
    ignored, as the section allows; its length is not.
    """
    if not flags & PADDED:
        return payload
    if not payload:
        raise FrameSizeError("a padded frame without its pad length")
    end = len(payload) - payload[0]
    if end < 1:
        raise ProtocolError("a frame has more padding than payload")
    return payload[1:end]


def without_priority(flags: int, payload: bytes) -> bytes:
    """The header block of a HEADERS payload that has no padding any more: the deprecated priority
    fields before it are dropped (section 5.3.2).
    """
    if not flags & PRIORITY_FLAG:
        return payload
    if len(payload) < _PRIORITY_SIZE:
        raise FrameSizeError("HEADERS is too short for its priority fields")
    return payload[_PRIORITY_SIZE:]


def is_priority(payload: bytes) -> bool:
    """Whether a PRIORITY payload has the right size."""
    return len(payload) == _PRIORITY_SIZE


def error_code(payload: bytes) -> int:
    """Of RST_STREAM (section 6.4)."""
    return _uint32(payload, "RST_STREAM")


def increment(payload: bytes) -> int:
    """Of WINDOW_UPDATE (section 6.9), 0 included."""
    return _uint32(payload, "WINDOW_UPDATE") & limits.MAX_WINDOW


def _uint32(payload: bytes, name: str) -> int:
    if len(payload) != _UINT32_SIZE:
        raise FrameSizeError(f"{name} is not 4 bytes long")
    value: int = _UINT32.unpack(payload)[0]
    return value


def ping_data(payload: bytes) -> bytes:
    """Of PING (section 6.7)."""
    if len(payload) != _PING_SIZE:
        raise FrameSizeError("PING is not 8 bytes long")
    return payload


def goaway_last_stream(payload: bytes) -> int:
    """Of GOAWAY (section 6.8). Its error code and debug data change nothing for us."""
    if len(payload) < _GOAWAY_SIZE:
        raise FrameSizeError("GOAWAY is shorter than 8 bytes")
    last: int = _UINT32.unpack_from(payload)[0]
    return last & limits.MAX_STREAM_ID


def setting_values(payload: bytes) -> dict[int, int]:
    """Identifier to value of SETTINGS; of several with the same identifier the last counts, as
    they are processed in order (section 6.5.3). ConnectionFault: one is out of its bounds.
    """
    if len(payload) % _SETTING.size:
        raise FrameSizeError("SETTINGS is not a multiple of 6 bytes long")
    values: dict[int, int] = {}
    for name, value in _SETTING.iter_unpack(payload):
        fault = _setting_fault(name, value)
        if fault is not None:
            raise fault
        values[name] = value
    return values


def _setting_fault(name: int, value: int) -> ConnectionFault | None:
    match name:
        case 0x2 if value > 1:
            return ProtocolError("SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        case 0x4 if value > limits.MAX_WINDOW:
            return FlowControlError("SETTINGS_INITIAL_WINDOW_SIZE is over 2^31-1")
        case 0x5 if not limits.MAX_FRAME_SIZE <= value <= _MAX_FRAME_SIZE_MAX:
            return ProtocolError("SETTINGS_MAX_FRAME_SIZE is out of bounds")
        case _:
            return None  # unknown settings are ignored (section 6.5.2)
