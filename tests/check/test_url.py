"""URLs made comparable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.check.url import normal_url


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://api.example/a", "https://api.example/a"),
        ("HTTPS://API.Example/A", "https://api.example/A"),
        ("https://api.example:443/a", "https://api.example/a"),
        ("https://api.example:/a", "https://api.example/a"),
        ("http://api.example:80/a", "http://api.example/a"),
        ("https://api.example:80/a", "https://api.example:80/a"),
        ("https://api.example", "https://api.example/"),
        ("https://api.example?x=1", "https://api.example/"),
        ("https://api.example/a?x=/b#c", "https://api.example/a"),
        ("https://api.example/a#c", "https://api.example/a"),
        ("https://api.example/%7euser/%2f%2F", "https://api.example/~user/%2F%2F"),
        ("https://api.example/a/../b/./c", "https://api.example/b/c"),
        ("https://api.example/a/..", "https://api.example/"),
        ("https://api.example/../../a", "https://api.example/a"),
        ("https://api.example/a/.", "https://api.example/a/"),
        ("https://api.example/a/%2e%2E/b", "https://api.example/b"),
        ("https://api.example/.well-known/x", "https://api.example/.well-known/x"),
        ("https://api.example//a", "https://api.example//a"),
        ("https://[2001:DB8::1]:443/a", "https://[2001:db8::1]/a"),
        ("https://[2001:db8::1]/a", "https://[2001:db8::1]/a"),
    ],
)
def test_as_much_is_made_equal_as_rfc_3986_says(written: str, normal: str) -> None:
    """Sections 6.2.2 and 6.2.3."""
    assert normal_url(written) == normal
    assert normal_url(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "", "/a", "api.example/a", "//api.example/a", "ftp://api.example/a", "https:///a",
        "https://", "https:api.example", "https://user@api.example/a", "https://a b/",
        " https://api.example/", "https://api.example/\n", "https://api.example/a b",
        "javascript:1",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_request_is_none(text: str) -> None:
    assert normal_url(text) is None


@given(st.text(max_size=60).map(lambda text: f"https://h/{text}"))
def test_a_normal_url_stays_as_it_is(text: str) -> None:
    normal = normal_url(text)
    if normal is not None:
        assert normal_url(normal) == normal
        assert "/../" not in normal
