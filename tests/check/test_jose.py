"""A JWS taken apart: the form of it, and nothing believed."""

import json
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.check.jose import (
    MAX_DEPTH,
    MAX_TOKEN_BYTES,
    BadTokenError,
    Jws,
    require_compact_form,
    take_apart,
)
from authz.check.verdict import Reason
from support.jwks import b64

HEADER: dict[str, Any] = {"alg": "RS256", "kid": "k"}


def compact(header: object, claims: object, signature: bytes = b"s") -> str:
    """A token out of anything; bytes are taken as they are."""
    parts = (
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)
    )
    return ".".join([*map(b64, parts), b64(signature)])


def refusal(token: str) -> Reason:
    with pytest.raises(BadTokenError) as caught:
        read(token)
    return caught.value.reason


def read(token: str) -> Jws:
    require_compact_form(token)
    return take_apart(token)


def test_the_parts_of_a_token_are_read() -> None:
    token = compact({**HEADER, "typ": "JWT"}, {"sub": "alice"}, b"\x00\xff")
    jws = read(token)
    assert (jws.algorithm, jws.kid, jws.claims) == ("RS256", "k", {"sub": "alice"})
    assert jws.header["typ"] == "JWT"
    assert jws.signing_input == token.rpartition(".")[0].encode()
    assert jws.signature == b"\x00\xff"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        ".b.c",
        "a..c",
        "a b.c.d",
        "a.b.c ",
        " a.b.c",
        "a.b.c\n",
        "a.b,c.d",
        "a.b.c,a.b.c",
        "a+.b/.c",
        "a=.b.c",
        "é.b.c",
        "a.b.\u0662",  # a digit, but not an ASCII one
        "a.b.\uff11",
        "a.b.\udc80",
        "a.b.c\x00",
    ],
)
def test_what_is_not_three_base64url_segments_is_malformed(token: str) -> None:
    assert refusal(token) is Reason.TOKEN_MALFORMED


def test_the_size_is_looked_at_before_anything_else() -> None:
    at_the_limit = "a" * (MAX_TOKEN_BYTES - 4) + ".b.c"
    require_compact_form(at_the_limit)
    assert refusal(f"a{at_the_limit}") is Reason.TOKEN_TOO_LARGE
    assert refusal("," * (MAX_TOKEN_BYTES + 1)) is Reason.TOKEN_TOO_LARGE


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        (b"", b"{}"),
        (b"not json", b"{}"),
        (HEADER, b"not json"),
        (b"[]", {}),
        (HEADER, []),
        (HEADER, b"null"),
        (HEADER, b'"text"'),
        (HEADER, b"{} {}"),
        (HEADER, b"\xef\xbb\xbf{}"),  # a byte order mark
        (HEADER, '{"sub":"alice"}'.encode("utf-16")),
        (HEADER, b'{"sub":"\xff"}'),
        (HEADER, b'{"sub":"\xed\xa0\x80"}'),  # a surrogate by itself is not UTF-8
        (HEADER, b'{"exp":NaN}'),
        (HEADER, b'{"exp":-Infinity}'),
        (HEADER, b'{"exp":01}'),
        (HEADER, b'{"exp":' + b"9" * 5000 + b"}"),  # more digits than the interpreter converts
        (HEADER, b'{"sub":"a\nb"}'),
        (HEADER, b'{"sub":"alice","sub":"root"}'),  # RFC 7515 section 4
        (HEADER, b'{"a":{"b":1,"b":2}}'),
        (HEADER, b'{"sub":"alice","\\u0073ub":"root"}'),
        (b'{"alg":"RS256","alg":"none"}', {}),
        ({"kid": "k"}, {}),
        ({"alg": None}, {}),
        ({"alg": ["RS256"]}, {}),
        ({"alg": 256}, {}),
        ({**HEADER, "kid": 1}, {}),
        ({**HEADER, "kid": ["k"]}, {}),
        ({**HEADER, "kid": {"k": "k"}}, {}),
    ],
)
def test_what_two_parsers_could_read_differently_is_malformed(
    header: object, claims: object
) -> None:
    """Before any key is looked for."""
    if header == b"":
        header = b"\x00"
    assert refusal(compact(header, claims)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize("segment", ["a", "abcde", "eyJ-_"])
def test_a_length_that_no_bytes_have_is_malformed(segment: str) -> None:
    """base64 of 4n+1 characters."""
    token = compact(HEADER, {})
    head, claims, _ = token.split(".")
    assert refusal(f"{segment}.{claims}.c") is Reason.TOKEN_MALFORMED
    jws = read(f"{head}.{claims}.{segment}")
    with pytest.raises(BadTokenError, match="token_malformed"):
        _ = jws.signature


@pytest.mark.parametrize(
    "extension",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": None},
        {"crit": "x", "x": 1},
        {"b64": False},
        {"b64": True},
        {"b64": False, "crit": ["b64"]},
    ],
)
def test_an_extension_of_the_header_is_refused_whatever_it_says(
    extension: dict[str, object],
) -> None:
    assert refusal(compact({**HEADER, **extension}, {})) is Reason.HEADER_UNSUPPORTED


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_depth_has_a_limit_of_its_own_and_not_the_interpreters(opening: str, closing: str) -> None:
    """The same wherever on the call stack it is asked."""
    width = opening.count("[") + opening.count("{")

    def nested(depth: int) -> str:
        count = depth // width
        return compact(HEADER, f'{{"a":{opening * count}0{closing * count}}}'.encode())

    def far_down(frames: int) -> Jws:
        return read(nested(MAX_DEPTH - width)) if frames == 0 else far_down(frames - 1)

    assert read(nested(MAX_DEPTH - width))
    assert far_down(sys.getrecursionlimit() // 2)
    assert refusal(nested(MAX_DEPTH + width)) is Reason.TOKEN_MALFORMED
    assert refusal(nested(1000)) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "claims",
    [
        {"permissions": [{"rsid": str(n), "scopes": ["a"]} for n in range(100)]},
        {"note": "[" * 500 + '"' + "{" * 500},
    ],
)
def test_many_brackets_are_no_depth(claims: dict[str, object]) -> None:
    assert read(compact(HEADER, claims)).claims == claims


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_no_text_raises_anything_but_a_bad_token(text: str) -> None:
    with suppress(BadTokenError):
        _ = read(text).signature


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_bytes_in_the_segments_raise_anything_but_a_bad_token(
    header: bytes, claims: bytes
) -> None:
    with suppress(BadTokenError):
        read(compact(header, claims))


brackets = st.text(st.sampled_from('[]{}":,\\ a0'), max_size=400)


@given(brackets)
def test_json_that_is_accepted_is_never_deeper_than_the_limit(text: str) -> None:
    try:
        value = take_apart(compact(HEADER, f'{{"a":{text}}}'.encode())).claims
    except BadTokenError:
        return
    assert depth_of(value) <= MAX_DEPTH


def depth_of(value: object) -> int:
    match value:
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case _:
            return 0
