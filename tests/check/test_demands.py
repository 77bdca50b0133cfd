"""What a request uses up: asked at the very end, and under the route's fail mode."""

import asyncio
from collections.abc import Awaitable
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
    presented,
    public_keys,
    token,
)

from authz.check.authorizer import Authorizer
from authz.check.credentials import CredentialFinder
from authz.check.demand import Demand
from authz.check.guard import Guard, Presented
from authz.check.once import OnceGuard
from authz.check.policy import RoutePolicies
from authz.check.verdict import Decision, Reason, Verdict, deny
from authz.revocation.record import Clear, Finding, PossiblyRevoked, Revoked, Unavailable
from authz.uses.ledger import Ledger
from authz.uses.record import FIRST, USED, Use
from support.jwks import rsa_key

ONCE = {"authz.use": "once"}
GONE = Unavailable("timeout")


class FakeLedger:
    """Says what it is told to, at once or later, and keeps what it was asked."""

    def __init__(self, *uses: Use, later: bool = False) -> None:
        """`uses`: the answers in turn, the last one again and again."""
        self.uses = list(uses)
        self.later = later
        self.used: list[str] = []
        self.told: list[Unavailable | None] = []
        """What each use was told of the store."""
        self.forgotten: list[str] = []

    def use(
        self,
        bucket: int,
        name: str,
        until: float,
        now: float,
        unavailable: Unavailable | None = None,
    ) -> Use | Awaitable[Use]:
        assert 0 <= bucket < 16
        assert now == NOW < until
        self.told.append(unavailable)
        self.used.append(name)
        use = self.uses.pop(0) if len(self.uses) > 1 else self.uses[0]
        return asyncio.sleep(0, use) if self.later else use

    def forget(self, name: str, until: float) -> None:
        assert until > NOW
        self.forgotten.append(name)


class Demanding:
    """A guard that demands a thing of this name, or refuses."""

    name = "demanding"
    of_cookies = False

    def __init__(self, found: str | Verdict) -> None:
        self._found = found

    def look(self, presented: Presented) -> Verdict | Demand:
        if isinstance(self._found, Verdict):
            return self._found
        return Demand(3, self._found, presented.now + 60, deny(Reason.TOKEN_USED))


class Route:
    """An authorizer with these parts."""

    def __init__(
        self,
        ledger: FakeLedger | Ledger,
        *guards: Guard,
        finding: Finding | None = None,
        fail_mode: Literal["open", "closed"] = "open",
        audit_works: bool = True,
    ) -> None:
        self.store = CountingRevocations(finding)
        self.recorder = FakeRecorder(works=audit_works)
        self.authorizer = Authorizer(
            credentials=CredentialFinder(["header:authorization", "cookie:token"]),
            verifier=make_verifier(FakeKeys(public_keys((rsa_key(), KID)))),
            revocations=self.store,
            policies=RoutePolicies(fail_mode),
            guards=guards or (OnceGuard(),),
            ledger=ledger,
            recorder=self.recorder,
            clock=lambda: NOW,
        )

    async def check(self, text: str | None = None, **extensions: str) -> Verdict:
        request = http_request(token=text or token(), extensions=ONCE | extensions)
        verdict = self.authorizer.check(request)
        return verdict if isinstance(verdict, Verdict) else await verdict


# One-time tokens


def test_a_route_that_takes_tokens_once_demands_that_they_are_new() -> None:
    one = presented(policy={"use": "once"})
    demand = OnceGuard().look(one)
    ref = one.verified.identity.ref
    assert demand is not None
    assert (demand.bucket, demand.name) == (ref.bucket, ref.token)
    assert demand.until == one.verified.usable_until, "as long as anyone would take the token"
    assert demand.again.reason is Reason.TOKEN_USED
    assert demand.again.identity == one.verified.identity


def test_other_routes_use_up_nothing() -> None:
    assert OnceGuard().look(presented()) is None


async def test_of_many_tries_at_a_time_one_passes() -> None:
    route, text = Route(Ledger(None)), token()
    verdicts = await asyncio.gather(*(route.check(text) for _ in range(64)))
    assert [one.reason for one in verdicts].count(Reason.OK) == 1
    assert [one.reason for one in verdicts].count(Reason.TOKEN_USED) == 63
    assert (await route.check()).reason is Reason.OK, "another token is another token"


async def test_a_token_signed_anew_is_the_same_token() -> None:
    """It is known by its `jti`; an ECDSA signature, for one, can be rewritten."""
    route = Route(Ledger(None))
    assert (await route.check(token(jti="one"))).reason is Reason.OK
    assert (await route.check(token(jti="one", scope="other"))).reason is Reason.TOKEN_USED


# The order


@pytest.mark.parametrize(
    ("finding", "extensions"),
    [
        (Revoked(NOW + 100), {}),
        (PossiblyRevoked(), {}),
        (Clear(), {"authz.scopes": "admin"}),
        (Clear(), {"authz.audience": "billing"}),
        (GONE, {"authz.scopes": "admin"}),
        (GONE, {"authz.fail_mode": "closed"}),
    ],
)
async def test_a_request_that_is_refused_uses_up_nothing(
    finding: Finding, extensions: dict[str, str]
) -> None:
    ledger = FakeLedger(FIRST)
    verdict = await Route(ledger, finding=finding).check(**extensions)
    assert verdict.decision is Decision.DENY
    assert ledger.used == []


async def test_what_a_guard_refuses_asks_no_store() -> None:
    ledger = FakeLedger(FIRST)
    route = Route(ledger, OnceGuard(), Demanding(deny(Reason.BINDING_MISMATCH)))
    assert (await route.check()).reason is Reason.BINDING_MISMATCH
    assert (route.store.asked, ledger.used) == ([], [])


@pytest.mark.parametrize("later", [False, True])
async def test_what_comes_first_is_used_up_first(later: bool) -> None:
    """A second use of the first leaves the second one alone."""
    ledger = FakeLedger(USED, later=later)
    verdict = await Route(ledger, Demanding("first"), Demanding("second")).check()
    assert verdict.reason is Reason.TOKEN_USED
    assert ledger.used == ["first"]
    ledger = FakeLedger(FIRST, USED, later=later)
    verdict = await Route(ledger, Demanding("first"), Demanding("second")).check()
    assert verdict.reason is Reason.TOKEN_USED
    assert ledger.used == ["first", "second"]


async def test_a_first_use_passes_with_the_tokens_own_verdict() -> None:
    for later in (False, True):
        verdict = await Route(FakeLedger(FIRST, later=later)).check()
        assert (verdict.decision, verdict.reason) == (Decision.ALLOW, Reason.OK)


# The ledger can't ask the store


@pytest.mark.parametrize("later", [False, True])
async def test_failing_open_is_on_record_and_the_use_remembered(later: bool) -> None:
    ledger = FakeLedger(GONE, later=later)
    route = Route(ledger)
    verdict = await route.check()
    assert (verdict.decision, verdict.reason) == (Decision.FAIL_OPEN, Reason.STORE_UNAVAILABLE)
    assert [cause for *_, cause in route.recorder.records] == ["timeout"]
    assert ledger.forgotten == []


@pytest.mark.parametrize("later", [False, True])
async def test_failing_closed_lets_the_client_try_again(later: bool) -> None:
    ledger = FakeLedger(GONE, later=later)
    route = Route(ledger, fail_mode="closed")
    verdict = await route.check()
    assert (verdict.decision, verdict.reason) == (Decision.DENY, Reason.STORE_UNAVAILABLE)
    assert route.recorder.records == []
    assert ledger.forgotten == ledger.used


async def test_what_cannot_be_recorded_may_be_tried_again_as_well() -> None:
    ledger = FakeLedger(GONE)
    verdict = await Route(ledger, audit_works=False).check()
    assert verdict.reason is Reason.AUDIT_UNAVAILABLE
    assert ledger.forgotten == ledger.used


async def test_one_request_is_one_record_however_much_could_not_be_asked() -> None:
    ledger = FakeLedger(GONE)
    route = Route(ledger, Demanding("first"), Demanding("second"), finding=GONE)
    assert (await route.check()).decision is Decision.FAIL_OPEN
    assert len(route.recorder.records) == 1
    assert ledger.used == ["first", "second"]


async def test_failing_closed_uses_up_nothing_more() -> None:
    ledger = FakeLedger(GONE, FIRST)
    route = Route(ledger, Demanding("first"), Demanding("second"), fail_mode="closed")
    assert (await route.check()).reason is Reason.STORE_UNAVAILABLE
    assert (ledger.used, ledger.forgotten) == (["first"], ["first"])


async def test_what_is_known_to_be_used_is_refused_in_an_outage_too() -> None:
    route = Route(FakeLedger(GONE, USED), Demanding("proof"), Demanding("token"), finding=GONE)
    assert (await route.check()).reason is Reason.TOKEN_USED
    assert route.recorder.records == []


# Who is asked at all


class Shy:
    """A guard that must not be asked."""

    name = "shy"
    of_cookies = False

    def look(self, presented: Presented) -> Verdict | None:
        raise AssertionError(f"asked about {presented.credential}")


def test_a_plain_token_on_a_plain_route_meets_no_guard() -> None:
    route = Route(FakeLedger(FIRST), Shy())
    verdict = route.authorizer.check(http_request(token=token()))
    assert isinstance(verdict, Verdict), "and waits for nobody"
    assert verdict.reason is Reason.OK


IN_COOKIE: dict[str, Any] = {"headers": {"cookie": (f"token={token()}",)}}


@pytest.mark.parametrize(
    "special",
    [
        {"token": token(cnf={"jkt": "A" * 43})},
        {"token": token(), "extensions": {"authz.require_https": "true"}},
        {"token": token(), "extensions": {"authz.binding": "required"}},
        {"token": token(), "extensions": ONCE},
        {"headers": {"authorization": (f"DPoP {token()}",)}},
        {"headers": {"cookie": (f"token={token(cnf={'jkt': 'A' * 43})}",)}},
        {**IN_COOKIE, "extensions": {"authz.require_https": "true"}},
    ],
    ids=["bound", "https", "binding", "once", "dpop", "bound, in a cookie", "https, in a cookie"],
)
def test_every_other_one_meets_all_guards(special: dict[str, Any]) -> None:
    refused = Demanding(deny(Reason.BINDING_MISMATCH))
    verdict = Route(FakeLedger(FIRST), refused).authorizer.check(http_request(**special))
    assert isinstance(verdict, Verdict)
    assert verdict.reason is Reason.BINDING_MISMATCH


class OfCookies(Demanding):
    """A guard that has nothing to say of other tokens."""

    of_cookies = True


def test_a_token_in_a_cookie_meets_the_guards_of_cookies_alone() -> None:
    cookie_guard = OfCookies(deny(Reason.CROSS_SITE_REQUEST))
    route = Route(FakeLedger(FIRST), Shy(), cookie_guard)
    verdict = route.authorizer.check(http_request(**IN_COOKIE))
    assert isinstance(verdict, Verdict)
    assert verdict.reason is Reason.CROSS_SITE_REQUEST
