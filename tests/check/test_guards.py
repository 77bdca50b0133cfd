"""All guards together, in the pipeline, against what each demands, worked out plainly."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from check.fakes import (
    KID,
    NOW,
    CountingRevocations,
    FakeKeys,
    FakeRecorder,
    http_request,
    make_verifier,
    public_keys,
    token,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.check.authorizer import Authorizer
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.policy import RoutePolicies
from authz.check.verdict import Decision, Reason, Verdict
from authz.revocation.record import Clear, Finding, Revoked, Unavailable
from authz.settings import IssuerlessSettings
from authz.uses.record import FIRST, USED, Use, Used
from support.jwks import rsa_key

GONE = Unavailable("timeout")
THUMBPRINT = "A" * 43


class Case(NamedTuple):
    """A good token, how it comes, and what is known."""

    globally_https: bool
    extensions: Mapping[str, str]
    protocol: str | None
    place: Literal["header", "cookie", "both"]
    method: str
    origin: str | None
    bound: bool
    """To a certificate that doesn't come with it."""
    finding: Finding
    use: Use


class FixedLedger:
    """Answers alike each time, and counts."""

    def __init__(self, use: Use) -> None:
        self._use = use
        self.asked = 0

    def use(
        self,
        bucket: int,
        name: str,
        until: float,
        now: float,
        unavailable: Unavailable | None = None,
    ) -> Use:
        del bucket, name, until, now
        self.asked += 1
        # Memory would know of a use that it refused; of any other it has nothing to say.
        return self._use if unavailable is None or isinstance(self._use, Used) else unavailable

    def forget(self, name: str, until: float) -> None:
        del name, until
        assert isinstance(self._use, Unavailable)


def expected(case: Case) -> tuple[Decision, Reason]:
    """What the README says, one sentence after the other."""
    refused = how_it_came(case) or what_is_known(case)
    if refused is not None:
        return Decision.DENY, refused
    once = case.extensions.get("authz.use") == "once"
    closed = case.extensions.get("authz.fail_mode") == "closed"
    if isinstance(case.finding, Unavailable) and closed:
        return Decision.DENY, Reason.STORE_UNAVAILABLE
    if once and case.use is USED:
        return Decision.DENY, Reason.TOKEN_USED
    if isinstance(case.finding, Unavailable) or (once and isinstance(case.use, Unavailable)):
        return Decision.DENY if closed else Decision.FAIL_OPEN, Reason.STORE_UNAVAILABLE
    return Decision.ALLOW, Reason.OK


def how_it_came(case: Case) -> Reason | None:
    route = case.extensions
    if route.get("authz.require_https", str(case.globally_https).lower()) == "true":
        if case.protocol is None:
            return Reason.MISCONFIGURED_ROUTE
        if case.protocol != "https":
            return Reason.HTTPS_REQUIRED
    may_change = case.method not in {"GET", "HEAD", "OPTIONS", "TRACE"}
    ours = case.origin == "https://app.example"
    if case.place == "cookie" and may_change and not ours and route.get("authz.csrf") != "false":
        return Reason.CROSS_SITE_REQUEST
    if case.bound:
        return Reason.BINDING_MISMATCH
    return Reason.BINDING_REQUIRED if route.get("authz.binding") == "required" else None


def what_is_known(case: Case) -> Reason | None:
    if isinstance(case.finding, Revoked):
        return Reason.TOKEN_REVOKED
    admin_only = case.extensions.get("authz.scopes") == "admin"
    return Reason.INSUFFICIENT_SCOPE if admin_only else None


async def judged(case: Case, ledger: FixedLedger) -> Verdict:
    authorizer = Authorizer(
        credentials=CredentialFinder(["header:authorization", "cookie:token"]),
        verifier=make_verifier(FakeKeys(public_keys((rsa_key(), KID)))),
        revocations=CountingRevocations(case.finding),
        policies=RoutePolicies("open", require_https=case.globally_https),
        guards=all_guards(IssuerlessSettings()),
        ledger=ledger,
        recorder=FakeRecorder(),
        clock=lambda: NOW,
    )
    text = token(cnf={"x5t#S256": THUMBPRINT} if case.bound else ...)
    headers: dict[str, Any] = {
        "authorization": None if case.place == "cookie" else f"Bearer {text}",
        "cookie": None if case.place == "header" else f"token={text}",
        "x-forwarded-proto": case.protocol,
        "origin": case.origin,
    }
    request = http_request(
        headers={name: (value,) for name, value in headers.items() if value is not None},
        extensions=case.extensions,
        method=case.method,
        scheme="https",
    )
    verdict = authorizer.check(request)
    return verdict if isinstance(verdict, Verdict) else await verdict


VALUES = {
    "authz.require_https": ["true", "false"],
    "authz.csrf": ["true", "false"],
    "authz.binding": ["required", "optional"],
    "authz.use": ["once", "many"],
    "authz.scopes": ["read", "admin"],
    "authz.fail_mode": ["open", "closed"],
    "authz.mode": ["optional", "required"],
}

cases = st.builds(
    Case,
    globally_https=st.booleans(),
    extensions=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}
    ),
    protocol=st.sampled_from(["https", "https", "http", "https,http", None]),
    place=st.sampled_from(["header", "cookie", "both"]),
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
    origin=st.sampled_from(["https://app.example", "https://evil.example", None]),
    bound=st.sampled_from([False, False, True]),
    finding=st.sampled_from([Clear(), Clear(), Revoked(NOW + 100), GONE]),
    use=st.sampled_from([FIRST, USED, GONE]),
)


@settings(max_examples=200)
@given(cases)
async def test_a_good_token_passes_exactly_where_nothing_speaks_against_how_it_came(
    case: Case,
) -> None:
    """And it is used up only where the use decides."""
    ledger = FixedLedger(case.use)
    verdict = await judged(case, ledger)
    assert (verdict.decision, verdict.reason) == expected(case)
    passed = verdict.decision is not Decision.DENY or verdict.reason is Reason.TOKEN_USED
    if case.extensions.get("authz.use") != "once":
        assert ledger.asked == 0
    elif passed:
        assert ledger.asked == 1
