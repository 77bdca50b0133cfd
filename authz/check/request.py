"""The parts of Envoy's CheckRequest that a decision rests on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

OWN_HEADER_PREFIX = "x-authz-"
"""Headers that only authz may set. Whatever a client sends under this prefix is removed."""

REQUEST_ID_HEADER = "x-request-id"
FORWARDED_PROTO_HEADER = "x-forwarded-proto"
"""By which protocol the client came, as Envoy saw it or believes the hop before."""

PROOF_HEADER = "dpop"
"""RFC 9449 section 4.1."""


class CheckRequest(Protocol):
    """One HTTP request, as Envoy describes it (AttributeContext.HttpRequest and Peer).

    Whoever implements it may work out each part only when it is asked for: to let a request
    through, the token and the route's extensions are all that is needed.
    """

    def header(self, name: str) -> tuple[str, ...]:
        """The values of the header of this lower-case name, bytes read as Latin-1, so nothing is
        lost. Where Envoy joined duplicates by commas there is one value.
        """
        ...

    @property
    def extensions(self) -> Mapping[str, str]:
        """`context_extensions` of the route."""
        ...

    @property
    def forged(self) -> tuple[str, ...]:
        """Names of the `x-authz-*` headers that the client sent, in lower case, each once."""
        ...

    @property
    def request_id(self) -> str:
        """`x-request-id`, else the id of Envoy's stream."""
        ...

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str:
        """Without the query string, which may hold secrets and is never logged."""
        ...

    @property
    def host(self) -> str: ...

    @property
    def scheme(self) -> str:
        """The URL's, as Envoy gives it in `:scheme`, which a client of HTTP/2 chooses."""
        ...

    @property
    def certificate(self) -> str:
        """The client's certificate as PEM in URL encoding; empty where it showed none, or where
        Envoy isn't told to pass it on (`include_peer_certificate`).
        """
        ...

    @property
    def source(self) -> str:
        """The client's address as Envoy saw it; empty where it gave none."""
        ...


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """A `CheckRequest` whose parts are given: one that no Envoy sent."""

    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extensions: Mapping[str, str] = field(default_factory=dict)
    forged: tuple[str, ...] = ()
    request_id: str = ""
    method: str = ""
    path: str = ""
    host: str = ""
    scheme: str = ""
    certificate: str = ""
    source: str = ""

    def header(self, name: str) -> tuple[str, ...]:
        return self.headers.get(name, ())
