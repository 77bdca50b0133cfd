"""Turns a fail-open decision about a request into a record of the audit."""

from collections.abc import Callable

from authz.audit import instant
from authz.audit.fields import FailOpen
from authz.audit.log import AuditLog
from authz.audit.pending import Pending
from authz.check.request import CheckRequest
from authz.check.token import Identity

FAIL_MODE_EXTENSION = "authz.fail_mode"
"""The key of Envoy's `context_extensions` by which a route chooses its own fail mode."""


class FailOpenRecorder:
    """What the authorizer asks before it lets a request through unasked."""

    def __init__(
        self, log: AuditLog, *, required: bool, pending: Pending, clock: Callable[[], float]
    ) -> None:
        """`pending` is told each token that is let through. `clock`: seconds since 1970."""
        self._log = log
        self._required = required
        self._pending = pending
        self._clock = clock
        self.fail_opens: dict[str, int] = {}
        """Requests that were let through, by why the store was not asked. For metrics."""

    async def record(self, request: CheckRequest, identity: Identity, cause: str) -> bool:
        """Whether the request may be let through: it is on record, or needn't be.

        Without `audit.required` it still waits for the record, at most `audit.timeout`: a record
        that precedes the request is worth more than one that may follow.
        """
        now = self._clock()  # the same instant in the record and in the memory
        written = await self._log.record(fail_open(request, identity, cause), at=now)
        if not written and self._required:
            return False
        self.fail_opens[cause] = self.fail_opens.get(cause, 0) + 1
        self._pending.add(
            identity.issuer,
            identity.subject,
            identity.token_id,
            identity.ref,
            instant.milliseconds(now),
        )
        return True


def fail_open(request: CheckRequest, identity: Identity, cause: str) -> FailOpen:
    """The record of letting `request` through with the token of `identity`."""
    ref = identity.ref
    return FailOpen(
        request_id=request.request_id,
        method=request.method,
        path=request.path,
        host=request.host,
        source=request.source,
        issuer=identity.issuer,
        subject=identity.subject,
        token_id=identity.token_id,
        token=ref.token,
        user=ref.user,
        bucket=ref.bucket,
        issued_at=ref.issued_at,
        expires_at=ref.expires_at,
        cause=cause,
        fail_mode_from="route" if FAIL_MODE_EXTENSION in request.extensions else "settings",
    )
