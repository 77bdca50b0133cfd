"""Whose address counts, behind so many proxies that are trusted."""

import pytest

from authz.tokens.http.address import client_address, limited_by

PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        ([], 0, PEER),
        (["203.0.113.9"], 0, PEER),  # nobody is trusted: the client may have written it
        (["203.0.113.9"], 1, "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], 1, "203.0.113.9"),  # the left one is the client's invention
        (["6.6.6.6", "203.0.113.9"], 1, "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 10.0.0.2"], 2, "203.0.113.9"),
        (["203.0.113.9"], 2, PEER),  # came around a proxy
        ([], 1, PEER),
        (["6.6.6.6, nonsense"], 1, PEER),
        (["6.6.6.6, "], 1, PEER),
        (["203.0.113.9:4711"], 1, "203.0.113.9"),
        (["[2001:db8::1]:4711"], 1, "2001:db8::1"),
        (["2001:DB8:0::1"], 1, "2001:db8::1"),
        (["fe80::1%eth0"], 1, "fe80::1"),
    ],
)
def test_the_header_is_read_from_the_trusted_end(
    forwarded: list[str], hops: int, expected: str
) -> None:
    assert client_address(PEER, forwarded, hops) == expected


def test_a_peer_without_an_address_is_unknown() -> None:
    """That of a Unix socket."""
    assert client_address(None, [], 0) == "unknown"
    assert limited_by("unknown") == "unknown"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
    ],
)
def test_a_site_is_counted_together(address: str, expected: str) -> None:
    """Whoever has an IPv6 site has 2^64 addresses."""
    assert limited_by(address) == expected
