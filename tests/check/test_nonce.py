"""Nonces that nobody remembers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.check.nonce import NONCE_CHARACTERS, Nonces

NOW = 1_800_000_000.0
LIFETIME = 300.0
SECRET = b"s" * 32
NONCES = Nonces(SECRET, LIFETIME)


def test_a_nonce_can_stand_in_a_header_and_a_claim() -> None:
    """RFC 9449 section 8.1: of %x21 / %x23-5B / %x5D-7E."""
    nonce = NONCES.make(NOW)
    assert len(nonce) == NONCE_CHARACTERS
    assert set(nonce) <= {chr(code) for code in (0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F))}


@given(st.floats(0, LIFETIME), st.floats(0, 3 * LIFETIME))
def test_a_nonce_is_taken_for_half_its_lifetime_at_least_and_never_longer_than_all(
    made_at: float, later: float
) -> None:
    until = NONCES.runs_out(NONCES.make(NOW + made_at), NOW + made_at + later)
    if later <= LIFETIME / 2 - 0.001:
        assert until is not None
    if later >= LIFETIME:
        assert until is None
    if until is not None:
        assert NOW + made_at + later < until <= NOW + made_at + LIFETIME


def test_each_sidecar_takes_the_nonces_of_the_others() -> None:
    """Also of one whose clock is a little ahead."""
    other = Nonces(SECRET, LIFETIME)
    assert other.runs_out(NONCES.make(NOW), NOW) is not None
    assert other.runs_out(NONCES.make(NOW), NOW - 1) is not None


def test_nonces_are_the_same_for_a_while_and_then_others() -> None:
    assert NONCES.make(NOW) == NONCES.make(NOW + 1)
    assert NONCES.make(NOW) != NONCES.make(NOW + LIFETIME / 2)


def test_an_ageing_nonce_has_a_successor_and_the_newest_has_none() -> None:
    nonce = NONCES.make(NOW)
    assert NONCES.successor(nonce, NOW) is None
    later = NOW + LIFETIME / 2
    assert NONCES.runs_out(nonce, later) is not None
    assert NONCES.successor(nonce, later) == NONCES.make(later) != nonce


def test_a_nonce_of_another_secret_is_not_taken() -> None:
    assert Nonces(b"t" * 32, LIFETIME).runs_out(NONCES.make(NOW), NOW) is None


@pytest.mark.parametrize("position", range(NONCE_CHARACTERS - 1))
def test_a_nonce_that_was_changed_anywhere_is_not_taken(position: int) -> None:
    nonce = NONCES.make(NOW)
    other = "A" if nonce[position] != "A" else "B"
    assert NONCES.runs_out(nonce[:position] + other + nonce[position + 1 :], NOW) is None


@given(st.text(max_size=40) | st.text(min_size=NONCE_CHARACTERS, max_size=NONCE_CHARACTERS))
def test_no_text_raises_or_is_taken(text: str) -> None:
    assert NONCES.runs_out(text, NOW) is None
