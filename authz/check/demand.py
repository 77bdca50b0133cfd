"""What a request uses up, and who keeps account of it."""

from collections.abc import Awaitable
from typing import NamedTuple, Protocol

from authz.check.verdict import Verdict
from authz.revocation.record import Unavailable
from authz.uses.record import Use


class Demand(NamedTuple):
    """Something that must not have been used before, and that this request uses up."""

    bucket: int
    """Where it is remembered: that of the token's user."""
    name: str
    """43 characters of a digest, scoped by what kind of thing it is."""
    until: float
    """When it can't be used any more in any case, the same each time. Seconds since 1970."""
    again: Verdict
    """The denial of a second use."""
    headers: tuple[tuple[str, str], ...] = ()
    """What the client is told where the request passes: as `Verdict.headers`."""


class UseLedger(Protocol):
    """What was used, in the whole cluster: `authz.uses.ledger.Ledger`."""

    def use(
        self,
        bucket: int,
        name: str,
        until: float,
        now: float,
        unavailable: Unavailable | None = None,
    ) -> Use | Awaitable[Use]:
        """Use it up: of any number of tries one is `First` at most. `now`: seconds since 1970.

        `unavailable`: what the store said to this check already; then only memory is asked.
        """
        ...

    def forget(self, name: str, until: float) -> None:
        """The ledger could not ask the store about this use, and the request was refused."""
        ...
