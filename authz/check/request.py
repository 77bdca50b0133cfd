"""The parts of Envoy's CheckRequest that a decision rests on."""

from collections.abc import Mapping
from dataclasses import dataclass

OWN_HEADER_PREFIX = "x-authz-"
"""Headers that only authz may set. Whatever a client sends under this prefix is removed."""

REQUEST_ID_HEADER = "x-request-id"


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """One HTTP request, as Envoy describes it (AttributeContext.HttpRequest and Peer)."""

    request_id: str
    """`x-request-id`, else the id of Envoy's stream."""
    method: str
    path: str
    """Without the query string, which may hold secrets and is never logged."""
    host: str
    source: str
    """The client's address as Envoy saw it; empty where it gave none."""
    headers: Mapping[str, tuple[str, ...]]
    """Lower-case name to values, for the headers that were asked for. Bytes read as Latin-1, so
    nothing is lost. Where Envoy joined duplicates by commas there is one value."""
    forged: tuple[str, ...]
    """Names of the `x-authz-*` headers that the client sent."""
    extensions: Mapping[str, str]
    """`context_extensions` of the route."""
