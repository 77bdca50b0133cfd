"""The pipeline: every check, as ordered guards on one screen.

`check` answers at once when memory holds the answer, and returns an awaitable only when someone
has to be asked: the store, a key source, or the audit log.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from authz.check.credentials import Credential, CredentialFinder
from authz.check.demand import Demand, UseLedger
from authz.check.guard import Guard, Presented
from authz.check.policy import PolicyError, RoutePolicies, RoutePolicy
from authz.check.request import CheckRequest
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
from authz.check.verifier import Refused, Verified, Verifier
from authz.revocation.record import (
    Clear,
    Finding,
    PossiblyRevoked,
    Revoked,
    TokenRef,
    Unavailable,
)
from authz.uses.record import First, Used


class RevocationView(Protocol):
    """What is known about revocations, here or in the store."""

    def find(self, ref: TokenRef, now: float, last: Clear) -> Finding | Awaitable[Finding]:
        """Is it revoked? At once where memory knows. `last`: the latest `Clear` that this gave for
        the token, which it may repeat.
        """
        ...


class FailOpenRecorder(Protocol):
    """Puts a fail-open decision on record."""

    async def record(self, request: CheckRequest, identity: Identity, cause: str) -> bool:
        """Whether the request may be let through: it is on record, or needn't be."""
        ...


class Authorizer:
    """Decides about requests."""

    def __init__(
        self,
        *,
        credentials: CredentialFinder,
        verifier: Verifier,
        revocations: RevocationView,
        policies: RoutePolicies,
        guards: Iterable[Guard],
        ledger: UseLedger,
        recorder: FailOpenRecorder,
        clock: Callable[[], float],
    ) -> None:
        """`guards` in their order: what the first ones demand is used up first. `clock` gives
        seconds since 1970.
        """
        self._credentials = credentials
        self._verifier = verifier
        self._revocations = revocations
        self._policies = policies
        self._guards = tuple(guards)
        self._guards_of_cookies = tuple(guard for guard in self._guards if guard.of_cookies)
        self._ledger = ledger
        self._recorder = recorder
        self._clock = clock

    def check(self, request: CheckRequest) -> Verdict | Awaitable[Verdict]:
        """The verdict on a request. Never raises for anything a client can send."""
        try:
            policy = self._policies.of(request.extensions)
        except PolicyError as error:
            return deny(Reason.MISCONFIGURED_ROUTE, detail=str(error))
        credential = self._credentials.find(request)
        if isinstance(credential, Reason):
            if policy.optional and credential in {Reason.TOKEN_MISSING, Reason.SCHEME_UNSUPPORTED}:
                return allow_anonymous()
            return deny(credential)
        now = self._clock()
        token = credential if isinstance(credential, str) else credential.token
        verified = self._verifier.verify(token, now)
        if isinstance(verified, Refused):
            # An unknown key may be a new one: ask its source, at most so often.
            newer_keys = verified.ring.refetch() if verified.ring is not None else None
            if newer_keys is not None:
                return self._check_with_newer_keys(request, policy, credential, newer_keys)
            return deny(verified.reason, detail=verified.detail)
        if token is credential and verified.confirmation is None and not policy.guarded:
            return self._check_revocation(request, policy, verified, now, ())
        return self._ask_guards(request, policy, credential, verified, now)

    async def _check_with_newer_keys(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        credential: str | Credential,
        newer_keys: Awaitable[None],
    ) -> Verdict:
        await newer_keys
        now = self._clock()
        token = credential if isinstance(credential, str) else credential.token
        verified = self._verifier.verify(token, now)
        if isinstance(verified, Refused):
            return deny(verified.reason, detail=verified.detail)
        verdict = self._ask_guards(request, policy, credential, verified, now)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def _ask_guards(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        credential: str | Credential,
        verified: Verified,
        now: float,
    ) -> Verdict | Awaitable[Verdict]:
        if isinstance(credential, str):
            credential = Credential(credential)
        in_cookie = credential.cookie and verified.confirmation is None and not policy.guarded
        presented = Presented(request, credential, verified, policy, now)
        demands: list[Demand] = []
        for guard in self._guards_of_cookies if in_cookie else self._guards:
            found = guard.look(presented)
            if isinstance(found, Verdict):
                return found
            if found is not None:
                demands.append(found)
        return self._check_revocation(request, policy, verified, now, demands)

    def _check_revocation(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        verified: Verified,
        now: float,
        demands: Sequence[Demand],
    ) -> Verdict | Awaitable[Verdict]:
        finding = self._revocations.find(verified.identity.ref, now, verified.clear)
        if isinstance(finding, Clear):
            verified.clear = finding
            if not demands:  # nearly every check ends here, so not by way of `_conclude`
                return policy.objection(verified.identity) or verified.allowed
        elif not isinstance(finding, (Revoked, PossiblyRevoked, Unavailable)):
            return self._conclude_later(request, policy, verified, finding, demands)
        return self._conclude(request, policy, verified, finding, demands)

    async def _conclude_later(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        verified: Verified,
        finding: Awaitable[Finding],
        demands: Sequence[Demand],
    ) -> Verdict:
        verdict = self._conclude(request, policy, verified, await finding, demands)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def _conclude(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        verified: Verified,
        finding: Finding,
        demands: Sequence[Demand],
    ) -> Verdict | Awaitable[Verdict]:
        identity = verified.identity
        match finding:
            case Clear():
                objection = policy.objection(identity)
                if objection is not None:
                    return objection
                if demands:
                    return self._use_up(request, policy, verified, demands, None)
                return verified.allowed
            case Revoked():
                return verified.revoked
            case PossiblyRevoked():
                return deny(Reason.POSSIBLY_REVOKED, identity=identity)
            case Unavailable(cause):
                objection = policy.objection(identity)
                if objection is not None:
                    return objection
                if policy.fail_mode == "closed":
                    return deny(Reason.STORE_UNAVAILABLE, identity=identity)
                if demands:
                    return self._use_up(request, policy, verified, demands, finding)
                return self._fail_open(request, identity, cause)

    async def _use_up(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        verified: Verified,
        demands: Sequence[Demand],
        unavailable: Unavailable | None,
    ) -> Verdict:
        """The last question, since asking it can't be taken back. `unavailable`: what the store
        said when it was asked whether the token is revoked; None: it isn't.
        """
        identity = verified.identity
        unsettled: list[Demand] = []
        passed = False
        try:
            for demand in demands:
                if unavailable is not None and policy.fail_mode == "closed":
                    return deny(Reason.STORE_UNAVAILABLE, identity=identity)
                use = self._ledger.use(
                    demand.bucket, demand.name, demand.until, self._clock(), unavailable
                )
                if not isinstance(use, (First, Used, Unavailable)):
                    use = await use
                if isinstance(use, Used):
                    return demand.again
                if isinstance(use, Unavailable):
                    unsettled.append(demand)
                    unavailable = use
            if unavailable is None:
                headers = tuple(header for demand in demands for header in demand.headers)
                return allow(identity, headers) if headers else verified.allowed
            if policy.fail_mode == "closed":
                return deny(Reason.STORE_UNAVAILABLE, identity=identity)
            verdict = await self._fail_open(request, identity, unavailable.cause)
            passed = verdict.decision is not Decision.DENY
            return verdict
        finally:
            if not passed:  # also where the check was cancelled: who tries again is no second user
                for demand in unsettled:
                    self._ledger.forget(demand.name, demand.until)

    async def _fail_open(self, request: CheckRequest, identity: Identity, cause: str) -> Verdict:
        """Let through what nobody could be asked about, but only once that is on record."""
        if await self._recorder.record(request, identity, cause):
            return allow_fail_open(identity)
        return deny(Reason.AUDIT_UNAVAILABLE, identity=identity)
