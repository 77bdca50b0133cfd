"""The ext_authz and health services on grpcio's asyncio server."""

import asyncio
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.service import AUTHORIZATION_SERVICE, CheckService
from authz.observe import events
from authz.settings import SettingsError, split_host_port

SOCKET_MODE = 0o660
"""Envoy runs as another user of the same group; nobody else may ask, or listen in our place."""

MAX_SOCKET_PATH = 107
"""Bytes: Linux' `sun_path` has 108, the last of which is a zero (unix(7))."""

MAX_CONCURRENT_CHECKS = 8192
"""Twice the 4,096 requests that Envoy's circuit breaker allows a cluster in the configs we ship.
Beyond it a check gets RESOURCE_EXHAUSTED at once, so memory stays bounded."""

_OPTIONS = (
    # A second sidecar on the same port must fail to start, not share the connections.
    ("grpc.so_reuseport", 0),
    # Envoy's `connection_keepalive` pings idle connections; grpcio's default would answer the
    # third such ping with GOAWAY ENHANCE_YOUR_CALM.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)

_HEALTH_OF = frozenset({"", AUTHORIZATION_SERVICE})
"""What `grpc.health.v1` may be asked about: the server as a whole, and the service."""

log = structlog.get_logger(__name__)


class GrpcioServer:
    """Serves a `CheckService` at the configured addresses."""

    def __init__(self, service: CheckService, listen: Sequence[str]) -> None:
        """`listen`: `unix:/path` and `host:port`. Must be made in a running loop."""
        self._service = service
        self._listen = tuple(listen)
        self._server = grpc.aio.server(
            options=_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_CHECKS
        )
        # No (de)serializer: bytes in, bytes out.
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._check
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(AUTHORIZATION_SERVICE, {"Check": handler}),)
        )
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(  # type: ignore[no-untyped-call]
            self._health, self._server
        )

    async def start(self) -> None:
        """Listen and serve. SettingsError: an address can't be had."""
        for address in self._listen:  # all of them first: a failed start leaves nothing behind
            if address.startswith("unix:"):
                _make_way(Path(address.removeprefix("unix:")))
            else:
                _require_free(address)
        for address in self._listen:
            self._bind(address)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Say NOT_SERVING and GOAWAY, let checks in flight finish for `grace` seconds, close."""
        self._health.end()
        # Once and no more: grpcio crashes when a second `stop` meets the end of the first.
        await self._server.stop(grace)
        for address in self._listen:
            if address.startswith("unix:"):
                _remove(address.removeprefix("unix:"))

    def _bind(self, address: str) -> None:
        # The socket must never exist with wider rights, not even for a moment.
        old = os.umask(0o777 & ~SOCKET_MODE)
        try:
            self._server.add_insecure_port(address)
        except RuntimeError:
            raise SettingsError(f"listen: {address}: can't be bound; is it in use?") from None
        finally:
            os.umask(old)

    async def _check(self, data: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
        try:
            answer = self._service.check(data)
            return answer if isinstance(answer, bytes) else await answer
        except MalformedRequestError as error:
            # What gRPC servers say when a message can't be parsed (gRPC status codes).
            await context.abort(grpc.StatusCode.INTERNAL, str(error))
        except Exception:
            log.exception(events.CHECK_FAILED)
            await context.abort(grpc.StatusCode.INTERNAL, "the check failed")


class _Health(health_pb2_grpc.HealthServicer):
    """`grpc.health.v1`: serving from the first call to the end, of the server and of the service.

    Unlike the servicer that comes with grpcio, its watches end with the server. There they never
    do, and so would hold up the end of the server for the whole grace.
    """

    def __init__(self) -> None:
        self._status = health_pb2.HealthCheckResponse.SERVING
        self._ended = asyncio.Event()

    def end(self) -> None:
        """NOT_SERVING from now on; watchers are told, and their calls end."""
        self._status = health_pb2.HealthCheckResponse.NOT_SERVING
        self._ended.set()

    async def Check(  # noqa: N802  the method's name in the protocol
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in _HEALTH_OF:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        if request.service not in _HEALTH_OF:
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            await context.write(health_pb2.HealthCheckResponse(status=unknown))
            await self._ended.wait()
            return
        if not self._ended.is_set():
            await context.write(health_pb2.HealthCheckResponse(status=self._status))
            await self._ended.wait()
        await context.write(health_pb2.HealthCheckResponse(status=self._status))


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    """Remove a socket that a dead process left. SettingsError: somebody lives there."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SettingsError(f"listen: unix:{path}: is longer than {MAX_SOCKET_PATH} bytes")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SettingsError(f"listen: unix:{path}: {path.parent} does not exist") from None
        return
    except OSError as error:
        raise SettingsError(f"listen: unix:{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"listen: unix:{path}: is not a socket; remove it or choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(f"listen: unix:{path}: {error.strerror}") from None
        else:
            raise SettingsError(f"listen: unix:{path}: another process is listening there")


def _require_free(address: str) -> None:
    """Try the port first: grpcio's own error doesn't say why."""
    host, port = split_host_port(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        raise SettingsError(f"listen: {address}: {error.strerror}") from None
