"""Header blocks: what a request head must look like, and HPACK in both ways."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.blocks import BlockReader
from authz.envoy_api.http2.errors import CompressionError
from authz.envoy_api.http2.events import RequestReceived
from authz.envoy_api.http2.headers import HEAD_TOO_LARGE, RequestHead, encode_block
from support.http2 import (
    ANSWER_HEADERS,
    EMPTY_TABLE,
    HEADER_TABLE_SIZE,
    OPENING,
    POST,
    PREFACE,
    SETTINGS_ACK,
    Frame,
    answer,
    block,
    frames_of,
    headers,
    literals,
    play,
    settings,
)

METHOD, SCHEME, TARGET, AUTHORITY = POST
Fields = tuple[tuple[bytes, bytes], ...]

GOOD: dict[str, Fields] = {
    "the usual": POST,
    "no authority": (METHOD, SCHEME, TARGET),
    "another order": (TARGET, AUTHORITY, METHOD, SCHEME),
    "an empty authority": (METHOD, SCHEME, TARGET, (b":authority", b"")),
    "an empty value": (*POST, (b"x", b"")),
    "a value with blanks inside": (*POST, (b"x", b"a \t b")),
    "a value beyond ASCII": (*POST, (b"x", b"\x80\xff")),
    "all that a name may have": (*POST, (b"!#$%&'*+-.^_`|~09az", b"y")),
    "te: trailers": (*POST, (b"te", b"trailers")),
    "TE: Trailers": (*POST, (b"te", b"Trailers")),
    "a field twice": (*POST, (b"x", b"1"), (b"x", b"2")),
    "CONNECT": ((b":method", b"CONNECT"), AUTHORITY),
    "OPTIONS of all": ((b":method", b"OPTIONS"), SCHEME, (b":path", b"*")),
}

BAD: dict[str, Fields] = {
    "no method": (SCHEME, TARGET, AUTHORITY),
    "no scheme": (METHOD, TARGET, AUTHORITY),
    "no path": (METHOD, SCHEME, AUTHORITY),
    "an empty method": ((b":method", b""), SCHEME, TARGET),
    "an empty path": (METHOD, SCHEME, (b":path", b"")),
    "nothing but fields": ((b"x", b"y"),),
    "a method twice": (*POST, METHOD),
    "an authority twice": (*POST, AUTHORITY),
    "a pseudo-header field of answers": (*POST, (b":status", b"200")),
    "a pseudo-header field of extended CONNECT": (*POST, (b":protocol", b"websocket")),
    "a pseudo-header field without a name": (*POST, (b":", b"x")),
    "a pseudo-header field in upper case": ((b":METHOD", b"POST"), SCHEME, TARGET),
    "a pseudo-header field after another": (METHOD, SCHEME, (b"x", b"y"), TARGET),
    "a path with a line feed": (METHOD, SCHEME, (b":path", b"/\r\nx: y")),
    "a path with NUL": (METHOD, SCHEME, (b":path", b"/\0")),
    "an authority with a blank behind it": (METHOD, SCHEME, TARGET, (b":authority", b"x ")),
    "a name in upper case": (*POST, (b"Name", b"y")),
    "an empty name": (*POST, (b"", b"y")),
    "a name with a blank": (*POST, (b"a b", b"y")),
    "a name with a colon": (*POST, (b"a:b", b"y")),
    "a name with NUL": (*POST, (b"a\0", b"y")),
    "a name with a line feed": (*POST, (b"a\n", b"y")),
    "a name beyond ASCII": (*POST, (b"\xe4", b"y")),
    "a value with NUL": (*POST, (b"x", b"a\0b")),
    "a value with a line feed": (*POST, (b"x", b"a\nb")),
    "a value with a carriage return": (*POST, (b"x", b"a\rb")),
    "a value that ends with a line feed": (*POST, (b"x", b"a\n")),
    "a value that begins with a blank": (*POST, (b"x", b" a")),
    "a value that ends with a tab": (*POST, (b"x", b"a\t")),
    "connection": (*POST, (b"connection", b"close")),
    "proxy-connection": (*POST, (b"proxy-connection", b"close")),
    "keep-alive": (*POST, (b"keep-alive", b"1")),
    "transfer-encoding": (*POST, (b"transfer-encoding", b"chunked")),
    "upgrade": (*POST, (b"upgrade", b"h2c")),
    "te: gzip": (*POST, (b"te", b"gzip")),
    "te: trailers, gzip": (*POST, (b"te", b"trailers, gzip")),
    "CONNECT with a path": ((b":method", b"CONNECT"), AUTHORITY, TARGET),
    "CONNECT with a scheme": ((b":method", b"CONNECT"), AUTHORITY, SCHEME),
    "CONNECT without an authority": ((b":method", b"CONNECT"),),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_head_is_taken(name: str) -> None:
    head = RequestHead(GOOD[name])
    assert head.fault is None
    assert head.headers == tuple(one for one in GOOD[name] if not one[0].startswith(b":"))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("end", [True, False], ids=["no body", "a body"])
def test_a_bad_head_ends_its_stream(name: str, end: bool) -> None:
    """And no other: the next request is answered (section 8.1.1)."""
    sent = headers(1, EMPTY_TABLE + literals(*BAD[name]), end=end) + headers(3)
    said, told, _ = play((OPENING, sent))
    assert said[1:] == ["RST_STREAM 1 PROTOCOL_ERROR"]
    assert told == ["request 3 b''"]


def test_a_head_has_its_parts() -> None:
    head = RequestHead((*POST, (b"b", b"1"), (b"content-length", b"7"), (b"a", b"2"), (b"b", b"3")))
    assert (head.method, head.scheme, head.authority) == (b"POST", b"http", b"authz")
    assert head.path == b"/envoy.service.auth.v3.Authorization/Check"
    assert head.headers == ((b"b", b"1"), (b"content-length", b"7"), (b"a", b"2"), (b"b", b"3"))
    assert (head.content_length, head.call) == (7, None)


# ---- HPACK in


def test_before_the_acknowledgement_the_dynamic_table_is_kept() -> None:
    """What one block puts there is found by the next, also if it belongs to a refused request."""
    encoder = hpack.Encoder()
    first = encoder.encode([*POST, (b"X", b"y")])  # malformed, but its fields are in the table
    second = encoder.encode(POST)
    assert len(second) < len(first) // 4
    said, told, _ = play((PREFACE + settings() + headers(1, first) + headers(3, second),))
    assert said[1:] == ["RST_STREAM 1 PROTOCOL_ERROR"]
    assert told == ["request 3 b''"]


def test_equal_blocks_that_mean_different_things_are_told_apart() -> None:
    """While the dynamic table is in use, the same bytes may be another field each time."""
    reader = BlockReader()
    same = bytes((0x80 | 62,))
    for value in (b"one", b"two", b"three"):
        reader.read(b"\x40" + literals((b"x", value))[1:])  # with incremental indexing
        assert reader.read(same).headers == ((b"x", value),)


def test_after_the_acknowledgement_the_table_must_be_given_up() -> None:
    """The first block says so (RFC 7541 section 4.2); one that doesn't can't be trusted."""
    said, told, _ = play((OPENING, headers(1, literals(*POST))))
    assert (said[1:], told) == (
        ["GOAWAY 0 COMPRESSION_ERROR"],
        ["connection ended: COMPRESSION_ERROR"],
    )


def test_after_the_acknowledgement_the_table_can_not_be_had_again() -> None:
    too_large = b"\x20" + b"\x21" + literals(*POST)  # size 0, then size 1
    said, _, _ = play((OPENING, headers(1, too_large)))
    assert said[1:] == ["GOAWAY 0 COMPRESSION_ERROR"]


def test_nothing_is_remembered_before_the_acknowledgement() -> None:
    reader = BlockReader()
    assert reader.read(literals(*POST)) is not reader.read(literals(*POST))
    reader.forbid_table()
    with pytest.raises(CompressionError):
        reader.read(literals(*POST))


def test_what_was_put_into_the_table_is_gone_with_it() -> None:
    """An index that meant something before the acknowledgement means nothing after it."""
    reader = BlockReader()
    reader.read(b"\x40" + literals((b"x", b"y"))[1:])
    reader.forbid_table()
    with pytest.raises(CompressionError):
        reader.read(EMPTY_TABLE + bytes((0x80 | 62,)))


def test_equal_blocks_give_the_same_head_after_the_acknowledgement() -> None:
    """So that what the layer above made of it can be kept with it."""
    connection = play((OPENING,)).connection
    first, second, third = (
        event.head
        for stream, sent in ((1, block()), (3, block()), (5, block((b"x", b"y"))))
        for event in connection.receive(headers(stream, sent), 0.0)
        if isinstance(event, RequestReceived)
    )
    assert first is second
    assert first is not third


def test_indexing_without_a_table_leaves_nothing_behind() -> None:
    """A literal that asks to be indexed is evicted at once, so the block may be remembered."""
    reader = BlockReader()
    reader.forbid_table()
    asks = EMPTY_TABLE + b"\x40" + literals((b"x", b"y"))[1:]
    assert reader.read(asks) is reader.read(asks)
    with pytest.raises(CompressionError):
        reader.read(bytes((0x80 | 62,)))


def test_what_is_remembered_is_bounded() -> None:
    reader = BlockReader()
    reader.forbid_table()
    for number in range(10 * limits.MEMO_BLOCKS):
        reader.read(block((b"x", b"%d" % number)))
        assert len(reader._heads) <= limits.MEMO_BLOCKS
        assert len(reader._fields) <= limits.MEMO_FIELDS
    assert len(reader._fields) > 0
    reader.read(encode_block([*POST, (b"x", b"y" * limits.MEMO_FIELD_SIZE)]))
    assert all(len(field) <= limits.MEMO_FIELD_SIZE for field in reader._fields)
    long = block((b"x", b"y" * 200), *((b"x%d" % n, b"y" * 200) for n in range(50)))
    assert reader.read(long) is not reader.read(long)


FAULTS = {
    "an index of 0": b"\x80",
    "an index that nothing has": b"\xff\xff\x03",
    "a number without its end": b"\xff\xff",
    "a number of 16 KiB": b"\xff" * 16_000,
    "a number of zeros": b"\xff" + b"\x80" * 16_000,
    "a name without its end": b"\0\x05ab",
    "a value without its end": b"\0\1a\x05b",
    "a name without a value": b"\0\1a",
    "a name that is 2^31 long": b"\0\x7f\x80\xff\xff\xff\x07",
    "a bad Huffman code": b"\0\1a\x84\xff\xff\xff\xff",
    "Huffman padding of zeros": b"\0\1a\x81\x00",
    "a table size update after a field": b"\x82\x20",
    "a table size over the default": b"\x3f\xe2\x1f",
    "a huge table size": b"\x3f\xff\xff\xff\xff\x0f",
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("opening", [PREFACE + settings(), OPENING], ids=["before", "after"])
def test_a_block_that_is_none_ends_the_connection(name: str, opening: bytes) -> None:
    """Before the acknowledgement and after it. What later blocks refer to is lost (RFC 9113
    section 4.3).
    """
    start = EMPTY_TABLE if opening is OPENING else b""
    said, told, _ = play((opening, headers(1, start + FAULTS[name])))
    assert said[1:] == ["GOAWAY 0 COMPRESSION_ERROR"]
    assert told == ["connection ended: COMPRESSION_ERROR"]


HUFFMAN = hpack.Encoder()
TABLE_BOMB = "one entry of the table again and again"
BOMBS = {
    "a long value": encode_block([*POST, (b"x", b"y" * 16_200)]),
    "many small fields": encode_block([*POST, *[(b"a", b"")] * 500]),
    "many fields of one byte": encode_block(POST) + b"\x90" * 300,
    "Huffman codes of 5 bits": HUFFMAN.encode([*POST, (b"x", b"a" * 20_000)]),
    TABLE_BOMB: encode_block(POST)
    + b"\x40" + encode_block([(b"x", b"y" * 4000)])[1:] + b"\xbe" * 4,
}  # fmt: skip
"""Of the last, see CVE-2016-1544 and CVE-2016-6581."""


@pytest.mark.parametrize(
    ("name", "acknowledged"),
    [(name, False) for name in BOMBS] + [(name, True) for name in BOMBS if name != TABLE_BOMB],
)
def test_a_header_list_over_its_limit_is_its_request_s_alone(name: str, acknowledged: bool) -> None:
    """The next request is answered, and what it may refer to in the dynamic table is still there:
    a client of Envoy that chooses what Envoy passes on must not harm the others.
    """
    opening, start = (OPENING, EMPTY_TABLE) if acknowledged else (PREFACE + settings(), b"")
    sent = headers(1, start + BOMBS[name]) + headers(3, literals(*POST))
    _, told, connection = play((opening, sent))
    assert told == ["too large 1", "request 3 b''"]
    assert not connection.closed


def test_a_bomb_ends_the_connection_where_it_must_be_read() -> None:
    """What it adds to the dynamic table may be referred to, so that it can't be skipped."""
    bomb = encode_block(POST) + b"\x40" + encode_block([(b"x", b"y" * 4000)])[1:] + b"\xbe" * 40
    said, told, _ = play((PREFACE + settings(), headers(1, bomb)))
    assert said[1:] == ["GOAWAY 0 ENHANCE_YOUR_CALM"]
    assert told == ["connection ended: ENHANCE_YOUR_CALM"]


def test_a_list_up_to_the_limit_is_taken() -> None:
    """As SETTINGS_MAX_HEADER_LIST_SIZE counts: 32 bytes for each field, beside its text."""
    taken = sum(len(name) + len(value) + 32 for name, value in POST)
    rest = limits.MAX_HEADER_LIST - taken
    count, last = divmod(rest, 232)
    filler = [(b"x", b"y" * 199)] * count
    last_one = (b"x", b"y" * (last - 33)) if last >= 33 else (b"", b"")
    whole_list = [*POST, *filler, last_one]
    longer = [*whole_list[:-1], (b"x", last_one[1] + b"y")]
    for reader in (BlockReader(), BlockReader()):
        assert reader.read(encode_block(whole_list)).headers[-1] == last_one
        assert reader.read(encode_block(longer)) is HEAD_TOO_LARGE
        reader.forbid_table()
        assert reader.read(EMPTY_TABLE + encode_block(whole_list)).headers[-1] == last_one
        assert reader.read(encode_block(longer)) is HEAD_TOO_LARGE


# ---- HPACK in, field by field

SMALL_FAULTS = [fault for fault in FAULTS.values() if len(fault) < 100]
PIECES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=6),
        st.sampled_from([b"\x82", b"\x86", b"\x20", b"\x3f\x00", *SMALL_FAULTS]),
        st.tuples(st.binary(max_size=9), st.binary(max_size=40)).map(
            lambda pair: encode_block([pair])
        ),
        st.tuples(st.binary(max_size=9), st.binary(max_size=40)).map(
            lambda pair: hpack.Encoder().encode([pair])
        ),
    ),
    max_size=8,
)


@given(st.lists(PIECES.map(b"".join), max_size=4))
def test_fields_that_are_remembered_one_by_one_are_what_the_whole_block_says(
    blocks: list[bytes],
) -> None:
    """Against the library's own reading of each block, after the acknowledgement."""
    reader, decoder = BlockReader(), hpack.Decoder()
    reader.forbid_table()
    decoder.max_allowed_table_size = 0
    for data in [EMPTY_TABLE, *blocks, *blocks]:
        try:
            expected = [(bytes(n), bytes(v)) for n, v in decoder.decode(data, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(CompressionError):
                reader.read(data)
            return
        head = reader.read(data)
        regular = tuple(field for field in expected if not field[0].startswith(b":"))
        assert head.headers == regular


def test_a_field_is_not_taken_for_another_that_begins_alike() -> None:
    reader = BlockReader()
    reader.forbid_table()
    for value in (b"a", b"ab", b"a", b"abc", b""):
        head = reader.read(EMPTY_TABLE + encode_block([*POST, (b"x", value)]))
        assert head.headers == ((b"x", value),)


# ---- HPACK out

TEXTS = st.binary(max_size=500)
FIELDS = st.lists(st.tuples(TEXTS, TEXTS), max_size=5)


@given(FIELDS, st.sampled_from([b"200", b"204", b"404", b"415", b"500", b""]))
def test_a_block_means_the_same_to_another_decoder(
    fields: list[tuple[bytes, bytes]], status: bytes
) -> None:
    pairs = [(b":status", status), *fields]
    decoder = hpack.Decoder(2**20)
    for _ in range(2):  # it leaves nothing behind
        assert list(decoder.decode(encode_block(pairs), raw=True)) == pairs
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize("length", [126, 127, 128, 254, 255, 256, 16_383 + 127, 16_384 + 127])
def test_lengths_at_the_edges_of_their_encoding(length: int) -> None:
    pairs = [(b"x", b"y" * length)]
    assert list(hpack.Decoder(2**20).decode(encode_block(pairs), raw=True)) == pairs


def first_blocks(*steps: bytes) -> list[bytes]:
    """The header blocks of two answers, after these SETTINGS."""
    connection = play((OPENING, *steps)).connection
    for stream in (1, 3):
        connection.receive(headers(stream), 0.0)
        answer(stream)(connection)
    output = connection.take_output()
    return [one.payload for one in frames_of(output) if Frame(*one).kind == 1]


def test_a_peer_that_wants_a_smaller_table_is_told_that_none_is_used() -> None:
    """In the next block, once, and only by the first SETTINGS that ask for it: RFC 7541 section
    4.2. nghttp2 and h2 refuse an answer that doesn't say so.
    """
    blocks = first_blocks(settings((HEADER_TABLE_SIZE, 0)), settings((HEADER_TABLE_SIZE, 100)))
    assert blocks[0] == EMPTY_TABLE + ANSWER_HEADERS
    assert blocks[2] == ANSWER_HEADERS
    assert not any(EMPTY_TABLE in one for one in blocks[1:])


@pytest.mark.parametrize("size", [4096, 65_536])
def test_a_peer_that_allows_the_usual_table_is_told_nothing(size: int) -> None:
    assert first_blocks(settings((HEADER_TABLE_SIZE, size)))[0] == ANSWER_HEADERS


def test_settings_between_two_answers_are_heeded() -> None:
    connection = play((OPENING + headers(1), answer(1))).connection
    connection.receive(settings((HEADER_TABLE_SIZE, 4095)) + SETTINGS_ACK + headers(3), 0.0)
    connection.send_headers(3, ANSWER_HEADERS)
    *_, last = frames_of(connection.take_output())
    assert last.payload == EMPTY_TABLE + ANSWER_HEADERS
    connection.receive(settings((HEADER_TABLE_SIZE, 0)) + headers(5), 0.0)
    connection.send_headers(5, ANSWER_HEADERS)
    *_, last = frames_of(connection.take_output())
    assert last.payload == ANSWER_HEADERS
