"""What a connection tells the layer above."""

from typing import NamedTuple

from authz.envoy_api.http2.errors import Http2Error
from authz.envoy_api.http2.headers import RequestHead


class RequestReceived(NamedTuple):
    """A whole request came in; an answer is owed."""

    stream_id: int
    head: RequestHead
    body: bytes
    """The payloads of all DATA frames, joined."""


class RequestTooLarge(NamedTuple):
    """A request's body is over `limits.MAX_BODY`, or its head is HEAD_TOO_LARGE; the rest of it is
    dropped. An answer is owed, after which the stream is reset with NO_ERROR (RFC 9113 section
    8.1).
    """

    stream_id: int
    head: RequestHead


class StreamEnded(NamedTuple):
    """The peer reset a stream after its request: no answer is wanted any more."""

    stream_id: int
    code: int
    """The peer's error code; any 32-bit number (RFC 9113 section 7)."""


class ConnectionEnded(NamedTuple):
    """Nothing more is read. GOAWAY is in the output, where we were the ones to end it."""

    error: Http2Error | None
    """None: the peer said GOAWAY, and nothing is owed to it."""


Event = RequestReceived | RequestTooLarge | StreamEnded | ConnectionEnded
