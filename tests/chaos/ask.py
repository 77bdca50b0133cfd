"""Asking a sidecar about a token, through Envoy or by gRPC, and reading what it decided."""

import json
from http.client import HTTPConnection, HTTPException
from typing import Protocol

import grpc
from chaos.evidence import UNANSWERED

from authz.envoy_api import check_pb2 as pb
from support.grpc import CheckClient
from support.ports import LOOPBACK

ANSWERED_WITHIN = 5.0
"""Seconds. Envoy gives up on the sidecar after 2."""


class Asker(Protocol):
    """Blocking, for one thread."""

    def ask(self, token: str, request_id: str, *, closed: bool) -> tuple[str, str]:
        """The decision, as in `evidence`, and the request id under which it was made; `closed`:
        on a route that fails closed.
        """
        ...

    def close(self) -> None: ...


class EnvoyAsker:
    """By HTTP, on a connection that is kept. Envoy gives each request an id of its own."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection(LOOPBACK, port, timeout=ANSWERED_WITHIN)

    def ask(self, token: str, request_id: str, *, closed: bool) -> tuple[str, str]:
        try:
            self._connection.request(
                "GET",
                "/closed" if closed else "/",
                headers={"authorization": f"Bearer {token}", "x-request-id": request_id},
            )
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, HTTPException):
            self._connection.close()
            return UNANSWERED, request_id
        if response.status == 200:  # the upstream's echo: what it was told of the decision
            told = dict(json.loads(body)["headers"])
            return told["x-authz-decision"], told["x-request-id"]
        if response.getheader("content-type") != "application/json":
            return UNANSWERED, request_id  # Envoy's own 503
        answer = json.loads(body)
        return answer["reason"], answer["request_id"]

    def close(self) -> None:
        self._connection.close()


class GrpcAsker:
    """By gRPC. A connection is made anew after an error, or gRPC would wait before it tries again
    to reach a sidecar that was restarted.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: CheckClient | None = None

    def ask(self, token: str, request_id: str, *, closed: bool) -> tuple[str, str]:
        request = pb.CheckRequest()
        http = request.attributes.request.http
        http.id, http.method, http.path, http.host = request_id, b"GET", b"/", b"app.example"
        http.headers["authorization"] = f"Bearer {token}".encode()
        if closed:
            request.attributes.context_extensions["authz.fail_mode"] = "closed"
        if self._client is None:
            self._client = CheckClient(self._address, timeout=ANSWERED_WITHIN)
        try:
            answer = self._client.check_bytes(request.SerializeToString())
        except grpc.RpcError:
            self.close()
            return UNANSWERED, request_id
        response = pb.CheckResponse.FromString(answer)
        if response.status.code == 0:
            told = {one.header.key: one.header.value for one in response.ok_response.headers}
            return told["x-authz-decision"].decode(), request_id
        return json.loads(response.denied_response.body)["reason"], request_id

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
