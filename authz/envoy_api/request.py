"""A CheckRequest as Envoy sent it, read as far as someone asks."""

from collections.abc import Mapping

from authz.check.request import OWN_HEADER_PREFIX, REQUEST_ID_HEADER
from authz.envoy_api import check_pb2 as pb

MAX_REQUEST_ID = 128
"""Characters kept of `x-request-id`, which a client may have chosen: answers and records repeat it.
A UUID, Envoy's own, has 36."""

_OWN_WORD = OWN_HEADER_PREFIX.removeprefix("x-").removesuffix("-")
"""In the name of each header of ours, however it is spelt."""


class EnvoyRequest:
    """A `authz.check.request.CheckRequest` on top of the message.

    Most requests are let through with a token that is known, and all that is needed for that is
    one header, the route's extensions, and that no header of ours is among theirs.
    """

    __slots__ = ("_attributes", "_headers", "_http", "_raw", "extensions")

    def __init__(self, message: pb.CheckRequest) -> None:
        self._attributes = attributes = message.attributes
        self._http = attributes.request.http
        self._headers = self._http.headers
        self.extensions: Mapping[str, str] = attributes.context_extensions
        # Envoy fills either; with `encode_raw_headers: true` it is the second.
        self._raw = None if self._headers else _by_name(self._http.header_map)

    def header(self, name: str) -> tuple[str, ...]:
        """As `CheckRequest.header`."""
        if self._raw is not None:
            return tuple([value.decode("latin-1") for value in self._raw.get(name, ())])
        # Not by `[]` alone, by which a protobuf map would get the name.
        return (self._headers[name].decode("latin-1"),) if name in self._headers else ()

    @property
    def forged(self) -> tuple[str, ...]:
        """As `CheckRequest.forged`."""
        names = self._headers if self._raw is None else self._raw
        # One search through all names costs less than a look at each.
        if _OWN_WORD not in "\n".join(names):
            return ()
        return tuple([name for name in names if _is_own(name)])

    @property
    def request_id(self) -> str:
        """As `CheckRequest.request_id`, and no longer than MAX_REQUEST_ID."""
        value = next(iter(self.header(REQUEST_ID_HEADER)), "") or self._http.id
        return value[:MAX_REQUEST_ID]

    @property
    def method(self) -> str:
        return _text(self._http.method)

    @property
    def path(self) -> str:
        """As `CheckRequest.path`."""
        return _text(self._http.path.partition(b"?")[0])

    @property
    def host(self) -> str:
        return _text(self._http.host)

    @property
    def scheme(self) -> str:
        """As `CheckRequest.scheme`."""
        return _text(self._http.scheme)

    @property
    def certificate(self) -> str:
        """As `CheckRequest.certificate`."""
        return _text(self._attributes.source.certificate)

    @property
    def source(self) -> str:
        """As `CheckRequest.source`."""
        return self._attributes.source.address.socket_address.address


def _by_name(header_map: pb.HeaderMap) -> dict[str, list[bytes]]:
    values: dict[str, list[bytes]] = {}
    for entry in header_map.headers:
        values.setdefault(entry.key.lower(), []).append(entry.raw_value or entry.value)
    return values


def _is_own(name: str) -> bool:
    # Servers of the CGI family read x_authz_subject and x-authz-subject as the same variable.
    return name[:1] == "x" and name.replace("_", "-").startswith(OWN_HEADER_PREFIX)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
