"""Tokens that work once, in the whole cluster."""

from authz.check.demand import Demand
from authz.check.guard import Presented
from authz.check.verdict import Reason, deny


class OnceGuard:
    """Uses up each token on a route that takes it once."""

    name = "use"
    of_cookies = False

    def look(self, presented: Presented) -> Demand | None:
        """As `Guard.look`."""
        if not presented.policy.once:
            return None
        verified = presented.verified
        ref = verified.identity.ref
        return Demand(
            ref.bucket,
            ref.token,
            until=verified.usable_until,
            again=deny(Reason.TOKEN_USED, identity=verified.identity),
        )
