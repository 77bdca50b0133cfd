"""Addresses as they stand in the settings: of stores, listeners and key sources.

Each function raises ValueError with a text that says what is wrong and repeats no password.
"""

import re
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

STORE_SCHEMES = ("memory", "redis", "rediss", "redis+cluster", "rediss+cluster")


class StoreUrlParts(NamedTuple):
    """The parts of a store's URL. `urllib` won't split one with several hosts in brackets."""

    scheme: str
    userinfo: str
    """`user:password` as they stand there, percent-encoded."""
    hosts: str
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        scheme, _, rest = url.partition("://")
        authority, _, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
        userinfo, _, hosts = authority.rpartition("@")
        return cls(scheme.lower(), userinfo, hosts, path)


def check_store_url(value: SecretStr) -> SecretStr:
    """Of `store.url`: the value, or ValueError, which repeats no password."""
    url = StoreUrlParts.of(value.get_secret_value())
    if url.scheme not in STORE_SCHEMES:
        # Not quoted where there is no `://`: the text before it may be anything.
        found = f"scheme {url.scheme!r}" if "://" in value.get_secret_value() else "the scheme"
        msg = f"{found} is unknown; use one of {', '.join(STORE_SCHEMES)}"
        raise ValueError(msg)
    if url.scheme == "memory":
        return value
    nodes = [node for node in url.hosts.split(",") if node]
    if not nodes:
        msg = "names no host; write it as redis://host:6379"
        raise ValueError(msg)
    if len(nodes) > 1 and "cluster" not in url.scheme:
        msg = f"{url.scheme}:// takes one host; write {url.scheme}+cluster:// for a cluster"
        raise ValueError(msg)
    for node in nodes:
        odd_brackets = re.search(r"[\[\]]", node) and not re.fullmatch(r"\[[^\[\]]+\](:\d+)?", node)
        if odd_brackets or (re.search(r":\d+$", node) and not _is_host_port(node)):
            # Not quoted: where a / or # in a password was left as it is, this is a part of it.
            raise ValueError(_HOST_PORT_HINT)
    database = url.path.strip("/")
    if database and (not database.isdecimal() or (int(database) and "cluster" in url.scheme)):
        msg = "the path is a database number, and a cluster has only 0"
        raise ValueError(msg)
    if "?" in value.get_secret_value() or "#" in value.get_secret_value():
        msg = f"takes no ?options; use the settings under store ({_HOST_PORT_HINT})"
        raise ValueError(msg)
    return value


_HOST_PORT_HINT = (
    "a host is host:port; a password in it is percent-encoded, or goes to store.password"
)


def _is_host_port(node: str) -> bool:
    try:
        split_host_port(node)
    except ValueError:
        return False
    return True


def check_listen_address(value: str) -> str:
    """`unix:/path` or `host:port`. ValueError says what is wrong."""
    if value.startswith("unix:"):
        if not value.removeprefix("unix:").startswith("/"):
            msg = f"{value!r}: write unix: and an absolute path, as in unix:/run/authz/authz.sock"
            raise ValueError(msg)
        return value
    split_host_port(value)
    return value


def split_host_port(value: str) -> tuple[str, int]:
    """`127.0.0.1:9191` or `[::1]:9191` as host and port. ValueError says what is wrong."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004
        msg = f"{value!r} is not host:port, as in 127.0.0.1:9191"
        raise ValueError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


def require_http_url(value: str) -> None:
    """ValueError: it isn't one."""
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        msg = "not an http(s) URL, as in https://host/path"  # unquoted: it may hold a password
        raise ValueError(msg)


_ORIGIN = re.compile(r"(https?)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_origin(value: str) -> str:
    """`https://app.example`, as browsers write it in `Origin` (RFC 6454 section 6.2): lower case,
    names in ASCII, and no port that is the scheme's own. ValueError: it isn't one.
    """
    origin = _ORIGIN.fullmatch(value.lower())
    if origin is None or int(origin[2] or 0) > 65535:  # noqa: PLR2004
        msg = f"{value!r} is no origin, as in https://app.example"
        raise ValueError(msg)
    return origin[0].removesuffix(_DEFAULT_PORTS[origin[1]])


def store_address(url: str) -> tuple[str, list[tuple[str, int]], int]:
    """Scheme, nodes as (host, port), and database number, of a checked store URL."""
    parts = StoreUrlParts.of(url)
    nodes = [
        split_host_port(node if re.search(r":\d+$", node) else f"{node}:6379")
        for node in parts.hosts.split(",")
        if node
    ]
    return parts.scheme, nodes, int(parts.path.strip("/") or 0)
