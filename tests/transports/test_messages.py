"""What a CheckRequest is answered with doesn't depend on the transport.

`Pair.check` compares message by message: the CheckResponse, the gRPC status and its message, and
the headers that matter.
"""

import pytest
from envoy_data_plane.envoy.service.auth import v3 as auth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transports.conftest import revoke

from authz.envoy_api.grpc_calls import MAX_MESSAGE
from support.generated import check_requests, spoilt
from support.grpc import check_request, headers_of, status_of
from support.jwks import claims, rsa_key, sign
from support.sidecar import KID
from support.transports import (
    CAPTURED,
    Outcome,
    Pair,
    captured,
    encrypted,
    expired_token,
    good_token,
)

BAD_SIGNATURE = sign(claims(), rsa_key("attacker"), kid=KID)
TOKENS = [
    good_token(), good_token(scope="admin"), good_token(aud=["orders", "api"]), expired_token(),
    BAD_SIGNATURE, good_token(aud="another"), good_token(sub="Ren\u00e9"),
    encrypted(good_token()), encrypted(expired_token()), encrypted(encrypted(good_token())),
    encrypted(good_token(), headers={"zip": "DEF"}), encrypted("not.a.token"),
]  # fmt: skip
REFUSED = Outcome(grpc=13, text="not a CheckRequest")

many = settings(
    max_examples=250,
    deadline=None,
    # The fixture is a pair of servers, which examples don't change.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def response(outcome: Outcome) -> auth.CheckResponse:
    assert (outcome.http, outcome.grpc) == (200, 0)
    assert outcome.message is not None
    return auth.CheckResponse.parse(outcome.message)


# Captured


@pytest.fixture(scope="module")
def revoked(pair: Pair) -> str:
    token = good_token(sub="mallory")
    revoke(pair, token)
    return token


@pytest.mark.parametrize("name", CAPTURED)
def test_what_envoy_sent_is_answered_alike(pair: Pair, revoked: str, name: str) -> None:
    """Without a token that anybody signed, and with good and bad ones; each first and again, when
    it is known.
    """
    for token in (None, *TOKENS, good_token(), revoked):
        message = captured(name, token)
        first = pair.check(message)
        assert pair.check(message) == first
        response(first)


def test_the_tokens_are_what_they_are_called(pair: Pair, revoked: str) -> None:
    """Else the comparison above might compare one denial with itself."""
    statuses = {
        name: status_of(response(pair.check(captured("get", token))))
        for name, token in {
            "none": None,
            "good": good_token(),
            "revoked": revoked,
            "expired": expired_token(),
            "bad": BAD_SIGNATURE,
            "encrypted": encrypted(good_token()),
            "revoked and encrypted": encrypted(revoked),
        }.items()
    }
    assert statuses == {
        "none": 401, "good": 200, "revoked": 401, "expired": 401, "bad": 401,
        "encrypted": 200, "revoked and encrypted": 401,
    }  # fmt: skip
    allowed = response(pair.check(captured("forged", good_token())))
    assert headers_of(allowed)["x-authz-decision"] == "allow"


# Generated


@many
@given(message=check_requests(TOKENS))
def test_any_request_is_answered_alike(pair: Pair, message: bytes) -> None:
    response(pair.check(message))


@many
@given(message=spoilt(check_requests(TOKENS)))
def test_what_is_no_request_is_refused_alike(pair: Pair, message: bytes) -> None:
    """Or answered, where the damage left a CheckRequest."""
    outcome = pair.check(message)
    assert outcome == REFUSED or response(outcome)


@many
@given(name=st.sampled_from(CAPTURED), data=st.data())
def test_what_envoy_sent_is_refused_alike_where_it_is_damaged(
    pair: Pair, name: str, data: st.DataObject
) -> None:
    outcome = pair.check(data.draw(spoilt(st.just(captured(name, TOKENS[0])))))
    assert outcome == REFUSED or response(outcome)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, None),
        (1, REFUSED),
        (2**14, REFUSED),  # a frame
        (2**16, REFUSED),  # a window
        (MAX_MESSAGE, REFUSED),
    ],
)
def test_a_message_of_any_size_is_read_to_its_end(
    pair: Pair, size: int, expected: Outcome | None
) -> None:
    """Its last byte spoils it. Nothing at all is a CheckRequest without a token."""
    outcome = pair.check(b"\x0a" * (size - 1) + b"\xff" if size else b"")
    assert outcome == expected or status_of(response(outcome)) == 401


@pytest.mark.parametrize("size", [2**14 - 200, 2**14, 2**16, 2**20, MAX_MESSAGE - 2000])
def test_a_large_request_is_answered_alike(pair: Pair, size: int) -> None:
    """As with `with_request_body`: the token is found, whatever else there is."""
    message = bytes(check_request(token=TOKENS[0], headers={"x-large": "v" * size}))
    assert status_of(response(pair.check(message))) == 200
