"""Whatever comes: no exception, sound accounts, and no more memory than `limits` says."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.envoy_api.http2.connection import Connection
from authz.envoy_api.http2.events import (
    ConnectionEnded,
    Event,
    RequestReceived,
    RequestTooLarge,
)
from support.http2 import OPENING, PREFACE, block, frame, literals
from support.http2_driver import ACTIONS, Driver, drive

FRAGMENTS = st.one_of(
    st.just(block()),
    st.just(literals((b"x", b"y"))),
    st.binary(max_size=30),
    st.integers(0, len(block())).map(lambda cut: block()[:cut]),
)
PAYLOADS = st.one_of(
    FRAGMENTS,
    st.sampled_from([0, 4, 5, 6, 8, 100, 16_384, 16_385]).map(bytes),
    st.tuples(st.integers(0, 7), st.integers(0, 2**32 - 1)).map(
        lambda one: one[0].to_bytes(2, "big") + one[1].to_bytes(4, "big")
    ),
    st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big")),
)
FRAMES = st.builds(
    frame,
    st.one_of(st.integers(0, 9), st.sampled_from([0, 1, 8, 9]), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x20]), st.integers(0, 255)),
    st.one_of(st.integers(0, 9), st.sampled_from([2**31 - 1, 2**31, 2**32 - 1])),
    PAYLOADS,
)
STEPS = st.lists(
    st.one_of(
        FRAMES,
        st.lists(FRAMES, max_size=20).map(b"".join),
        st.binary(max_size=30),
        st.sampled_from(ACTIONS),
    ),
    max_size=30,
)


@given(st.sampled_from([b"", PREFACE, OPENING]), STEPS)
def test_whatever_comes_is_borne(opening: bytes, steps: list[bytes | str]) -> None:
    driver = Driver()
    driver.receive(opening)
    for step in steps:
        if isinstance(step, str):
            driver.act(step)
        else:
            driver.receive(step)
    driver.act("close")


@given(st.binary(max_size=200))
def test_whatever_a_script_says_is_borne(script: bytes) -> None:
    """The language of the fuzz target (tests/fuzz)."""
    drive(script)


@given(st.lists(st.one_of(FRAMES, st.binary(max_size=30)), max_size=12), st.data())
def test_the_cut_of_the_bytes_changes_nothing(frames: list[bytes], draw: st.DataObject) -> None:
    """The same frames and events in the same order, wherever reads begin and end."""
    sent = OPENING + b"".join(frames)
    cuts = draw.draw(st.lists(st.integers(0, len(sent)), max_size=8).map(sorted))
    pieces = [sent[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    at_once, in_pieces = Connection(0.0), Connection(0.0)
    expected = at_once.receive(sent, 0.0)
    got = [event for piece in pieces for event in in_pieces.receive(piece, 0.0)]
    assert list(map(repr, map(strip, got))) == list(map(repr, map(strip, expected)))
    assert in_pieces.take_output() == at_once.take_output()
    assert in_pieces.buffered == at_once.buffered
    assert in_pieces.closed == at_once.closed


def strip(event: Event) -> object:
    """What can be compared of an event."""
    match event:
        case RequestReceived(stream, head, body):
            return stream, head.path, head.headers, body
        case RequestTooLarge(stream, head):
            return stream, head.path
        case ConnectionEnded(error):
            return str(error)
        case _:
            return event


FLAGS = (0, 1, 4, 5, 8, 9, 0xC, 0xD, 0x20, 0x24, 0x25, 0x28, 0x2C, 0x2D, 0xFF)


@pytest.mark.parametrize("kind", range(11))
@pytest.mark.parametrize("stream", [0, 1, 2, 3])
def test_every_flag_and_every_length_is_borne(kind: int, stream: int) -> None:
    """With payloads up to the longest that has a fixed form, and more."""
    for flags, length in product(FLAGS, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 18)):
        driver = Driver()
        driver.receive(OPENING + frame(1, 4, 1, block()))
        driver.receive(frame(kind, flags, stream, bytes(length)))
