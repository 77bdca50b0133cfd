"""What is fuzzed: functions of arbitrary bytes that end, or raise AssertionError or worse.

`http2` is a script for a connection (`support.http2_driver`). `grpc` is a length, so much of a
header block, and a body. `check` is a CheckRequest.
"""

from collections.abc import Callable
from functools import cache

from check.fakes import KID, CountingRevocations, FakeKeys, FakeRecorder, make_verifier, public_keys

from authz.check.authorizer import Authorizer
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.policy import RoutePolicies
from authz.check.verdict import Verdict
from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.codec import MalformedRequestError
from authz.envoy_api.grpc_calls import read_call, read_message, write_message
from authz.envoy_api.http2.blocks import BlockReader
from authz.envoy_api.http2.errors import ConnectionFault
from authz.envoy_api.service import CheckService
from authz.settings import IssuerlessSettings
from authz.uses.ledger import Ledger
from support import http2_driver
from support.jwks import rsa_key


def http2(script: bytes) -> None:
    http2_driver.drive(script)


def grpc(data: bytes) -> None:
    size = data[0] if data else 0
    block, body = data[1 : 1 + size], data[1 + size :]
    try:
        head = BlockReader().read(block)
    except ConnectionFault:
        return
    call = read_call(head)
    assert (call.method is None) == (call.refusal is not None)
    assert call.timeout is None or call.timeout > 0
    message = read_message(body)
    if isinstance(message, bytes):
        assert write_message(message) == body


def check(data: bytes) -> None:
    try:
        answer = _service().check(data)
    except MalformedRequestError:
        return
    assert isinstance(answer, bytes)
    response = pb.CheckResponse.FromString(answer)
    allowed = response.status.code == 0
    assert response.WhichOneof("http_response") == ("ok_response" if allowed else "denied_response")
    assert response.dynamic_metadata.fields["decision"].string_value == (
        "allow" if allowed else "deny"
    )


@cache
def _service() -> CheckService:
    authorizer = Authorizer(
        credentials=CredentialFinder(["header:authorization", "cookie:__Host-access"]),
        verifier=make_verifier(FakeKeys(public_keys((rsa_key(), KID)))),
        revocations=CountingRevocations(),
        policies=RoutePolicies("open"),
        guards=all_guards(IssuerlessSettings()),
        ledger=Ledger(None),
        recorder=FakeRecorder(),
        clock=lambda: 1.8e9,
    )
    return CheckService(authorizer, _Uncounted())


class _Uncounted:
    def count(self, verdict: Verdict, seconds: float) -> None:
        pass


TARGETS: dict[str, Callable[[bytes], None]] = {"http2": http2, "grpc": grpc, "check": check}
