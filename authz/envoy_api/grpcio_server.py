"""The ext_authz and health services on grpcio's asyncio server."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.health import HEALTH_OF
from authz.envoy_api.service import AUTHORIZATION_SERVICE
from authz.envoy_api.shared import MAX_CONCURRENT_CHECKS, Checks
from authz.envoy_api.sockets import UNIX, SocketFile, private_umask, require_free, unix_path
from authz.envoy_api.tls import server_context
from authz.observe import events
from authz.settings import ListenTlsSettings, SettingsError

_OPTIONS = (
    # A second sidecar on the same port must fail to start, not share the connections.
    ("grpc.so_reuseport", 0),
    # Envoy's `connection_keepalive` pings idle connections; grpcio's default would answer the
    # third such ping with GOAWAY ENHANCE_YOUR_CALM.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    # Only `identity` (the lowest bit): Envoy never compresses, and the native transport can't
    # decompress. A few bytes that become megabytes are of no use to anyone else.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)

log = structlog.get_logger(__name__)


class GrpcioServer:
    """Serves a `CheckService` at the configured addresses."""

    def __init__(
        self, service: Checks, listen: Sequence[str], *, tls: ListenTlsSettings | None = None
    ) -> None:
        """`listen`: `unix:/path` and `host:port`; `tls` is for the latter. Must be made in a
        running loop. SettingsError: the certificate, its key or the client CA can't be used.
        """
        self._service = service
        self._listen = tuple(listen)
        self._tls = tls
        self._certificates: Any = None if tls is None else _certificates(tls)
        """A grpc.ServerCertificateConfiguration: what handshakes should use,"""
        self._certificates_in_use = self._certificates
        """and what they do."""
        self._files: list[SocketFile] = []
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

    @property
    def counters(self) -> None:
        """None: grpcio tells nothing of the kind."""
        return None

    async def start(self) -> None:
        """Listen and serve. SettingsError: an address can't be had."""
        require_free(self._listen)  # all of them first: a failed start leaves nothing behind
        for address in self._listen:
            self._bind(address)
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Say NOT_SERVING and GOAWAY, let checks in flight finish for `grace` seconds, close."""
        self._health.end()
        # Once and no more: grpcio crashes when a second `stop` meets the end of the first.
        await self._server.stop(grace)
        for file in self._files:
            file.remove()

    def reload_tls(self) -> None:
        """Read the certificate files again, for connections from now on. Files that can't be used
        are logged, and the old ones stay in force.
        """
        if self._tls is None:
            return
        try:
            self._certificates = _certificates(self._tls)
        except SettingsError as error:
            log.warning(events.LISTEN_TLS_UNUSABLE, problem=str(error))

    def _bind(self, address: str) -> None:
        try:
            if address.startswith(UNIX):
                with private_umask():
                    self._server.add_insecure_port(address)
                with suppress(FileNotFoundError):
                    self._files.append(SocketFile.of(unix_path(address)))
            elif self._tls is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, self._credentials(self._tls))
        except RuntimeError:
            raise SettingsError(f"listen: {address}: can't be bound; is it in use?") from None

    def _credentials(self, tls: ListenTlsSettings) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._certificates,
            self._take_new_certificates,
            require_client_authentication=tls.client_ca_file is not None,
        )

    def _take_new_certificates(self) -> Any:
        """Called at each handshake, by a thread of grpcio; None: no others than before."""
        newest = self._certificates
        if newest is self._certificates_in_use:
            return None
        self._certificates_in_use = newest
        return newest

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
        if request.service not in HEALTH_OF:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> None:
        if request.service not in HEALTH_OF:
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            await context.write(health_pb2.HealthCheckResponse(status=unknown))
            await self._ended.wait()
            return
        if not self._ended.is_set():
            await context.write(health_pb2.HealthCheckResponse(status=self._status))
            await self._ended.wait()
        await context.write(health_pb2.HealthCheckResponse(status=self._status))


def _certificates(tls: ListenTlsSettings) -> Any:
    """A grpc.ServerCertificateConfiguration. SettingsError: a file can't be used."""
    server_context(tls)  # for its errors: grpcio finds out at the first handshake, and says less
    chain = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
    clients = None if tls.client_ca_file is None else tls.client_ca_file.read_bytes()
    return grpc.ssl_server_certificate_configuration([chain], root_certificates=clients)
