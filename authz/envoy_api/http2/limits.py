"""What one connection may cost. Each limit with its unit, its arithmetic and a precedent.

Together they bound the memory of a connection (`MEMORY` at the end) and the work that a peer can
cause without asking for a check.
"""

KiB = 1024
MiB = 1024 * KiB

MAX_STREAM_ID = 2**31 - 1
MAX_WINDOW = 2**31 - 1
"""RFC 9113 sections 5.1.1 and 6.9.1."""

DEFAULT_WINDOW = 65_535
"""Bytes: the send window of a stream, and of a connection, until the peer says otherwise (section
6.9.2)."""

MAX_FRAME_SIZE = 16_384
"""Bytes of payload, ours and the peer's. The least that RFC 9113 section 4.2 allows, and more than
nearly every check needs."""

# ---- streams

MAX_CONCURRENT_STREAMS = 1024
"""Envoy opens another connection when one is full, and its circuit breaker lets 4,096 checks wait
in all (`authz envoy`). Go's server takes 250, nghttp2's 100."""

REMEMBERED_RESETS = 2 * MAX_CONCURRENT_STREAMS
"""Streams that we ended and whose frames may still be under way: as many as RESET_BURST lets a
peer open before it has read the limit above."""

# ---- bytes

MAX_BODY = 4 * MiB + 5
"""Bytes of a request body: gRPC's own default for a message, and its prefix."""

STREAM_WINDOW = 256 * KiB
"""What a peer may send on a stream unasked. A check takes 1 to 64 KiB, so it is never extended for
one; for larger bodies it is, a half at a time."""

CONNECTION_WINDOW = 2 * 4 * MiB
"""What a peer may send on all streams together, and so what unfinished bodies of a connection can
take: two of the largest. It is extended when a body is complete or dropped, not before. Where
unfinished bodies fill it, so that none could ever be finished, the longest is refused."""

MAX_HEADER_LIST = 16 * KiB
"""Bytes of all names and values, and 32 a field (RFC 9113 section 6.5.2). Twice the 8 KiB that
gRPC servers take for metadata."""

MAX_CONTINUATIONS = 8
"""Frames of a header block after its first. CVE-2024-27316 and its kin sent them without end, also
empty ones. The connection ends where there are more."""

MAX_HEADER_BLOCK = (1 + MAX_CONTINUATIONS) * MAX_FRAME_SIZE
"""Bytes of a block as sent: 144 KiB. One whose list is over its limit is a fault of that request
and not of the connection: Envoy copies what a client sent into a check (a trace state,
`initial_metadata`), up to its own limit for request headers, 60 KiB unless told otherwise."""

MAX_EARLY_HEADER_LIST = 4 * MAX_HEADER_LIST
"""As MAX_HEADER_LIST, until the peer has acknowledged that there is no dynamic table: what it adds
to that must be read even where the request is refused. Over it the connection ends."""

MEMO_BLOCKS = 64
MEMO_ENTRY_SIZE = 8 * KiB
"""Header blocks whose meaning is remembered, and the most that one may take, decoded, in bytes.
Envoy's of a connection are all the same, of some 200 bytes, 2 KiB decoded, unless it traces."""

MEMO_FIELDS = 256
MEMO_FIELD_SIZE = 256
"""Fields whose meaning is remembered, and the longest such as it was sent, in bytes. For Envoys
that trace: then blocks differ in one field (`traceparent`, 60 bytes) and are the same in ten."""

SMALL_HEAD = 4 * KiB
MAX_HEADS = MAX_CONCURRENT_STREAMS * SMALL_HEAD
"""Bytes that a decoded head may take on any stream, and that all of a connection may take before
a larger one is refused. A field of 4 bytes takes 160, so that heads of 16 KiB come to 96 each."""

MAX_QUEUED = 4 * MiB
"""Bytes of answers that wait for the peer's flow-control window: 1,024 streams of the largest
denial, 4 KiB."""

# ---- work without use

IDLE_BURST = 4096
IDLE_PER_SECOND = 1000
IDLE_PER_REQUEST = 8
"""Frames that bring no request nearer: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM of a
closed stream, empty DATA, unknown types. A request earns eight, as a peer with a small window
sends an update or two an answer. At 2 µs each, a thousand a second are 0.2 % of a core. Envoy
allows 10,000 such frames and 5 updates a frame of data."""

IDLE_FIELDS = 8
IDLE_STREAMS = 16
"""What counts as a further idle frame, as it takes as long: so many fields of a header block that
is decoded for nothing, and so many streams whose windows SETTINGS moves."""

RESET_BURST = 2 * MAX_CONCURRENT_STREAMS
RESETS_PER_SECOND = 100
"""Streams that the peer resets before their answer (CVE-2023-44487), or makes us reset by a fault
(CVE-2025-8671). An Envoy that times out may drop all that it has open, twice. nghttp2 allows 1,000
and then 33 a second."""

# ---- slow peers, in seconds

PREFACE_TIMEOUT = 10.0
"""From the connection to the first SETTINGS, and from ours to its acknowledgement."""

REQUEST_TIMEOUT = 10.0
"""From a request's first frame to its last. Envoy sends both at once; nginx' header timeout is 60,
Apache's 20."""

ANSWER_TIMEOUT = 30.0
"""For an answer to wait for the peer's flow-control window. Nginx' `send_timeout` is 60."""

DRAIN_ROUND_TRIP = 1.0
"""Between the two GOAWAY of a graceful end, where no PING comes back (RFC 9113 section 6.8)."""

MEMORY = (
    CONNECTION_WINDOW * 9 // 8  # a bytearray that grows takes an eighth more
    + MAX_BODY  # a body is copied once, when it is complete
    + MAX_QUEUED * 9 // 8
    + 2 * MAX_HEADER_BLOCK  # a frame under way, and a block under way
    + MEMO_BLOCKS * MEMO_ENTRY_SIZE
    + MEMO_FIELDS * 4 * MEMO_FIELD_SIZE  # text and its Huffman code, and 400 for the objects
    + 2 * MAX_HEADS  # large ones until the sum is reached, and then small ones
    + MAX_CONCURRENT_STREAMS * KiB  # the streams themselves
    + REMEMBERED_RESETS * KiB // 4
)
"""Bytes that a connection can take, at most: 27.75 MiB, of which 12 are in `Connection.buffered`.
What a peer doesn't read, and what the socket's own buffers hold, is the server's to limit."""
