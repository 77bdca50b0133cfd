"""A gRPC server that keeps the bytes of every CheckRequest and lets everything through."""

from concurrent import futures
from pathlib import Path
from typing import Self

import grpc

METHOD = "/envoy.service.auth.v3.Authorization/Check"

OK_RESPONSE = bytes.fromhex("0a001a00")
"""CheckResponse {status: {} (code 0), ok_response: {}}."""


class CheckRecorder:
    """Answers on a Unix socket. `requests` has the raw messages, oldest first."""

    def __init__(self, socket_path: Path) -> None:
        self.address = f"unix:{socket_path}"
        self.requests: list[bytes] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((_Handler(self.requests),))
        self._server.add_insecure_port(self.address)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        del context
        self._requests.append(request)
        return OK_RESPONSE
