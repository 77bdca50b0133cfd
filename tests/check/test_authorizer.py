"""The pipeline: the order of its guards, and who may let a request through."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Literal

import pytest
from check.fakes import (
    KID,
    NOW,
    CountingRevocations,
    FakeKeys,
    FakeRecorder,
    http_request,
    make_verifier,
    public_keys,
)
from hypothesis import given
from hypothesis import strategies as st

from authz.check.authorizer import Authorizer
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.policy import RoutePolicies
from authz.check.request import CheckRequest
from authz.check.token import Identity
from authz.check.verdict import Decision, Reason, Verdict
from authz.revocation.record import (
    Clear,
    Finding,
    PossiblyRevoked,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.settings import IssuerlessSettings
from authz.uses.ledger import Ledger
from support import jwks
from support.jwks import b64, rsa_key, sign

REVOKED = Revoked(until=NOW + 1000)
POSSIBLY = PossiblyRevoked()
TIMEOUT = Unavailable("timeout")
BAD_ROUTE = {"authz.mode": "perhaps"}


class Pipeline:
    """An authorizer and its fakes."""

    def __init__(
        self,
        finding: Finding | None = None,
        *,
        later: bool = False,
        fail_mode: Literal["open", "closed"] = "open",
        audit_works: bool = True,
        keys: FakeKeys | None = None,
    ) -> None:
        self.store = CountingRevocations(finding, later=later)
        self.recorder = FakeRecorder(works=audit_works)
        self.keys = keys or FakeKeys(public_keys((rsa_key(), KID)))
        self.authorizer = Authorizer(
            credentials=CredentialFinder(["header:authorization"]),
            verifier=make_verifier(self.keys),
            revocations=self.store,
            policies=RoutePolicies(fail_mode),
            guards=all_guards(IssuerlessSettings()),
            ledger=Ledger(None),
            recorder=self.recorder,
            clock=lambda: NOW,
        )

    def at_once(self, request: CheckRequest) -> Verdict:
        verdict = self.authorizer.check(request)
        assert isinstance(verdict, Verdict)
        return verdict

    async def check(self, request: CheckRequest) -> Verdict:
        verdict = self.authorizer.check(request)
        return verdict if isinstance(verdict, Verdict) else await verdict


def good_token(**changes: Any) -> str:
    return sign(jwks.claims(now=NOW, **changes), rsa_key(), kid=KID)


def good_request(**extensions: str) -> CheckRequest:
    """With a good token, on a route with these extensions (`authz.` is added)."""
    return http_request(
        token=good_token(), extensions={f"authz.{name}": v for name, v in extensions.items()}
    )


def outcome(verdict: Verdict) -> tuple[Decision, Reason]:
    return verdict.decision, verdict.reason


ALLOWED = (Decision.ALLOW, Reason.OK)


# What memory knows is answered at once


def test_a_good_token_is_allowed_without_a_task() -> None:
    verdict = Pipeline().at_once(good_request())
    assert outcome(verdict) == ALLOWED
    assert verdict.identity is not None
    assert verdict.identity.subject == "alice"


def test_a_revoked_token_is_denied_without_a_task() -> None:
    verdict = Pipeline(REVOKED).at_once(good_request())
    assert outcome(verdict) == (Decision.DENY, Reason.TOKEN_REVOKED)


async def test_what_the_store_has_to_be_asked_is_awaited() -> None:
    for finding, expected in (
        (Clear(), Reason.OK),
        (REVOKED, Reason.TOKEN_REVOKED),
        (POSSIBLY, Reason.POSSIBLY_REVOKED),
    ):
        pipeline = Pipeline(finding, later=True)
        answer = pipeline.authorizer.check(good_request())
        assert not isinstance(answer, Verdict)
        assert (await answer).reason is expected


# The order of the guards


def test_a_misconfigured_route_is_told_before_any_credential_is_looked_at() -> None:
    """Nobody is to pass because a policy was misspelt, nor to be told to log in."""
    pipeline = Pipeline()
    for token in (good_token(), "rubbish", None):
        verdict = pipeline.at_once(http_request(token=token, extensions=BAD_ROUTE))
        assert outcome(verdict) == (Decision.DENY, Reason.MISCONFIGURED_ROUTE)
        assert "authz.mode" in verdict.detail
    assert pipeline.store.asked == []


@pytest.mark.parametrize(
    ("finding", "reason"),
    [(REVOKED, Reason.TOKEN_REVOKED), (POSSIBLY, Reason.POSSIBLY_REVOKED)],
    ids=["revoked", "possibly revoked"],
)
def test_revocation_comes_before_policy(finding: Finding, reason: Reason) -> None:
    """A revoked token learns nothing about the route, nor does one that probably is."""
    assert Pipeline(finding).at_once(good_request(scopes="admin")).reason is reason
    assert Pipeline(finding).at_once(good_request(audience="billing")).reason is reason


def test_a_policy_that_is_not_met_denies_with_the_holder_known() -> None:
    verdict = Pipeline().at_once(good_request(scopes="admin"))
    assert outcome(verdict) == (Decision.DENY, Reason.INSUFFICIENT_SCOPE)
    assert verdict.identity is not None


async def test_a_policy_that_is_not_met_denies_also_where_the_store_is_gone() -> None:
    """And no fail-open is recorded that never was."""
    pipeline = Pipeline(TIMEOUT)
    verdict = await pipeline.check(good_request(scopes="admin"))
    assert outcome(verdict) == (Decision.DENY, Reason.INSUFFICIENT_SCOPE)
    verdict = await pipeline.check(good_request(audience="billing"))
    assert outcome(verdict) == (Decision.DENY, Reason.ROUTE_AUDIENCE_MISMATCH)
    assert pipeline.recorder.records == []


ATTACKS = {
    "missing": None,
    "empty": "",
    "rubbish": "a.b.c",
    "other key": sign(jwks.claims(now=NOW), rsa_key("attacker"), kid=KID),
    "unknown kid": sign(jwks.claims(now=NOW), rsa_key(), kid="other"),
    "none": sign(jwks.claims(now=NOW), b"", alg="none"),
    "expired": good_token(exp=NOW - 100),
    "other audience": good_token(aud="other"),
    "no subject": good_token(sub=...),
    "too long": good_token(exp=NOW + 100_000),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("finding", [Clear(), REVOKED, POSSIBLY, TIMEOUT], ids=repr)
async def test_the_store_is_not_asked_about_a_token_that_was_not_verified(
    attack: str, finding: Finding
) -> None:
    pipeline = Pipeline(finding, later=True)
    verdict = await pipeline.check(http_request(token=ATTACKS[attack]))
    assert verdict.decision is Decision.DENY
    assert verdict.reason.value.status == 401
    assert verdict.identity is None
    assert pipeline.store.asked == []
    assert pipeline.recorder.records == []


async def test_the_store_is_asked_once_about_a_verified_token() -> None:
    pipeline = Pipeline(later=True)
    verdict = await pipeline.check(good_request())
    assert verdict.identity is not None
    assert pipeline.store.asked == [verdict.identity.ref]


# Optional routes


@pytest.mark.parametrize("value", [None, "", "Basic dXNlcg=="])
def test_an_optional_route_takes_a_request_without_token_as_anonymous(value: str | None) -> None:
    headers = {} if value is None else {"authorization": (value,)}
    request = http_request(headers=headers, extensions={"authz.mode": "optional"})
    pipeline = Pipeline()
    verdict = pipeline.at_once(request)
    assert outcome(verdict) == (Decision.ALLOW, Reason.ANONYMOUS)
    assert verdict.identity is None
    assert pipeline.store.asked == []


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "missing"])
async def test_a_bad_token_is_refused_on_an_optional_route_too(attack: str) -> None:
    request = http_request(token=ATTACKS[attack], extensions={"authz.mode": "optional"})
    assert (await Pipeline().check(request)).decision is Decision.DENY


@pytest.mark.parametrize(
    "value", ["Bearer a,Bearer b", "Bearer\ta.b.c", "Basic x,Bearer\ta.b.c", "Bearer"]
)
def test_what_an_upstream_could_read_as_a_token_is_not_anonymous(value: str) -> None:
    request = http_request(
        headers={"authorization": (value,)}, extensions={"authz.mode": "optional"}
    )
    assert Pipeline().at_once(request).decision is Decision.DENY


def test_a_good_token_on_an_optional_route_is_looked_up() -> None:
    assert outcome(Pipeline().at_once(good_request(mode="optional"))) == ALLOWED
    assert Pipeline(REVOKED).at_once(good_request(mode="optional")).reason is Reason.TOKEN_REVOKED


def test_an_optional_routes_scopes_are_asked_of_those_who_show_a_token() -> None:
    verdict = Pipeline().at_once(good_request(mode="optional", scopes="admin"))
    assert verdict.reason is Reason.INSUFFICIENT_SCOPE


# The store can't be asked


@pytest.mark.parametrize("later", [False, True])
async def test_failing_open_happens_only_once_it_is_on_record(later: bool) -> None:
    pipeline = Pipeline(TIMEOUT, later=later)
    request = good_request()
    verdict = await pipeline.check(request)
    assert outcome(verdict) == (Decision.FAIL_OPEN, Reason.STORE_UNAVAILABLE)
    assert pipeline.recorder.records == [(request, verdict.identity, "timeout")]


@pytest.mark.parametrize("later", [False, True])
async def test_what_cannot_be_recorded_is_not_let_through(later: bool) -> None:
    verdict = await Pipeline(TIMEOUT, later=later, audit_works=False).check(good_request())
    assert outcome(verdict) == (Decision.DENY, Reason.AUDIT_UNAVAILABLE)
    assert verdict.reason.value.status == 503


async def test_the_request_waits_for_the_record() -> None:
    """No verdict before `record` has returned."""
    recorded = asyncio.Event()

    class SlowRecorder(FakeRecorder):
        async def record(self, request: CheckRequest, identity: Identity, cause: str) -> bool:
            await recorded.wait()
            return await super().record(request, identity, cause)

    pipeline = Pipeline(TIMEOUT)
    pipeline.authorizer._recorder = SlowRecorder()
    check = asyncio.ensure_future(_await(pipeline.authorizer.check(good_request())))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not check.done()
    recorded.set()
    assert (await check).decision is Decision.FAIL_OPEN


async def _await(verdict: Verdict | Awaitable[Verdict]) -> Verdict:
    return verdict if isinstance(verdict, Verdict) else await verdict


@pytest.mark.parametrize(
    ("globally", "on_route", "decision"),
    [
        ("open", None, Decision.FAIL_OPEN),
        ("open", "closed", Decision.DENY),
        ("closed", None, Decision.DENY),
        ("closed", "open", Decision.FAIL_OPEN),
        ("open", "open", Decision.FAIL_OPEN),
        ("closed", "closed", Decision.DENY),
    ],
)
async def test_failing_closed_is_said_by_the_route_or_for_all(
    globally: Literal["open", "closed"], on_route: str | None, decision: Decision
) -> None:
    pipeline = Pipeline(TIMEOUT, fail_mode=globally)
    extensions = {} if on_route is None else {"fail_mode": on_route}
    verdict = await pipeline.check(good_request(**extensions))
    assert outcome(verdict) == (decision, Reason.STORE_UNAVAILABLE)
    assert bool(pipeline.recorder.records) == (decision is Decision.FAIL_OPEN)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("on_route", [None, "open", "closed"])
async def test_what_is_possibly_revoked_is_refused_whatever_the_fail_mode(
    on_route: str | None, later: bool
) -> None:
    """With 401, as what is revoked, and nothing of it is a fail-open."""
    pipeline = Pipeline(POSSIBLY, later=later)
    extensions = {} if on_route is None else {"fail_mode": on_route}
    verdict = await pipeline.check(good_request(**extensions))
    assert outcome(verdict) == (Decision.DENY, Reason.POSSIBLY_REVOKED)
    assert verdict.reason.value.status == 401
    assert verdict.identity is not None
    assert pipeline.recorder.records == []


def test_a_token_that_was_possibly_revoked_is_looked_up_anew_each_time() -> None:
    """Nothing about it stays: once the store says that it is good, it is."""
    pipeline, text = Pipeline(POSSIBLY), good_token()
    request = http_request(token=text)
    assert pipeline.at_once(request).reason is Reason.POSSIBLY_REVOKED
    pipeline.store.finding = Clear()
    assert outcome(pipeline.at_once(request)) == ALLOWED
    pipeline.store.finding = POSSIBLY
    assert pipeline.at_once(request).reason is Reason.POSSIBLY_REVOKED


# Keys that aren't known yet


async def test_an_unknown_key_is_fetched_and_the_token_looked_at_again() -> None:
    new = public_keys((rsa_key("next"), "next"), (rsa_key(), KID))
    keys = FakeKeys(public_keys((rsa_key(), KID)), fetched=new)
    text = sign(jwks.claims(now=NOW), rsa_key("next"), kid="next")
    assert outcome(await Pipeline(keys=keys).check(http_request(token=text))) == ALLOWED
    assert keys.refetches == 1


@pytest.mark.parametrize("finding", [Clear(), REVOKED, POSSIBLY, TIMEOUT], ids=repr)
@pytest.mark.parametrize("later", [False, True])
async def test_a_token_of_a_fetched_key_goes_through_the_remaining_guards(
    finding: Finding, later: bool
) -> None:
    keys = FakeKeys(None, fetched=public_keys((rsa_key(), KID)))
    pipeline = Pipeline(finding, later=later, keys=keys)
    verdict = await pipeline.check(good_request(fail_mode="closed"))
    expected = {
        Clear: Reason.OK,
        Revoked: Reason.TOKEN_REVOKED,
        PossiblyRevoked: Reason.POSSIBLY_REVOKED,
        Unavailable: Reason.STORE_UNAVAILABLE,
    }
    assert verdict.reason is expected[type(finding)]
    assert len(pipeline.store.asked) == 1


async def test_a_key_that_stays_unknown_is_refused_after_one_fetch() -> None:
    keys = FakeKeys(public_keys((rsa_key(), KID)), fetched=public_keys((rsa_key("next"), "next")))
    text = sign(jwks.claims(now=NOW), rsa_key("attacker"), kid="evil")
    verdict = await Pipeline(keys=keys).check(http_request(token=text))
    assert verdict.reason is Reason.KEY_UNKNOWN
    assert keys.refetches == 1


def test_where_no_fetch_is_due_the_answer_comes_at_once() -> None:
    verdict = Pipeline().at_once(
        http_request(token=sign(jwks.claims(now=NOW), rsa_key(), kid="other"))
    )
    assert verdict.reason is Reason.KEY_UNKNOWN


def test_without_any_keys_the_answer_is_503() -> None:
    verdict = Pipeline(keys=FakeKeys(None)).at_once(good_request())
    assert outcome(verdict) == (Decision.DENY, Reason.KEYS_UNAVAILABLE)
    assert verdict.reason.value.status == 503


def test_only_an_unknown_key_makes_anyone_fetch() -> None:
    keys = FakeKeys(public_keys((rsa_key(), KID)), fetched=public_keys((rsa_key(), KID)))
    pipeline = Pipeline(keys=keys)
    for name, text in ATTACKS.items():
        if name != "unknown kid":
            pipeline.at_once(http_request(token=text))
    assert keys.refetches == 0


# No way to an allow but through all guards


class BrokenError(RuntimeError):
    """A bug in one of the parts."""


@pytest.mark.parametrize("part", ["store", "store later", "recorder", "refetch"])
async def test_no_exception_of_a_part_becomes_an_allow(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(TIMEOUT)

    async def broken(*_: object) -> Any:
        raise BrokenError

    def broken_at_once(*_: object) -> Any:
        raise BrokenError

    match part:
        case "store":
            monkeypatch.setattr(pipeline.store, "find", broken_at_once)
        case "store later":
            monkeypatch.setattr(pipeline.store, "find", broken)
        case "recorder":
            monkeypatch.setattr(pipeline.recorder, "record", broken)
        case _:
            pipeline.keys.keys = None
            monkeypatch.setattr(pipeline.keys, "refetch", broken)
    with pytest.raises(BrokenError):
        await pipeline.check(good_request())


values = st.text(st.characters(max_codepoint=0xFF), max_size=30)
extensions = st.dictionaries(
    st.sampled_from(["authz.mode", "authz.fail_mode", "authz.scopes", "authz.audience", "other"]),
    st.sampled_from(["optional", "required", "open", "closed", "read", "api", "", "admin"]),
    max_size=4,
)


@given(
    st.lists(values | values.map("Bearer {}".format), max_size=2).map(tuple),
    extensions,
    st.sampled_from([Clear(), REVOKED, POSSIBLY, TIMEOUT]),
)
async def test_nobody_without_a_good_token_is_more_than_anonymous(
    authorization: tuple[str, ...], extensions: Mapping[str, str], finding: Finding
) -> None:
    pipeline = Pipeline(finding)
    request = http_request(headers={"authorization": authorization}, extensions=extensions)
    verdict = pipeline.at_once(request)
    assert verdict.identity is None
    assert pipeline.store.asked == []
    if verdict.decision is not Decision.DENY:
        assert extensions["authz.mode"] == "optional"
        assert verdict.reason is Reason.ANONYMOUS


@given(
    extensions,
    st.sampled_from([Clear(), REVOKED, POSSIBLY, TIMEOUT]),
    st.booleans(),
    st.booleans(),
)
async def test_a_good_token_passes_exactly_where_the_table_says(
    extensions: dict[str, str], finding: Finding, later: bool, audit_works: bool
) -> None:
    """Usable route, not revoked, policy met, and the store asked or the pass on record."""
    pipeline = Pipeline(finding, later=later, audit_works=audit_works)
    verdict = await pipeline.check(http_request(token=good_token(), extensions=extensions))
    usable = (
        extensions.get("authz.mode", "required") in {"optional", "required"}
        and extensions.get("authz.fail_mode", "open") in {"open", "closed"}
        and extensions.get("authz.scopes", "read")
        and extensions.get("authz.audience", "api")
    )
    met = (
        extensions.get("authz.scopes", "read") == "read"
        and extensions.get("authz.audience", "api") == "api"
    )
    if not usable or not met or isinstance(finding, Revoked | PossiblyRevoked):
        expected = Decision.DENY
    elif isinstance(finding, Clear):
        expected = Decision.ALLOW
    else:
        is_open = extensions.get("authz.fail_mode", "open") == "open"
        expected = Decision.FAIL_OPEN if is_open and audit_works else Decision.DENY
    assert verdict.decision is expected
    on_record = len(pipeline.recorder.records)
    assert on_record == (1 if verdict.decision is Decision.FAIL_OPEN else 0)


def test_two_tokens_of_one_jti_are_two_questions() -> None:
    """The store is asked about each: their `iat` may lie on either side of a cut-off."""
    pipeline = Pipeline()
    for issued in (NOW - 100, NOW):
        text = good_token(jti="same", iat=issued)
        pipeline.at_once(http_request(token=text))
    first, second = pipeline.store.asked
    assert first != second
    assert first.token == second.token
    assert isinstance(first, TokenRef)


def test_a_broken_signature_is_not_saved_by_a_remembered_token() -> None:
    pipeline = Pipeline()
    text = good_token()
    assert outcome(pipeline.at_once(http_request(token=text))) == ALLOWED
    forged = f"{text.rpartition('.')[0]}.{b64(bytes(256))}"
    verdict = pipeline.at_once(http_request(token=forged))
    assert verdict.reason is Reason.SIGNATURE_INVALID
    assert len(pipeline.store.asked) == 1
