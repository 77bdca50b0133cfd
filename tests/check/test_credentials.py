"""Where a request carries its one token."""

import pytest
from check.fakes import http_request
from hypothesis import given
from hypothesis import strategies as st

from authz.check.credentials import Credential, CredentialFinder
from authz.check.verdict import Reason

DEFAULT = ("header:authorization", "cookie:__Host-access")


def find(*credentials: str, **headers: str | tuple[str, ...]) -> str | Reason:
    """The token in headers whose names are written with `_` for `-`, or why there is none."""
    found = find_credential(*credentials, **headers)
    return found.token if isinstance(found, Credential) else found


def find_credential(
    *credentials: str, **headers: str | tuple[str, ...]
) -> str | Credential | Reason:
    values = {
        name.replace("_", "-"): (value,) if isinstance(value, str) else value
        for name, value in headers.items()
    }
    return CredentialFinder(credentials or DEFAULT).find(http_request(headers=values))


@pytest.mark.parametrize(
    "value",
    ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c", "  Bearer a.b.c  ", "\tBearer a.b.c"],
)
def test_a_bearer_token_is_found(value: str) -> None:
    assert find(authorization=value) == "a.b.c"


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_an_empty_header_is_no_credential(value: str) -> None:
    assert find(authorization=value) is Reason.TOKEN_MISSING
    assert find() is Reason.TOKEN_MISSING


@pytest.mark.parametrize("value", ["Bearer", "bearer ", "Bearer\t"])
def test_a_scheme_without_a_token_is_malformed(value: str) -> None:
    assert find(authorization=value) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "value",
    [
        "Basic dXNlcg==",
        "a.b.c",
        "Bearera.b.c",
        "Bear a.b.c",
        "Bearer:a.b.c",
        "\u017fearer a",
        "DPoPa a",
    ],
)
def test_another_scheme_is_unsupported(value: str) -> None:
    assert find(authorization=value) is Reason.SCHEME_UNSUPPORTED


def test_a_tab_after_the_scheme_is_not_taken_for_another_scheme() -> None:
    """On an optional route that would pass as anonymous, and an upstream might read the token."""
    assert find(authorization="Bearer\ta.b.c") == "\ta.b.c"


@pytest.mark.parametrize(
    "value",
    [
        "Bearer a.b.c,Bearer d.e.f",
        "Bearer a.b.c, Bearer d.e.f",
        "Bearer a.b.c,Bearer a.b.c",
        "Bearer a.b.c,",
        "Bearer a.b.c,d.e.f",
        "Bearer ,Bearer a.b.c",
        ",Bearer a.b.c",
        "Basic dXNlcg==,Bearer a.b.c",
        "Basic dXNlcg==,\tbEaReR a.b.c",
        "Basic dXNlcg==,Bearer\ta.b.c",
        "Basic dXNlcg==,Bearer",
        "Bearer a.b.c,Basic dXNlcg==",
        "Bearer\ta.b.c,Basic dXNlcg==",
    ],
)
def test_joined_duplicates_are_two_credentials(value: str) -> None:
    """However Envoy came to join them."""
    assert find(authorization=value) is Reason.MULTIPLE_CREDENTIALS


@pytest.mark.parametrize("second", ["Bearer a.b.c", "Bearer d.e.f", "Basic x", ""])
def test_a_header_that_came_twice_is_refused_even_if_both_are_equal(second: str) -> None:
    assert find(authorization=("Bearer a.b.c", second)) is Reason.MULTIPLE_CREDENTIALS


@pytest.mark.parametrize("value", ["DPoP a.b.c", "dpop a.b.c", "  DPOP   a.b.c  "])
def test_a_token_that_comes_with_a_proof_is_found(value: str) -> None:
    """RFC 9449 section 7.1."""
    assert find_credential(authorization=value) == Credential("a.b.c", "dpop")


@pytest.mark.parametrize(
    "value",
    [
        "DPoP a.b.c,DPoP a.b.c",
        "DPoP a.b.c, Bearer a.b.c",
        "Bearer a.b.c,dpop a.b.c",
        "Basic dXNlcg==,DPoP a.b.c",
        "DPoP a.b.c,",
    ],
)
def test_joined_duplicates_of_either_scheme_are_two_credentials(value: str) -> None:
    assert find(authorization=value) is Reason.MULTIPLE_CREDENTIALS


def test_one_token_by_two_schemes_is_refused() -> None:
    """It would be judged in two ways."""
    places = ("header:authorization", "header:x-token", "cookie:a")
    assert find(*places, authorization="DPoP a", x_token="a") is Reason.MULTIPLE_CREDENTIALS
    assert find(*places, authorization="Bearer a", x_token="DPoP a") is Reason.MULTIPLE_CREDENTIALS
    assert find(*places, authorization="DPoP a", cookie="a=a") is Reason.MULTIPLE_CREDENTIALS
    found = find_credential(*places, authorization="DPoP a", x_token="DPoP a")
    assert found == Credential("a", "dpop")


def test_parameters_of_another_scheme_may_hold_commas() -> None:
    digest = 'Digest username="bearer x", realm="y", nonce="z"'
    assert find(authorization=digest) is Reason.SCHEME_UNSUPPORTED


# Cookies


@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-access=a.b.c",
        "x=1; __Host-access=a.b.c; y=2",
        "x=1;__Host-access=a.b.c",
        '__Host-access="a.b.c"',
        "__Host-access =a.b.c",
        "__Host-access=; __Host-access=a.b.c",
        "__Host-access; __Host-access=a.b.c",
        "__Host-access=a.b.c; __Host-access=a.b.c",
    ],
)
def test_a_cookie_may_hold_the_token(cookie: str) -> None:
    assert find(cookie=cookie) == "a.b.c"


@pytest.mark.parametrize(
    "cookie",
    [
        "__host-access=a.b.c",
        "x__Host-access=a.b.c",
        "__Host-access2=a.b.c",
        "x=__Host-access=a.b.c",
        "__Host-access",
        "__Host-access=",
        "access=a.b.c",
    ],
)
def test_another_cookie_is_not_taken_for_it(cookie: str) -> None:
    assert find(cookie=cookie) is Reason.TOKEN_MISSING


@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-access=a.b.c; __Host-access=d.e.f",
        "__Host-access=d.e.f; x=1; __Host-access=a.b.c",
        "__Host-access=a.b.c; __Host-access =d.e.f",
        "__Host-access\t=d.e.f; __Host-access=a.b.c",
        "__Host-access=a.b.c,__Host-access=d.e.f",
        "x=1,__Host-access=d.e.f",
        "x=1, __Host-access =d.e.f; y=2",
    ],
)
def test_two_cookies_of_that_name_are_two_credentials(cookie: str) -> None:
    """A sub-domain can plant a second one; who reads it depends on the server."""
    assert find(cookie=cookie) is Reason.MULTIPLE_CREDENTIALS


def test_cookies_in_two_lines_are_looked_at_alike() -> None:
    lines = ("x=1", "__Host-access=a.b.c")
    assert find(cookie=lines) == "a.b.c"
    assert find(cookie=("__Host-access=d.e.f", *lines)) is Reason.MULTIPLE_CREDENTIALS


def test_header_and_cookie_may_hold_the_same_token_and_no_other() -> None:
    assert find(authorization="Bearer a.b.c", cookie="__Host-access=a.b.c") == "a.b.c"
    both = find(authorization="Bearer a.b.c", cookie="__Host-access=d.e.f")
    assert both is Reason.MULTIPLE_CREDENTIALS


def test_a_cookie_beside_another_scheme_is_the_credential() -> None:
    assert find(authorization="Basic x", cookie="__Host-access=a.b.c") == "a.b.c"


def test_cookies_are_not_read_where_they_are_not_configured() -> None:
    assert find("header:authorization", cookie="__Host-access=a") is Reason.TOKEN_MISSING


# Headers of one's own


def test_a_header_of_ones_own_may_hold_the_token_with_or_without_scheme() -> None:
    assert find("header:x-token", x_token="a.b.c") == "a.b.c"
    assert find("header:x-token", x_token="Bearer a.b.c") == "a.b.c"
    assert find("header:x-token", x_token="Basic abc") is Reason.SCHEME_UNSUPPORTED
    assert find("header:x-token", x_token="a.b.c,d.e.f") is Reason.MULTIPLE_CREDENTIALS
    assert find("header:x-token", authorization="Bearer a.b.c") is Reason.TOKEN_MISSING


def test_two_headers_with_two_tokens_are_refused() -> None:
    places = ("header:authorization", "header:x-token")
    assert find(*places, authorization="Bearer a", x_token="b") is Reason.MULTIPLE_CREDENTIALS
    assert find(*places, authorization="Bearer a", x_token="a") == "a"


header_values = st.lists(st.text(st.characters(max_codepoint=0xFF), max_size=40), max_size=3)


@given(header_values, header_values)
def test_no_header_raises_or_yields_an_empty_token(
    authorization: list[str], cookie: list[str]
) -> None:
    found = find(authorization=tuple(authorization), cookie=tuple(cookie))
    assert found


def pieces_of(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=12).map("".join)


bearer_values = pieces_of(*'abB. \t,="', "Bearer ", "bearer")


@given(bearer_values)
def test_the_usual_spelling_of_the_scheme_is_read_like_any_other(rest: str) -> None:
    """`Bearer ` is told from the rest at a glance, which must make no difference."""
    assert find(authorization=f"Bearer {rest}") == find(authorization=f"bearer {rest}")


cookie_lines = pieces_of(*'ab=;, \t"', "__Host-access", "__Host-access=", "; ")


@given(st.lists(cookie_lines, max_size=3))
def test_cookies_are_read_as_the_rfc_has_them(lines: list[str]) -> None:
    """Every line taken apart, also those that needn't be."""
    name = "__Host-access"
    joined = any(
        pair.split("=")[0].strip(" \t") == name and "=" in pair
        for line in lines
        for pair in line.split(",")[1:]
    )
    pairs = [pair.strip(" \t").partition("=") for line in lines for pair in line.split(";")]
    values = {
        value.removeprefix('"').removesuffix('"')
        for left, _, value in pairs
        if left.rstrip(" \t") == name and value
    }
    if joined or len(values) > 1:
        expected: str | Reason = Reason.MULTIPLE_CREDENTIALS
    elif values:
        expected = values.pop() or Reason.TOKEN_MALFORMED
    else:
        expected = Reason.TOKEN_MISSING
    assert find(cookie=tuple(lines)) == expected


tokens = st.text("abc.-_", min_size=1, max_size=8)


@given(tokens, tokens, st.sampled_from(["bearer", "Bearer"]), st.sampled_from([",", ", ", ",\t"]))
def test_of_two_different_tokens_none_is_ever_chosen(
    one: str, other: str, scheme: str, comma: str
) -> None:
    joined = f"{scheme} {one}{comma}{scheme} {other}"
    assert find(authorization=joined) is Reason.MULTIPLE_CREDENTIALS
    twice = find(cookie=f"__Host-access={one};__Host-access={other}")
    assert twice == (one if one == other else Reason.MULTIPLE_CREDENTIALS)


# How it came


def test_a_bearer_token_in_a_header_is_its_text_and_no_more() -> None:
    assert find_credential(authorization="Bearer a.b.c") == "a.b.c"
    assert find_credential("header:x-token", x_token="a.b.c") == "a.b.c"


def test_a_token_that_a_browser_may_have_sent_by_itself_is_told_apart() -> None:
    found = find_credential(cookie="a=1; __Host-access=a.b.c")
    assert found == Credential("a.b.c", "bearer", cookie=True)


def test_a_token_in_header_and_cookie_came_in_a_header() -> None:
    both = find_credential(authorization="Bearer a.b.c", cookie="__Host-access=a.b.c")
    assert both == "a.b.c"
