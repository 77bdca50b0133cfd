"""The pipeline: every check, as ordered guards on one screen.

`check` answers at once when memory holds the answer, and returns an awaitable only when someone
has to be asked: the store, a key source, or the audit log.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from authz.check.credentials import CredentialFinder
from authz.check.policy import PolicyError, RoutePolicies, RoutePolicy
from authz.check.request import CheckRequest
from authz.check.token import Identity
from authz.check.verdict import (
    Reason,
    Verdict,
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
        recorder: FailOpenRecorder,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._credentials = credentials
        self._verifier = verifier
        self._revocations = revocations
        self._policies = policies
        self._recorder = recorder
        self._clock = clock

    def check(self, request: CheckRequest) -> Verdict | Awaitable[Verdict]:
        """The verdict on a request. Never raises for anything a client can send."""
        try:
            policy = self._policies.of(request.extensions)
        except PolicyError as error:
            return deny(Reason.MISCONFIGURED_ROUTE, detail=str(error))
        token = self._credentials.find(request)
        if isinstance(token, Reason):
            if policy.optional and token in {Reason.TOKEN_MISSING, Reason.SCHEME_UNSUPPORTED}:
                return allow_anonymous()
            return deny(token)
        now = self._clock()
        verified = self._verifier.verify(token, now)
        if isinstance(verified, Refused):
            # An unknown key may be a new one: ask its source, at most so often.
            newer_keys = verified.ring.refetch() if verified.ring is not None else None
            if newer_keys is not None:
                return self._check_with_newer_keys(request, policy, token, newer_keys)
            return deny(verified.reason, detail=verified.detail)
        return self._check_revocation(request, policy, verified, now)

    async def _check_with_newer_keys(
        self, request: CheckRequest, policy: RoutePolicy, token: str, newer_keys: Awaitable[None]
    ) -> Verdict:
        await newer_keys
        now = self._clock()
        verified = self._verifier.verify(token, now)
        if isinstance(verified, Refused):
            return deny(verified.reason, detail=verified.detail)
        verdict = self._check_revocation(request, policy, verified, now)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def _check_revocation(
        self, request: CheckRequest, policy: RoutePolicy, verified: Verified, now: float
    ) -> Verdict | Awaitable[Verdict]:
        finding = self._revocations.find(verified.identity.ref, now, verified.clear)
        if isinstance(finding, Clear):
            verified.clear = finding
        elif not isinstance(finding, (Revoked, PossiblyRevoked, Unavailable)):
            return self._conclude_later(request, policy, verified, finding)
        return self._conclude(request, policy, verified, finding)

    async def _conclude_later(
        self,
        request: CheckRequest,
        policy: RoutePolicy,
        verified: Verified,
        finding: Awaitable[Finding],
    ) -> Verdict:
        verdict = self._conclude(request, policy, verified, await finding)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def _conclude(
        self, request: CheckRequest, policy: RoutePolicy, verified: Verified, finding: Finding
    ) -> Verdict | Awaitable[Verdict]:
        identity = verified.identity
        match finding:
            case Clear():
                return policy.objection(identity) or verified.allowed
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
                return self._fail_open(request, identity, cause)

    async def _fail_open(self, request: CheckRequest, identity: Identity, cause: str) -> Verdict:
        """Let through what nobody could be asked about, but only once that is on record."""
        if await self._recorder.record(request, identity, cause):
            return allow_fail_open(identity)
        return deny(Reason.AUDIT_UNAVAILABLE, identity=identity)
