"""Bytes of a CheckRequest in, bytes of a CheckResponse out.

What Envoy expects of a response (envoy.service.auth.v3, seen on 1.40): `status.code` 0 allows, and
anything else denies with 403 unless `denied_response.status` says otherwise; a header without
`append_action` is appended beside the client's own, so it is always set; values go in `value`.
"""

from collections.abc import Collection
from functools import cache, lru_cache
from itertools import compress

from google.protobuf.message import DecodeError

from authz.check.request import CheckRequest
from authz.check.token import Identity
from authz.check.verdict import DENIALS_KEPT, Decision, Reason, Verdict, denial
from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.request import EnvoyRequest

OK = 0
PERMISSION_DENIED = 7
"""google.rpc.Code: any but OK denies; the HTTP status is said separately."""

IDENTITY_HEADERS = ("x-authz-subject", "x-authz-issuer", "x-authz-token-id", "x-authz-scopes")
DECISION_HEADER = "x-authz-decision"
OWN_HEADERS = (*IDENTITY_HEADERS, DECISION_HEADER)
IDENTITY_METADATA = ("subject", "issuer", "token_id", "scopes")
"""The same four of an identity, for access logs."""


class MalformedRequestError(Exception):
    """The bytes are not a CheckRequest."""


def decode(data: bytes) -> EnvoyRequest:
    """MalformedRequestError: `data` is no CheckRequest."""
    try:
        return EnvoyRequest(pb.CheckRequest.FromString(data))
    except DecodeError as error:
        raise MalformedRequestError("not a CheckRequest") from error


def encode(verdict: Verdict, request: CheckRequest) -> bytes:
    """The CheckResponse of a verdict."""
    if verdict.decision is Decision.DENY:
        return _denied(verdict, request.request_id)
    forged = request.forged
    if forged:
        return _allowed(verdict, forged)
    return verdict.encoded or verdict.keep(_allowed(verdict, ()))


def _allowed(verdict: Verdict, forged: Collection[str]) -> bytes:
    texts = _texts(verdict.identity)
    form = _allow_form(verdict.decision, verdict.reason, tuple(map(bool, texts)))
    response = pb.CheckResponse.FromString(form)
    # The form has a header for each text that isn't empty, and behind them that of the decision.
    for option, text in zip(response.ok_response.headers, filter(None, texts), strict=False):
        option.header.value = text.encode()
    if forged:
        response.ok_response.headers_to_remove.extend(sorted({*forged}.difference(OWN_HEADERS)))
    for name, value in verdict.headers:
        _overwrite(response.ok_response.response_headers_to_add.add(), name, value)
    return _finish(response, texts)


def _denied(verdict: Verdict, request_id: str) -> bytes:
    form = _deny_form(verdict.reason, verdict.detail, verdict.identity is not None)
    response = pb.CheckResponse.FromString(form)
    response.denied_response.body = denial(verdict.reason, verdict.detail).body(request_id)
    for name, value in verdict.headers:
        _overwrite(response.denied_response.headers.add(), name, value)
    return _finish(response, _texts(verdict.identity))


def _finish(response: pb.CheckResponse, texts: Collection[str]) -> bytes:
    if texts:
        fields = response.dynamic_metadata.fields
        for name, text in zip(IDENTITY_METADATA, texts, strict=True):
            fields[name].string_value = text
    return response.SerializeToString()


# Forms: responses in which only values are left to fill in, which takes a quarter of the time that
# it takes to make the many small messages of one. They are bytes, because a message that is filled
# in again and again keeps the memory of every value that it ever had (upb's arenas).


@cache
def _allow_form(decision: Decision, reason: Reason, present: tuple[bool, ...]) -> bytes:
    """`present`: which of the `_texts` aren't empty. Only headers with a value: Envoy drops empty
    ones, and the client's own would survive.
    """
    response = _form(decision, reason, identified=bool(present))
    names = list(compress(IDENTITY_HEADERS, present))
    response.status.code = OK
    for name in names:
        _overwrite(response.ok_response.headers.add(), name, "")
    _overwrite(response.ok_response.headers.add(), DECISION_HEADER, str(decision))
    absent = (name for name in IDENTITY_HEADERS if name not in names)
    response.ok_response.headers_to_remove.extend(absent)
    return response.SerializeToString()


@lru_cache(DENIALS_KEPT)
def _deny_form(reason: Reason, detail: str, identified: bool) -> bytes:
    response = _form(Decision.DENY, reason, identified=identified)
    answer = denial(reason, detail)
    response.status.code = PERMISSION_DENIED
    response.denied_response.status.code = answer.status
    for name, value in answer.headers:
        _overwrite(response.denied_response.headers.add(), name, value)
    return response.SerializeToString()


def _form(decision: Decision, reason: Reason, *, identified: bool) -> pb.CheckResponse:
    """With metadata for access logs: `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%`."""
    response = pb.CheckResponse()
    fields = response.dynamic_metadata.fields
    fields["decision"].string_value = str(decision)
    fields["reason"].string_value = str(reason)
    for name in IDENTITY_METADATA if identified else ():
        fields[name].string_value = ""
    return response


def _texts(identity: Identity | None) -> tuple[str, ...]:
    """What is said of an identity, in the order of IDENTITY_HEADERS; of none: nothing."""
    if identity is None:
        return ()
    return (identity.subject, identity.issuer, identity.token_id, " ".join(identity.scopes))


def _overwrite(option: pb.HeaderValueOption, name: str, value: str) -> None:
    option.header.key = name
    option.header.value = value.encode()
    option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
