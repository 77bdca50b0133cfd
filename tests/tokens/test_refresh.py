"""Refresh tokens by themselves: their form, their successors, and which are good."""

import secrets
from base64 import urlsafe_b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.revocation.record import user_digest
from authz.tokens.refresh import (
    PREFIX,
    TEXT_LENGTH,
    Family,
    RefreshToken,
    Rotation,
    rotate,
    user_of,
)

USER = user_digest("https://issuer.example", "alice")
NOW = 1_800_000_000.0
GRACE = 10.0
AHEAD = 5.0


def a_token(bucket: int = 7) -> RefreshToken:
    return RefreshToken(bucket, USER, secrets.token_bytes(16), secrets.token_bytes(32))


def used(token: RefreshToken, now: float = NOW) -> Rotation:
    """The first use of a token."""
    rotation = rotate(Family(token.digest), token, salt="salt-1", now=now, grace=GRACE, ahead=AHEAD)
    assert rotation is not None
    return rotation


@pytest.mark.parametrize("bucket", [0, 7, 1023])
def test_a_refresh_token_reads_back(bucket: int) -> None:
    token = a_token(bucket)
    text = token.dump()
    assert len(text) == TEXT_LENGTH
    assert RefreshToken.read(text) == token
    assert user_of(text) == USER


@given(st.text(max_size=130) | st.text("AZaz09-_=.", max_size=TEXT_LENGTH).map(PREFIX.__add__))
def test_other_texts_are_none(text: str) -> None:
    assert RefreshToken.read(text) is None
    assert user_of(text) is None


def test_one_token_has_one_text() -> None:
    """The last character has bits to spare: two texts must not be the same token."""
    text = a_token().dump()
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=":
        other = RefreshToken.read(text[:-1] + last)
        assert other is None or other.dump() == text[:-1] + last


def test_no_secret_is_shown() -> None:
    token = a_token()
    family = Family(token.digest, "previous", "the-salt")
    for shown in (repr(token), repr(family)):
        assert repr(token.secret)[2:-1] not in shown
        assert "the-salt" not in shown


def test_the_id_of_the_session_is_that_of_all_its_tokens_and_tells_nothing_of_them() -> None:
    token = a_token()
    assert token.successor("salt").sid == token.sid
    assert urlsafe_b64encode(token.family).decode()[:16] not in token.sid


def test_a_use_makes_the_successor_current_and_the_token_the_one_before() -> None:
    token = a_token()
    rotation = used(token)
    assert not rotation.raced
    assert rotation.token.secret != token.secret
    assert (rotation.token.family, rotation.token.user) == (token.family, token.user)
    assert rotation.family.current == rotation.token.digest
    assert rotation.family.previous == token.digest
    assert rotation.family.grace_until == NOW + GRACE


def test_within_its_grace_a_token_gives_the_same_successor_again_and_changes_nothing() -> None:
    """Two tabs get one and the same, and neither throws the other out."""
    token = a_token()
    first = used(token)
    for later in (0.0, 1.0, GRACE - 0.001):
        again = rotate(first.family, token, salt="other", now=NOW + later, grace=GRACE, ahead=AHEAD)
        assert again == Rotation(first.family, first.token, raced=True)


def test_after_its_grace_it_gives_nothing() -> None:
    token = a_token()
    family = used(token).family
    assert rotate(family, token, salt="other", now=NOW + GRACE, grace=GRACE, ahead=AHEAD) is None


@pytest.mark.parametrize(("ahead", "is_one"), [(4.9, True), (5.1, False), (3600.0, False)])
def test_a_grace_that_a_wrong_clock_wrote_down_is_none(ahead: float, is_one: bool) -> None:
    """Or it would last for hours. Clocks may be apart by the leeway."""
    token = a_token()
    family = used(token, NOW + ahead).family
    again = rotate(family, token, salt="other", now=NOW, grace=GRACE, ahead=AHEAD)
    assert (again is not None) is is_one


def test_a_token_from_before_the_one_before_gives_nothing_at_once() -> None:
    """However young it is: whoever has used its successor has had it in hand."""
    token = a_token()
    first = used(token)
    second = rotate(first.family, first.token, salt="salt-2", now=NOW + 1, grace=GRACE, ahead=AHEAD)
    assert second is not None
    assert rotate(second.family, token, salt="other", now=NOW + 1, grace=GRACE, ahead=AHEAD) is None


def test_the_successor_can_not_be_made_of_what_the_store_has() -> None:
    """It has the salt and digests. Without the token before these make another one."""
    token = a_token()
    rotation = used(token)
    guess = replace(token, secret=secrets.token_bytes(32)).successor(rotation.family.salt)
    assert guess.digest != rotation.family.current
    by_digest = replace(token, secret=token.digest.encode()).successor(rotation.family.salt)
    assert by_digest.digest != rotation.family.current
