"""Where everything is, below the issuer's URL."""

import pytest

from authz.tokens.http.parts import Paths


@pytest.mark.parametrize(
    ("issuer", "origin"),
    [
        ("https://login.example", "https://login.example"),
        ("https://Login.Example:443/a", "https://login.example"),
        ("http://localhost:80", "http://localhost"),
        ("https://login.example:8443/", "https://login.example:8443"),
        ("https://[2001:DB8::1]:443", "https://[2001:db8::1]"),
    ],
)
def test_the_origin_is_what_a_browser_sends_from_the_issuers_own_pages(
    issuer: str, origin: str
) -> None:
    """RFC 6454 section 6.2: a port that is the scheme's own isn't in it."""
    assert Paths(issuer).origin == origin
