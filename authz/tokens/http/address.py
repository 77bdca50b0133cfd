"""Where a request came from, behind proxies that are trusted so far and no further."""

import ipaddress
from collections.abc import Sequence

IPV6_SITE = 64
"""Bits of an IPv6 address that name a site (RFC 4291 section 2.5.4). The rest is the client's to
choose, so whoever is limited by it isn't limited at all."""

UNKNOWN = "unknown"
"""Stands for an address that there is none of: a Unix socket's peer."""


def client_address(peer: str | None, forwarded: Sequence[str], hops: int) -> str:
    """The client's address, where `hops` proxies in front append to `X-Forwarded-For`.

    `forwarded`: the header's values in their order. It is read from the right: what stands left of
    the trusted proxies' own entries is the client's invention. Where there are fewer entries than
    hops somebody has come around the proxies, and the peer's address counts.
    """
    entries = [entry.strip() for value in forwarded for entry in value.split(",")]
    if hops and len(entries) >= hops:
        found = _read(entries[-hops])
        if found is not None:
            return found
    return _read(peer or "") or UNKNOWN


def limited_by(address: str) -> str:
    """What is counted together: an IPv4 address, or an IPv6 site."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, IPV6_SITE), strict=False))


def _read(text: str) -> str | None:
    """An address in its canonical form, without port and zone; None: it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None
