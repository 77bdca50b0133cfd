"""Tokens that are bound to a key, in the pipeline: who may present them, how, and how often."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
from check.challenge import parse_challenge
from check.fakes import (
    KID,
    NOW,
    SECRET,
    CountingRevocations,
    FakeKeys,
    FakeRecorder,
    http_request,
    make_verifier,
    public_keys,
)

from authz.check.authorizer import Authorizer
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.nonce import Nonces
from authz.check.policy import RoutePolicies
from authz.check.request import PlainRequest
from authz.check.verdict import Decision, Reason, Verdict, denial
from authz.revocation.record import Clear, Finding, Revoked, Unavailable
from authz.settings import DpopSettings, IssuerlessSettings
from authz.uses.ledger import Ledger
from authz.uses.record import FIRST, Use
from support import jwks
from support.dpop import ProofKey
from support.jwks import ec_key, rsa_key, sign

KEY = ProofKey()
URL = "https://app.example/a"
NONCES = Nonces(SECRET, 300)


class UseStore:
    """A store that says what it is told to of each use."""

    def __init__(self, says: Use = FIRST) -> None:
        self.says = says
        self.asked: list[tuple[int, str, float]] = []

    def use(self, bucket: int, name: str, until: float) -> Awaitable[Use] | Unavailable:
        self.asked.append((bucket, name, until))
        if isinstance(self.says, Unavailable):
            return self.says
        return self._say(self.says)

    async def _say(self, use: Use) -> Use:
        return use


class Pipeline:
    """An authorizer and its fakes."""

    def __init__(
        self,
        *,
        finding: Finding | None = None,
        fail_mode: Literal["open", "closed"] = "open",
        says: Use = FIRST,
        dpop: DpopSettings | None = None,
        nonces: Nonces | None = None,
    ) -> None:
        self.uses = UseStore(says)
        self.revocations = CountingRevocations(finding)
        self.recorder = FakeRecorder()
        settings = IssuerlessSettings(dpop=dpop or DpopSettings())
        self._authorizer = Authorizer(
            credentials=CredentialFinder(["header:authorization", "cookie:t"]),
            verifier=make_verifier(FakeKeys(public_keys((rsa_key(), KID)))),
            revocations=self.revocations,
            policies=RoutePolicies(fail_mode),
            guards=all_guards(settings, nonces=nonces),
            ledger=Ledger(self.uses),
            recorder=self.recorder,
            clock=lambda: NOW,
        )

    def check(self, request: PlainRequest) -> Verdict:
        verdict = self._authorizer.check(request)
        return verdict if isinstance(verdict, Verdict) else asyncio.run(finished(verdict))


async def finished(verdict: Awaitable[Verdict]) -> Verdict:
    return await verdict


def token(**changes: Any) -> str:
    """Bound to KEY."""
    return sign(jwks.claims(now=NOW, **{"cnf": KEY.cnf, **changes}), rsa_key(), kid=KID)


TOKEN = token()


def request(
    text: str = TOKEN,
    *proofs: str,
    scheme: str = "DPoP",
    extensions: Mapping[str, str] | None = None,
    forwarded: str | None = "https",
    **changes: Any,
) -> PlainRequest:
    """GET of URL with this token and these proofs. `forwarded`: `x-forwarded-proto`."""
    headers: dict[str, tuple[str, ...]] = {"authorization": (f"{scheme} {text}",)}
    if proofs:
        headers["dpop"] = proofs
    if forwarded is not None:
        headers["x-forwarded-proto"] = (forwarded,)
    made = http_request(headers=headers, extensions=extensions)
    return replace(made, **{"path": "/a", **changes})


def proof(**changes: Any) -> str:
    return KEY.prove("GET", URL, TOKEN, now=NOW, **changes)


# By whom and how


def test_the_holder_of_the_key_is_let_through() -> None:
    pipeline = Pipeline()
    verdict = pipeline.check(request(TOKEN, proof()))
    assert (verdict.decision, verdict.reason) == (Decision.ALLOW, Reason.OK)
    assert len(pipeline.uses.asked) == 1


@pytest.mark.parametrize(
    ("text", "scheme"), [(TOKEN, "Bearer"), (token(cnf=...), "DPoP")], ids=["bound", "free"]
)
def test_neither_kind_of_token_may_pass_as_the_other(text: str, scheme: str) -> None:
    """Section 7.2: else a stolen bound token would do without its key."""
    verdict = Pipeline().check(request(text, proof(), scheme=scheme))
    assert (verdict.decision, verdict.reason) == (Decision.DENY, Reason.SCHEME_MISMATCH)


def test_a_bound_token_in_a_cookie_is_refused() -> None:
    verdict = Pipeline().check(
        PlainRequest(headers={"cookie": (f"t={TOKEN}",), "dpop": (proof(),)}, method="GET")
    )
    assert verdict.reason is Reason.SCHEME_MISMATCH


@pytest.mark.parametrize("proofs", [(), ("",)])
def test_without_a_proof_a_bound_token_is_refused(proofs: tuple[str, ...]) -> None:
    verdict = Pipeline().check(request(TOKEN, *proofs))
    assert verdict.reason is Reason.PROOF_MISSING
    scheme, parameters = parse_challenge(challenge_of(verdict))
    assert (scheme, parameters["error"]) == ("DPoP", "invalid_dpop_proof")
    assert "ES256" in parameters["algs"].split()


def test_two_proofs_are_refused_although_either_is_good() -> None:
    """Section 4.3 number 1; however Envoy hands them on."""
    one, other = proof(), proof()
    for proofs in ((one, other), (f"{one},{other}",), (f"{one}, {one}",)):
        verdict = Pipeline().check(request(TOKEN, *proofs))
        assert (verdict.reason, verdict.detail) == (Reason.PROOF_INVALID, "more than one")


def test_a_proof_by_another_key_is_refused() -> None:
    thief = ProofKey(ec_key("a thief's"))
    verdict = Pipeline().check(request(TOKEN, thief.prove("GET", URL, TOKEN, now=NOW)))
    assert (verdict.reason, verdict.detail) == (Reason.PROOF_INVALID, "key")
    scheme, parameters = parse_challenge(challenge_of(verdict))
    assert (scheme, parameters["error"]) == ("DPoP", "invalid_dpop_proof")


def test_a_proof_for_another_token_of_the_same_key_is_refused() -> None:
    verdict = Pipeline().check(request(token(jti="other"), proof()))
    assert (verdict.reason, verdict.detail) == (Reason.PROOF_INVALID, "ath")


def test_where_a_bound_token_is_demanded_one_that_is_bound_to_a_key_will_do() -> None:
    extensions = {"authz.binding": "required"}
    assert Pipeline().check(request(TOKEN, proof(), extensions=extensions)).reason is Reason.OK
    verdict = Pipeline().check(request(token(cnf=...), scheme="Bearer", extensions=extensions))
    assert verdict.reason is Reason.BINDING_REQUIRED


# For which request


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"method": "POST"}, "htm"),
        ({"path": "/b"}, "htu"),
        ({"host": "other.example"}, "htu"),
        ({"forwarded": "http"}, "htu"),
        ({"forwarded": None}, "htu"),
    ],
)
def test_a_proof_is_good_for_its_own_request_only(changes: dict[str, Any], detail: str) -> None:
    verdict = Pipeline().check(on_the_wire(request(TOKEN, proof(), **changes), "http"))
    assert (verdict.reason, verdict.detail) == (Reason.PROOF_INVALID, detail)


def test_where_nothing_is_forwarded_the_scheme_of_the_request_counts() -> None:
    made = on_the_wire(request(TOKEN, proof(), forwarded=None), "https")
    assert Pipeline().check(made).reason is Reason.OK


def test_behind_a_proxy_the_configured_origins_count_instead() -> None:
    dpop = DpopSettings(origins=["https://api.example", "https://APP.example:443"])
    inside: dict[str, Any] = {"host": "10.0.0.1:8080", "forwarded": "http"}
    assert Pipeline(dpop=dpop).check(request(TOKEN, proof(), **inside)).reason is Reason.OK
    other = proof(htu="https://10.0.0.1:8080/a")
    assert Pipeline(dpop=dpop).check(request(TOKEN, other, **inside)).detail == "htu"


# How often


def test_a_proof_works_once() -> None:
    pipeline = Pipeline()
    made = request(TOKEN, proof())
    assert pipeline.check(made).reason is Reason.OK
    verdict = pipeline.check(made)
    assert verdict.reason is Reason.PROOF_REPLAYED
    assert parse_challenge(challenge_of(verdict))[1]["error"] == "invalid_dpop_proof"


def test_proofs_with_another_jti_are_others() -> None:
    pipeline = Pipeline()
    assert [pipeline.check(request(TOKEN, proof())).reason for _ in range(2)] == [Reason.OK] * 2


def test_nothing_is_used_up_by_a_request_that_is_refused_for_something_else() -> None:
    """Who is told that a scope is missing may come back with the same proof."""
    for pipeline, extensions in (
        (Pipeline(finding=Revoked(NOW + 100)), {}),
        (Pipeline(), {"authz.scopes": "admin"}),
        (Pipeline(finding=Unavailable("timeout"), fail_mode="closed"), {}),
    ):
        verdict = pipeline.check(request(TOKEN, proof(), extensions=extensions))
        assert verdict.decision is Decision.DENY
        assert pipeline.uses.asked == []


def test_a_replay_does_not_use_up_a_token_that_works_once() -> None:
    pipeline = Pipeline()
    made = proof()
    assert pipeline.check(request(TOKEN, made)).reason is Reason.OK
    once = {"authz.use": "once"}
    assert pipeline.check(request(TOKEN, made, extensions=once)).reason is Reason.PROOF_REPLAYED
    assert pipeline.check(request(TOKEN, proof(), extensions=once)).reason is Reason.OK
    assert pipeline.check(request(TOKEN, proof(), extensions=once)).reason is Reason.TOKEN_USED


@pytest.mark.parametrize("finding", [Clear(), Unavailable("breaker_open")])
def test_where_the_store_is_gone_the_fail_mode_decides_about_what_was_not_seen_here(
    finding: Finding,
) -> None:
    """On record where it is open; and a replay is refused in either case."""
    pipeline = Pipeline(finding=finding, says=Unavailable("breaker_open"))
    made = request(TOKEN, proof())
    assert pipeline.check(made).decision is Decision.FAIL_OPEN
    assert [cause for _, _, cause in pipeline.recorder.records] == ["breaker_open"]
    assert pipeline.check(made).reason is Reason.PROOF_REPLAYED


def test_where_the_fail_mode_is_closed_a_client_may_try_again() -> None:
    pipeline = Pipeline(fail_mode="closed", says=Unavailable("breaker_open"))
    made = request(TOKEN, proof())
    assert pipeline.check(made).reason is Reason.STORE_UNAVAILABLE
    pipeline.uses.says = FIRST
    assert pipeline.check(made).reason is Reason.OK
    assert pipeline.check(made).reason is Reason.PROOF_REPLAYED


# How long it may take


def test_once_the_store_was_unavailable_it_is_not_asked_again() -> None:
    """Else a check would wait for it once for each question. Memory still refuses what it knows."""
    once = {"authz.use": "once"}
    pipeline = Pipeline(says=Unavailable("timeout"))
    made = request(TOKEN, proof(), extensions=once)
    assert pipeline.check(made).decision is Decision.FAIL_OPEN
    assert len(pipeline.uses.asked) == 1
    assert pipeline.check(request(TOKEN, proof(), extensions=once)).reason is Reason.TOKEN_USED
    pipeline = Pipeline(finding=Unavailable("timeout"))
    assert pipeline.check(made).decision is Decision.FAIL_OPEN
    assert pipeline.uses.asked == []
    assert pipeline.check(made).reason is Reason.PROOF_REPLAYED


def test_a_check_that_is_refused_after_all_leaves_unused_what_nobody_was_asked_about() -> None:
    """The proof of a token that had been used is good again, for whatever else it may be."""
    pipeline = Pipeline(says=Unavailable("timeout"))
    once = {"authz.use": "once"}
    assert pipeline.check(request(TOKEN, proof(), extensions=once)).decision is Decision.FAIL_OPEN
    made = proof()
    assert pipeline.check(request(TOKEN, made, extensions=once)).reason is Reason.TOKEN_USED
    assert pipeline.check(request(TOKEN, made)).decision is Decision.FAIL_OPEN


# Nonces


def test_who_has_no_nonce_is_given_one_and_may_come_back_with_it() -> None:
    """RFC 9449 section 9."""
    pipeline = Pipeline(nonces=NONCES)
    for refused, reason in (
        (request(TOKEN), Reason.PROOF_MISSING),
        (request(TOKEN, proof()), Reason.NONCE_REQUIRED),
        (request(TOKEN, proof(nonce="old")), Reason.NONCE_REQUIRED),
    ):
        verdict = pipeline.check(refused)
        assert verdict.reason is reason
        assert dict(verdict.headers) == {"dpop-nonce": NONCES.make(NOW)}
    assert parse_challenge(challenge_of(verdict))[1]["error"] == "use_dpop_nonce"
    nonce = dict(verdict.headers)["dpop-nonce"]
    passed = pipeline.check(request(TOKEN, proof(nonce=nonce)))
    assert (passed.reason, passed.headers) == (Reason.OK, ())


def test_who_has_an_ageing_nonce_passes_and_is_given_the_next_one() -> None:
    """Section 8.2: so that a client that goes on asking is never refused for it."""
    ageing = NONCES.make(NOW - 150)
    verdict = Pipeline(nonces=NONCES).check(request(TOKEN, proof(nonce=ageing)))
    assert verdict.decision is Decision.ALLOW
    assert dict(verdict.headers) == {"dpop-nonce": NONCES.make(NOW)} != {"dpop-nonce": ageing}


def challenge_of(verdict: Verdict) -> str:
    return dict(denial(verdict.reason, verdict.detail).headers)["www-authenticate"]


def on_the_wire(made: PlainRequest, scheme: str) -> PlainRequest:
    """With this `:scheme`."""
    return replace(made, scheme=scheme)
