"""Bytes of a CheckRequest in, bytes of a CheckResponse out; Envoy's own types are the oracle."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from check.challenge import parse_challenge
from check.model import plain_answer
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.service.auth import v3 as auth
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.check.request import PlainRequest
from authz.check.token import Identity
from authz.check.verdict import (
    Decision,
    Reason,
    Verdict,
    allow,
    allow_anonymous,
    allow_fail_open,
    deny,
)
from authz.envoy_api import check_pb2 as pb
from authz.envoy_api import codec
from authz.envoy_api.codec import OWN_HEADERS, MalformedRequestError, encode
from authz.envoy_api.request import MAX_REQUEST_ID, EnvoyRequest
from authz.revocation.record import TokenRef
from support.grpc import check_request, headers_of, status_of

REF = TokenRef("user", "tid", 1, 1, 2)
ALICE = Identity("https://issuer.example", "alice", "jti-1", ("read", "write"), ("api",), REF)
NOBODY_SPECIAL = Identity("https://issuer.example", "bob", "jti-2", (), ("api",), REF)

DENIALS = [reason for reason in Reason if reason.value.status != 200]
ALLOWED = {
    "allow": allow(ALICE),
    "allow without scopes": allow(NOBODY_SPECIAL),
    "anonymous": allow_anonymous(),
    "fail-open": allow_fail_open(ALICE),
}


def decode(**fields: Any) -> EnvoyRequest:
    return codec.decode(bytes(check_request(**fields)))


def parts(request: EnvoyRequest, *headers: str) -> PlainRequest:
    """All of it, of the headers these."""
    return PlainRequest(
        headers={name: request.header(name) for name in headers},
        extensions=dict(request.extensions),
        forged=request.forged,
        request_id=request.request_id,
        method=request.method,
        path=request.path,
        host=request.host,
        source=request.source,
    )


def answer(verdict: Verdict, *, forged: tuple[str, ...] = ()) -> auth.CheckResponse:
    """Our answer, as Envoy reads it."""
    request = PlainRequest(request_id="request-1", forged=forged)
    return auth.CheckResponse.parse(encode(verdict, request))


# Requests


def test_the_parts_of_a_request() -> None:
    request = decode(
        token="a.b.c",
        method="POST",
        path="/orders/7?token=secret",
        host="shop.example",
        source="192.0.2.7",
        extensions={"authz.scopes": "read"},
        request_id="stream-7",
    )
    assert parts(request, "authorization", "cookie") == PlainRequest(
        headers={"authorization": ("Bearer a.b.c",), "cookie": ()},
        extensions={"authz.scopes": "read"},
        request_id="stream-7",
        method="POST",
        path="/orders/7",
        host="shop.example",
        source="192.0.2.7",
    )


def test_the_query_is_not_kept() -> None:
    assert decode(path="/a?token=secret?b").path == "/a"
    assert decode(path="?secret").path == ""


def test_the_request_id_is_the_headers_else_the_streams() -> None:
    assert decode(headers={"x-request-id": "r"}, request_id="s").request_id == "r"
    assert decode(raw_headers=[("x-request-id", b"r")], request_id="s").request_id == "r"
    assert decode(headers={"x-request-id": ""}, request_id="s").request_id == "s"
    assert decode(request_id="s").request_id == "s"


def test_a_request_id_that_a_client_made_large_is_cut() -> None:
    """It is repeated in bodies and records."""
    assert len(decode(headers={"x-request-id": "r" * 60_000}).request_id) == MAX_REQUEST_ID


def test_raw_headers_keep_duplicates_in_their_order() -> None:
    request = decode(
        raw_headers=[("authorization", b"one"), ("cookie", b"a=1"), ("authorization", b"two")]
    )
    assert request.header("authorization") == ("one", "two")
    assert request.header("cookie") == ("a=1",)
    assert request.header("accept") == ()


def test_raw_bytes_are_read_as_latin_1_so_that_nothing_is_lost() -> None:
    request = decode(raw_headers=[("authorization", bytes(range(0x20, 0x100)))])
    assert request.header("authorization")[0].encode("latin-1") == bytes(range(0x20, 0x100))


def test_a_header_maps_value_counts_where_there_is_no_raw_value() -> None:
    http = auth.AttributeContextHttpRequest(
        header_map=core.HeaderMap(headers=[core.HeaderValue(key="Authorization", value="Bearer a")])
    )
    message = auth.CheckRequest(
        attributes=auth.AttributeContext(request=auth.AttributeContextRequest(http=http))
    )
    assert codec.decode(bytes(message)).header("authorization") == ("Bearer a",)


HEADERS = ["authorization", "cookie", "x-request-id", "accept", "x-authz-subject", "x_authz_scopes"]
header_names = st.sampled_from(HEADERS)
ascii_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)


@settings(deadline=None)
@given(st.dictionaries(header_names, ascii_values, min_size=1))
def test_joined_and_raw_headers_read_alike(headers: dict[str, str]) -> None:
    raw = [(name, value.encode()) for name, value in headers.items()]
    joined_request, raw_request = decode(headers=headers), decode(raw_headers=raw)
    joined_parts, raw_parts = parts(joined_request, *HEADERS), parts(raw_request, *HEADERS)
    assert sorted(joined_parts.forged) == sorted(raw_parts.forged)
    assert replace(joined_parts, forged=()) == replace(raw_parts, forged=())


FORGED = [
    "x-authz-subject",
    "x-authz-decision",
    "x-authz-anything",
    "x-authz-",
    "x_authz_subject",
    "x-authz_subject",
    "x_authz-token_id",
]
INNOCENT = ["x-authz", "x-authzed", "x-auth-subject", "authz-subject", "xx-authz-subject", ""]


@pytest.mark.parametrize("name", FORGED)
def test_our_headers_are_noticed_in_a_clients_request(name: str) -> None:
    """Underscores too: servers of the CGI family don't tell the two apart."""
    assert decode(headers={name: "root", "accept": "*/*"}).forged == (name,)
    assert decode(raw_headers=[(name, b"root"), ("accept", b"*/*")]).forged == (name,)
    assert decode(raw_headers=[(name.title(), b"a"), (name, b"b")]).forged == (name,)


@settings(deadline=None)
@given(st.lists(st.text("xauthz-_XAd", max_size=12) | st.sampled_from(FORGED), unique=True))
def test_among_any_names_ours_are_noticed(names: list[str]) -> None:
    """By a plain look at each."""
    ours = {name for name in names if name.replace("_", "-").startswith("x-authz-")}
    assert set(decode(headers=dict.fromkeys(names, "a")).forged) == ours
    raw = {name.lower() for name in names}
    ours = {name for name in raw if name.replace("_", "-").startswith("x-authz-")}
    forged = decode(raw_headers=[(name, b"a") for name in names]).forged
    assert len(forged) == len(ours)
    assert set(forged) == ours


@pytest.mark.parametrize("name", INNOCENT)
def test_other_headers_are_not_ours(name: str) -> None:
    assert decode(headers={name: "x"}).forged == ()
    assert decode(raw_headers=[(name, b"x")]).forged == ()


def test_an_empty_message_is_a_request_without_anything() -> None:
    assert parts(codec.decode(b"")) == PlainRequest()


def test_a_path_that_is_not_utf8_is_read() -> None:
    message = pb.CheckRequest()
    message.attributes.request.http.path = b"/\xff\xfe?x"
    message.attributes.request.http.host = b"\xff"
    message.attributes.request.http.method = b"G\xffT"
    request = codec.decode(message.SerializeToString())
    assert (request.path, request.host, request.method) == ("/\ufffd\ufffd", "\ufffd", "G\ufffdT")


@pytest.mark.parametrize("data", [b"\x00", b"\x0a\xff", b"\x0a\x05abc", b"\xff" * 20, b"GET / HT"])
def test_what_is_no_message_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        codec.decode(data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        request = codec.decode(data)
    except MalformedRequestError:
        return
    assert encode(allow_anonymous(), request)
    assert encode(deny(Reason.TOKEN_MISSING), request)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.binary(max_size=4), st.integers(0, 3))
def test_a_damaged_request_is_read_or_refused(position: int, patch: bytes, cut: int) -> None:
    data = bytes(check_request(token="a.b.c", extensions={"authz.mode": "optional"}))
    position %= len(data)
    damaged = data[:position] + patch + data[position + cut :]
    with suppress(MalformedRequestError):
        codec.decode(damaged)


# Answers that let through


def test_an_allowed_request_carries_its_identity() -> None:
    response = answer(allow(ALICE))
    assert status_of(response) == 200
    assert headers_of(response) == {
        "x-authz-subject": "alice",
        "x-authz-issuer": "https://issuer.example",
        "x-authz-token-id": "jti-1",
        "x-authz-scopes": "read write",
        "x-authz-decision": "allow",
    }


def test_failing_open_says_so() -> None:
    headers = headers_of(answer(allow_fail_open(ALICE)))
    assert headers["x-authz-decision"] == "fail-open"
    assert headers["x-authz-subject"] == "alice"


def test_an_anonymous_request_carries_the_decision_only() -> None:
    response = answer(allow_anonymous())
    assert headers_of(response) == {"x-authz-decision": "allow"}
    assert response.ok_response is not None
    assert set(response.ok_response.headers_to_remove) == set(OWN_HEADERS) - {"x-authz-decision"}


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("forged", [(), tuple(FORGED)], ids=["honest", "forged"])
def test_every_header_of_ours_is_set_or_removed(name: str, forged: tuple[str, ...]) -> None:
    """Whatever the client sent: not one of its own survives."""
    response = answer(ALLOWED[name], forged=forged)
    assert response.ok_response is not None
    removed = response.ok_response.headers_to_remove
    kept = headers_of(response)
    assert len(set(removed)) == len(removed)
    assert {*OWN_HEADERS, *forged} == {*removed, *kept}
    assert not set(removed) & set(kept)
    assert all(kept.values()), "Envoy drops a header without a value, and the client's would stay"


every_answer = pytest.mark.parametrize(
    "verdict",
    [
        *ALLOWED.values(),
        *(deny(reason, detail="needs a b") for reason in DENIALS),
        *(deny(reason, identity=ALICE) for reason in DENIALS),
    ],
    ids=lambda verdict: f"{verdict.decision}-{verdict.reason}",
)


@every_answer
def test_every_header_overwrites_and_has_its_value_in_value(verdict: Verdict) -> None:
    """Without `append_action` Envoy would append ours to the client's."""
    response = answer(verdict, forged=("x-authz-subject",))
    part = response.ok_response or response.denied_response
    assert part is not None
    assert part.headers
    for option in part.headers:
        action = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
        assert option.append_action is action
        assert option.append is None
        assert option.header is not None
        assert option.header.value
        assert not option.header.raw_value
        assert option.header.key == option.header.key.lower()


identities = st.builds(
    Identity,
    issuer=st.just("https://issuer.example"),
    subject=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    token_id=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20),
    scopes=st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(tuple),
    audiences=st.just(("api",)),
    ref=st.just(REF),
)


@settings(deadline=None)
@given(identities)
def test_an_identity_arrives_as_it_is(identity: Identity) -> None:
    response = answer(allow(identity))
    headers = headers_of(response)
    assert headers["x-authz-subject"] == identity.subject
    assert headers["x-authz-token-id"] == identity.token_id
    assert headers.get("x-authz-scopes", "") == " ".join(identity.scopes)
    assert metadata(response)["subject"] == identity.subject


verdicts = st.builds(allow, identities) | st.sampled_from(list(ALLOWED.values()))


@settings(deadline=None)
@given(st.lists(st.tuples(verdicts, st.lists(st.sampled_from(FORGED), unique=True)), max_size=6))
def test_no_answer_holds_anything_of_another(asked: list[tuple[Verdict, list[str]]]) -> None:
    """Forms are filled in and answers kept: each must be as if it were the only one."""
    for verdict, forged in [*asked, *asked]:
        data = encode(verdict, PlainRequest(forged=tuple(forged)))
        assert pb.CheckResponse.FromString(data) == plain_answer(verdict, tuple(forged))


def test_a_verdict_that_is_kept_is_encoded_once() -> None:
    verdict = allow(ALICE)
    first = encode(verdict, PlainRequest())
    assert encode(verdict, PlainRequest(forged=("x-authz-x",))) != first
    assert encode(verdict, PlainRequest(request_id="other")) is first
    assert verdict == allow(ALICE)


def test_answers_leave_no_memory_behind() -> None:
    """A protobuf message that is filled in again keeps what it was filled with before."""

    def encode_many() -> None:
        for number in range(10_000):
            request = PlainRequest(request_id=f"{number:0128}")
            encode(deny(Reason.TOKEN_REVOKED, identity=ALICE), request)
            encode(allow(ALICE), request)

    encode_many()
    before = resident()
    encode_many()
    assert resident() - before < 1_000_000


def resident() -> int:
    """Bytes of this process (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_an_allow_may_tell_the_client_something_which_the_upstream_is_not_told() -> None:
    response = answer(allow(ALICE, (("dpop-nonce", "n"),)))
    assert response.ok_response is not None
    (told,) = response.ok_response.response_headers_to_add
    assert told.header is not None
    assert (told.header.key, told.header.value) == ("dpop-nonce", "n")
    assert "dpop-nonce" not in headers_of(response)


# Answers that deny


@pytest.mark.parametrize("reason", DENIALS, ids=str)
def test_a_denial_has_its_status_reason_and_headers(reason: Reason) -> None:
    response = answer(deny(reason))
    assert response.status is not None
    assert response.status.code == 7
    assert response.ok_response is None
    assert response.denied_response is not None
    assert status_of(response) == reason.value.status
    assert json.loads(response.denied_response.body)["reason"] == str(reason)
    headers = headers_of(response)
    assert headers["content-type"] == "application/json"
    if reason.value.status in {401, 403}:
        assert parse_challenge(headers["www-authenticate"])[0] in {"Bearer", "DPoP"}
    if reason.value.status == 503:
        assert headers["retry-after"] == "1"


def test_a_denial_may_tell_more_in_headers_which_the_next_one_does_not_repeat() -> None:
    """As a nonce, which is another each time, beside a form that is kept."""
    for nonce in ("one", "two"):
        response = answer(deny(Reason.NONCE_REQUIRED, headers=(("dpop-nonce", nonce),)))
        assert headers_of(response)["dpop-nonce"] == nonce
    assert "dpop-nonce" not in headers_of(answer(deny(Reason.NONCE_REQUIRED)))


def test_a_denial_names_the_request() -> None:
    response = answer(deny(Reason.TOKEN_REVOKED, identity=ALICE))
    assert response.denied_response is not None
    assert json.loads(response.denied_response.body) == {
        "error": "invalid_token",
        "reason": "token_revoked",
        "error_description": "the token was revoked",
        "request_id": "request-1",
    }


def test_a_denial_tells_the_client_nothing_of_the_identity() -> None:
    """But the access log gets it."""
    data = encode(
        deny(Reason.INSUFFICIENT_SCOPE, identity=ALICE),
        PlainRequest(request_id="r"),
    )
    response = auth.CheckResponse.parse(data)
    assert b"alice" not in bytes(response.denied_response or auth.DeniedHttpResponse())
    assert metadata(response)["subject"] == "alice"


@settings(deadline=None)
@given(st.text(max_size=50))
def test_no_request_id_breaks_an_answer(request_id: str) -> None:
    request = PlainRequest(request_id=request_id)
    response = auth.CheckResponse.parse(encode(deny(Reason.TOKEN_MISSING), request))
    assert response.denied_response is not None
    assert json.loads(response.denied_response.body)["request_id"] == request_id


# What the access log gets


def metadata(response: auth.CheckResponse) -> Mapping[str, Any]:
    assert response.dynamic_metadata is not None
    values: dict[str, Any] = response.dynamic_metadata.to_dict()
    return values


@pytest.mark.parametrize("name", ALLOWED)
def test_the_metadata_of_an_allowed_request(name: str) -> None:
    verdict = ALLOWED[name]
    values = metadata(answer(verdict))
    assert values["decision"] == str(verdict.decision)
    assert values["reason"] == str(verdict.reason)
    named = {"subject", "issuer", "token_id", "scopes"}
    assert set(values) - {"decision", "reason"} == (named if verdict.identity else set())


def test_the_metadata_of_a_denial() -> None:
    anonymous = metadata(answer(deny(Reason.TOKEN_EXPIRED)))
    assert anonymous == {"decision": "deny", "reason": "token_expired"}
    known = metadata(answer(deny(Reason.TOKEN_REVOKED, identity=ALICE)))
    assert known == {
        "decision": str(Decision.DENY),
        "reason": "token_revoked",
        "subject": "alice",
        "issuer": "https://issuer.example",
        "token_id": "jti-1",
        "scopes": "read write",
    }
