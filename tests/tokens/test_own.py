"""Which texts are access tokens of this service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.keys.keyset import KeySet
from authz.revocation.record import token_digest
from authz.tokens.own import OwnTokens
from support.jwks import ISSUER, SECRET, claims, ec_key, sign
from support.tokens import KID, StaticKeys

NOW = 1_800_000_000.0
LEEWAY = 5.0

own = OwnTokens(ISSUER, StaticKeys().verification, leeway=LEEWAY, buckets=16)


def a_token(key: Any = None, *, typ: str = "at+jwt", kid: str = KID, **values: Any) -> str:
    body = claims(now=NOW, lifetime=900, jti="J", **values)
    return sign(body, key or ec_key(), kid=kid, headers={"typ": typ})


def test_a_token_of_ours_is_read_with_what_a_revocation_calls_it() -> None:
    found = own.read(a_token(), NOW)
    assert found is not None
    assert found.ref.token == token_digest(ISSUER, "J", b"")
    assert found.text("sub") == "alice"
    assert found.text("iat") is None


@pytest.mark.parametrize("later", [-LEEWAY - 1, 900 + LEEWAY])
def test_it_is_none_before_its_time_and_after(later: float) -> None:
    assert own.read(a_token(), NOW + later) is None


@pytest.mark.parametrize(
    "text",
    [
        a_token(ec_key("another")),
        a_token(kid="another"),
        a_token(typ="JWT"),
        a_token(typ="dpop+jwt"),
        a_token(iss="https://another.example"),
        sign(claims(now=NOW), SECRET, kid=KID, headers={"typ": "at+jwt"}),
        a_token()[:-4],
        a_token(sub=""),
        "",
    ],
    ids=["key", "kid", "typ", "proof", "issuer", "algorithm", "signature", "subject", "empty"],
)
def test_what_another_has_signed_or_for_something_else_is_none(text: str) -> None:
    assert own.read(text, NOW) is None


def test_without_keys_there_is_none() -> None:
    none = OwnTokens(ISSUER, KeySet, leeway=LEEWAY, buckets=16)
    assert none.read(a_token(), NOW) is None


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,9}\.[A-Za-z0-9_-]{0,9}\.x"))
def test_no_text_is_an_error(text: str) -> None:
    assert own.read(text, NOW) is None
