"""Reasons, and the HTTP answer that each becomes."""

import json
import re

import pytest
from check.challenge import parse_challenge

from authz.check.verdict import Decision, Reason, denial

ABOUT_POSSESSION = {
    Reason.SCHEME_MISMATCH, Reason.PROOF_MISSING, Reason.PROOF_INVALID, Reason.PROOF_REPLAYED,
    Reason.NONCE_REQUIRED,
}  # fmt: skip

DENIALS = [reason for reason in Reason if reason.value.status != 200]


def test_words_are_unique_and_fit_for_labels() -> None:
    words = [str(reason) for reason in Reason]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", word) for word in words)


def test_descriptions_may_stand_in_a_quoted_string() -> None:
    """RFC 6750 section 3: %x20-21 / %x23-5B / %x5D-7E."""
    for reason in Reason:
        assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", reason.value.description)


@pytest.mark.parametrize("reason", DENIALS, ids=str)
def test_a_denial_says_its_reason_in_the_body(reason: Reason) -> None:
    answer = denial(reason, "")
    body = json.loads(answer.body("request-1"))
    assert body["reason"] == str(reason)
    assert body["request_id"] == "request-1"
    assert body["error"] == (reason.value.error or "unauthorized")
    assert dict(answer.headers)["content-type"] == "application/json"
    assert dict(answer.headers)["cache-control"] == "no-store"


@pytest.mark.parametrize("reason", DENIALS, ids=str)
def test_the_status_decides_between_challenge_and_retry(reason: Reason) -> None:
    answer = denial(reason, "")
    headers = dict(answer.headers)
    assert len(headers) == len(answer.headers)
    assert ("www-authenticate" in headers) == (answer.status in {401, 403})
    assert ("retry-after" in headers) == (answer.status == 503)
    if answer.status == 503:
        assert int(headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "reason", [reason for reason in DENIALS if reason.value.status in {401, 403}], ids=str
)
def test_the_challenge_is_as_rfc_6750_has_it(reason: Reason) -> None:
    """And, where it is about a proof of possession, RFC 9449 section 7.1."""
    scheme, parameters = parse_challenge(dict(denial(reason, "exp").headers)["www-authenticate"])
    assert parameters["realm"] == "authz"
    if scheme == "DPoP":
        assert parameters.pop("algs") == "ES256 ES384 EdDSA PS256 RS256"
        assert reason in ABOUT_POSSESSION
    else:
        assert scheme == "Bearer"
        assert reason not in ABOUT_POSSESSION
    if reason in {Reason.TOKEN_MISSING, Reason.SCHEME_UNSUPPORTED}:
        # Section 3.1: no error code where the request lacks any authentication information.
        assert set(parameters) == {"realm"}
    else:
        assert set(parameters) == {"realm", "error", "error_description"}
        assert parameters["error"] in {
            "invalid_request", "invalid_token", "insufficient_scope", "invalid_dpop_proof",
            "use_dpop_nonce",
        }  # fmt: skip
        assert parameters["error_description"].endswith(": exp")


def test_the_error_codes_go_with_their_status() -> None:
    """RFC 6750 section 3.1. `invalid_request` SHOULD be 400 there and is 401 here: one status for
    all that a client mends by sending one good token.
    """
    for reason in DENIALS:
        if reason.value.error == "insufficient_scope":
            assert reason.value.status == 403
        if reason.value.error == "invalid_token":
            assert reason.value.status == 401


def test_a_denial_has_no_status_that_lets_through() -> None:
    assert all(400 <= reason.value.status < 600 for reason in DENIALS)
    assert {str(r) for r in Reason} - {str(r) for r in DENIALS} == {"ok", "anonymous"}


def test_failing_open_is_a_decision_of_its_own() -> None:
    assert {str(one) for one in Decision} == {"allow", "fail-open", "deny"}


@pytest.mark.parametrize("request_id", ['"', "\r\n", "é\x00", "</script>", "\\"])
def test_a_request_id_cannot_break_out_of_the_body(request_id: str) -> None:
    body = denial(Reason.TOKEN_MISSING, "").body(request_id)
    assert json.loads(body)["request_id"] == request_id
    assert body.isascii()
    assert "\n" not in body
