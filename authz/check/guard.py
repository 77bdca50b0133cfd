"""Further demands on a token whose signature is good: how it came, and by whom it may be shown.

A guard is asked between the signature and the question whether the token is revoked. What it finds
costs nothing but computing, so that a request which it refuses asks no store. What a request would
use up it names, and the authorizer uses that up at the very end, when nothing else speaks against
the request.

No guard is asked about a bearer token in a header that is bound to nothing, on a route that isn't
`guarded`, and only those `of_cookies` about such a token in a cookie. So whatever a guard refuses
must show in the scheme, in a `cnf`, or in what makes a route `guarded`.
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

    @property
    def of_cookies(self) -> bool:
        """Whether it has something to say of tokens in cookies, and of no others. Of a token in a
        cookie that needs no other guard only these are asked.
        """
        ...

    def look(self, presented: Presented) -> Verdict | Demand | None:
        """A denial; what the request uses up; None where there is nothing to say. Never raises for
        anything a client can send.
        """
        ...
