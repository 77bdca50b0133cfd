"""What a peer can do wrong, and the code it is told.

    Http2Error
    ├── ConnectionFault             the connection ends with GOAWAY (RFC 9113 section 5.4.1)
    │   ├── ProtocolError               PROTOCOL_ERROR
    │   ├── FlowControlError            FLOW_CONTROL_ERROR
    │   ├── SettingsTimeoutError        SETTINGS_TIMEOUT
    │   ├── StreamClosedError           STREAM_CLOSED
    │   ├── FrameSizeError              FRAME_SIZE_ERROR
    │   ├── CompressionError            COMPRESSION_ERROR
    │   └── EnhanceYourCalmError        ENHANCE_YOUR_CALM
    └── StreamFault                 one stream ends with RST_STREAM (RFC 9113 section 5.4.2)
        ├── MalformedStreamError        PROTOCOL_ERROR
        ├── StreamFlowControlError      FLOW_CONTROL_ERROR
        ├── StreamEndedError            STREAM_CLOSED
        ├── StreamFrameSizeError        FRAME_SIZE_ERROR
        ├── RefusedStreamError          REFUSED_STREAM
        └── StreamOverdueError          CANCEL

The texts are constant: they go into GOAWAY and the log, and must not repeat a peer's bytes.
"""

from enum import IntEnum, unique
from typing import ClassVar


@unique
class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """A peer broke the protocol, or one of our limits."""

    code: ClassVar[ErrorCode]


class ConnectionFault(Http2Error):  # noqa: N818  RFC 9113 calls the wire's word the error
    """Nothing more can be understood, or wants to be heard, on this connection."""


class ProtocolError(ConnectionFault):
    code = ErrorCode.PROTOCOL_ERROR


class FlowControlError(ConnectionFault):
    code = ErrorCode.FLOW_CONTROL_ERROR


class SettingsTimeoutError(ConnectionFault):
    code = ErrorCode.SETTINGS_TIMEOUT


class StreamClosedError(ConnectionFault):
    code = ErrorCode.STREAM_CLOSED


class FrameSizeError(ConnectionFault):
    code = ErrorCode.FRAME_SIZE_ERROR


class CompressionError(ConnectionFault):
    code = ErrorCode.COMPRESSION_ERROR


class EnhanceYourCalmError(ConnectionFault):
    """One of the limits against abuse."""

    code = ErrorCode.ENHANCE_YOUR_CALM


class StreamFault(Http2Error):  # noqa: N818  as above
    """One stream is of no use; the others go on."""


class MalformedStreamError(StreamFault):
    code = ErrorCode.PROTOCOL_ERROR


class StreamFlowControlError(StreamFault):
    code = ErrorCode.FLOW_CONTROL_ERROR


class StreamEndedError(StreamFault):
    """A frame for a stream whose request was complete."""

    code = ErrorCode.STREAM_CLOSED


class StreamFrameSizeError(StreamFault):
    code = ErrorCode.FRAME_SIZE_ERROR


class RefusedStreamError(StreamFault):
    """Nothing was done for it: the peer may try again (RFC 9113 section 8.7)."""

    code = ErrorCode.REFUSED_STREAM


class StreamOverdueError(StreamFault):
    code = ErrorCode.CANCEL
