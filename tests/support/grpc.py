"""A grpcio client of a sidecar: Check, with messages of Envoy's own types, and health."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import grpc
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.type import v3 as envoy_type
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.capture import METHOD

CHECK_SERVICE = "envoy.service.auth.v3.Authorization"


def check_request(
    *,
    headers: Mapping[str, str] | None = None,
    raw_headers: list[tuple[str, bytes]] | None = None,
    token: str | None = None,
    method: str = "GET",
    path: str = "/",
    host: str = "app.example",
    extensions: Mapping[str, str] | None = None,
    source: str = "127.0.0.1",
    request_id: str = "1234567890",
    scheme: str = "http",
    certificate: str = "",
) -> auth.CheckRequest:
    """A CheckRequest as Envoy makes them. `raw_headers` go into `header_map`, as Envoy does with
    `encode_raw_headers`, and `headers` into the map; `token` is an authorization header in the map.
    """
    values = dict(headers or {})
    if token is not None:
        values["authorization"] = f"Bearer {token}"
    http = auth.AttributeContextHttpRequest(
        id=request_id, method=method, headers=values, path=path, host=host, size=-1,
        protocol="HTTP/1.1", scheme=scheme,
    )  # fmt: skip
    if raw_headers is not None:
        http.header_map = core.HeaderMap(
            headers=[core.HeaderValue(key=key, raw_value=value) for key, value in raw_headers]
        )
    address = core.Address(socket_address=core.SocketAddress(address=source, port_value=54321))
    return auth.CheckRequest(
        attributes=auth.AttributeContext(
            source=auth.AttributeContextPeer(address=address, certificate=certificate),
            request=auth.AttributeContextRequest(http=http),
            context_extensions=dict(extensions or {}),
        )
    )


class CheckClient:
    """Asks a sidecar at `address` (`unix:/path` or `host:port`). Blocking; may be used by threads.

    Errors are `grpc.RpcError`.
    """

    def __init__(self, address: str, *, timeout: float = 10.0) -> None:
        self._timeout = timeout
        # A channel of its own: grpcio shares connections between channels of equal options.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._check: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        self._check = self._channel.unary_unary(METHOD)
        self._health = health_pb2_grpc.HealthStub(self._channel)  # type: ignore[no-untyped-call]

    def check_bytes(self, request: bytes, *, timeout: float | None = None) -> bytes:
        """Any bytes as the message, and the response's bytes."""
        answer: bytes = self._check(request, timeout=timeout or self._timeout)
        return answer

    def check(self, request: auth.CheckRequest | None = None, **fields: Any) -> auth.CheckResponse:
        """`fields` are `check_request`'s, for when no message is given."""
        message = bytes(request or check_request(**fields))
        return auth.CheckResponse.parse(self.check_bytes(message))

    def health(self, service: str = CHECK_SERVICE) -> str:
        """`SERVING`, `NOT_SERVING`, …"""
        answer = self._health.Check(
            health_pb2.HealthCheckRequest(service=service), timeout=self._timeout
        )
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def watch_health(self, service: str = CHECK_SERVICE) -> Iterator[str]:
        """The states as the server reports them, the present one first. Ends with the server."""
        for answer in self._health.Watch(health_pb2.HealthCheckRequest(service=service)):
            yield str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def status_of(response: auth.CheckResponse) -> int:
    """The HTTP status that Envoy makes of it: 200 where it lets the request through."""
    if response.status is None or response.status.code == 0:
        return 200
    denied = response.denied_response
    if denied is None or denied.status is None:
        return 403
    return int(denied.status.code or envoy_type.StatusCode.Forbidden)


def headers_of(response: auth.CheckResponse) -> dict[str, str]:
    """The headers that it sets: on the request to the upstream, or on the denial. None twice."""
    part = response.ok_response or response.denied_response
    options = part.headers if part is not None else []
    pairs = [(one.header.key, one.header.value) for one in options if one.header is not None]
    headers = dict(pairs)
    assert len(headers) == len(pairs), f"a header is set twice: {pairs}"
    return headers
