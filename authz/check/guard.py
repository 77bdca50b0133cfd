"""Further demands on a token whose signature is good: how it came, and by whom it may be shown.

A guard is asked between the signature and the question whether the token is revoked. What it finds
costs nothing but computing, so that a request which it refuses asks no store. What a request would
use up it names, and the authorizer uses that up at the very end, when nothing else speaks against
the request.

No guard is asked about a plain bearer token on a route without demands. So whatever a guard refuses
must show in one of three: the credential is no plain text, the token has a `cnf`, or the route is
`guarded`.
"""

from typing import NamedTuple, Protocol

from authz.check.credentials import Credential
from authz.check.demand import Demand
from authz.check.policy import RoutePolicy
from authz.check.request import CheckRequest
from authz.check.verdict import Verdict
from authz.check.verifier import Verified


class Presented(NamedTuple):
    """A good token, and how it was presented."""

    request: CheckRequest
    credential: Credential
    verified: Verified
    policy: RoutePolicy
    now: float
    """Seconds since 1970."""


class Guard(Protocol):
    """One demand."""

    @property
    def name(self) -> str:
        """What it looks at, in a word; `authz explain` shows it."""
        ...

    def look(self, presented: Presented) -> Verdict | Demand | None:
        """A denial; what the request uses up; None where there is nothing to say. Never raises for
        anything a client can send.
        """
        ...
