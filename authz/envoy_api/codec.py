"""Bytes of a CheckRequest in, bytes of a CheckResponse out.

What Envoy expects of a response (envoy.service.auth.v3, seen on 1.40): `status.code` 0 allows, and
anything else denies with 403 unless `denied_response.status` says otherwise; a header without
`append_action` is appended beside the client's own, so it is always set; values go in `value`.
"""

from collections.abc import Collection, Iterable, Mapping

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from authz.check.request import OWN_HEADER_PREFIX, REQUEST_ID_HEADER, CheckRequest
from authz.check.token import Identity
from authz.check.verdict import Decision, Verdict, denial
from authz.envoy_api import check_pb2 as pb

MAX_REQUEST_ID = 128
"""Characters kept of `x-request-id`, which a client may have chosen: answers and records repeat it.
A UUID, Envoy's own, has 36."""

OK = 0
PERMISSION_DENIED = 7
"""google.rpc.Code: any but OK denies; the HTTP status is said separately."""

IDENTITY_HEADERS = (
    "x-authz-subject",
    "x-authz-issuer",
    "x-authz-token-id",
    "x-authz-scopes",
)
DECISION_HEADER = "x-authz-decision"
OWN_HEADERS = (*IDENTITY_HEADERS, DECISION_HEADER)


class MalformedRequestError(Exception):
    """The bytes are not a CheckRequest."""


class RequestDecoder:
    """Reads the parts of CheckRequests that decisions need."""

    def __init__(self, wanted_headers: Collection[str]) -> None:
        """`wanted_headers`: lower-case names; of all others only forged `x-authz-*` are noticed."""
        self._wanted = frozenset(wanted_headers) | {REQUEST_ID_HEADER}

    def decode(self, data: bytes) -> CheckRequest:
        """MalformedRequestError: not a CheckRequest."""
        message = pb.CheckRequest()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise MalformedRequestError("not a CheckRequest") from error
        attributes = message.attributes
        http = attributes.request.http
        headers: dict[str, tuple[str, ...]] = {}
        if http.headers:
            names: Iterable[str] = http.headers
            for name in self._wanted:
                if name in http.headers:
                    headers[name] = (http.headers[name].decode("latin-1"),)
        else:  # encode_raw_headers: true
            names = []
            for entry in http.header_map.headers:
                name = entry.key.lower()
                names.append(name)
                if name in self._wanted:
                    value = (entry.raw_value or entry.value).decode("latin-1")
                    headers[name] = (*headers.get(name, ()), value)
        forged = tuple({name for name in names if _is_own(name)})
        request_id = next(iter(headers.get(REQUEST_ID_HEADER, ())), "") or http.id
        return CheckRequest(
            request_id=request_id[:MAX_REQUEST_ID],
            method=_text(http.method),
            path=_text(http.path.partition(b"?")[0]),
            host=_text(http.host),
            source=attributes.source.address.socket_address.address,
            headers=headers,
            forged=forged,
            extensions=dict(attributes.context_extensions),
        )


def _is_own(name: str) -> bool:
    # Servers of the CGI family read x_authz_subject and x-authz-subject as the same variable.
    return name[:1] == "x" and name.replace("_", "-").startswith(OWN_HEADER_PREFIX)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def encode(verdict: Verdict, request: CheckRequest) -> bytes:
    """The CheckResponse of a verdict."""
    response = pb.CheckResponse()
    identity = verdict.identity
    if verdict.decision is Decision.DENY:
        answer = denial(verdict, request.request_id)
        response.status.code = PERMISSION_DENIED
        response.denied_response.status.code = answer.status
        response.denied_response.body = answer.body
        for name, value in answer.headers:
            _overwrite(response.denied_response.headers.add(), name, value)
    else:
        response.status.code = OK
        values = {**_identity_headers(identity), DECISION_HEADER: str(verdict.decision)}
        for name, value in values.items():
            _overwrite(response.ok_response.headers.add(), name, value)
        gone = {*OWN_HEADERS, *request.forged} - values.keys()
        response.ok_response.headers_to_remove.extend(sorted(gone))
    _fill_metadata(response.dynamic_metadata, verdict)
    return response.SerializeToString()


def _identity_headers(identity: Identity | None) -> Mapping[str, str]:
    """Only headers with a value: Envoy drops empty ones, and the client's own would survive."""
    if identity is None:
        return {}
    values = (
        identity.subject,
        identity.issuer,
        identity.token_id,
        " ".join(identity.scopes),
    )
    return {name: value for name, value in zip(IDENTITY_HEADERS, values, strict=True) if value}


def _overwrite(option: pb.HeaderValueOption, name: str, value: str) -> None:
    option.header.key = name
    option.header.value = value.encode()
    option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def _fill_metadata(metadata: Struct, verdict: Verdict) -> None:
    """For access logs: `%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%` and so on."""
    fields = metadata.fields
    fields["decision"].string_value = str(verdict.decision)
    fields["reason"].string_value = str(verdict.reason)
    if verdict.identity is not None:
        fields["subject"].string_value = verdict.identity.subject
        fields["issuer"].string_value = verdict.identity.issuer
        fields["token_id"].string_value = verdict.identity.token_id
        fields["scopes"].string_value = " ".join(verdict.identity.scopes)
