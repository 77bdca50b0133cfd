"""Tokens that are bound to their holder (`cnf`), of no use to whoever else has them."""

from authz.check.guard import Presented
from authz.check.verdict import Reason, Verdict, deny


class BindingGuard:
    """Refuses a bound token that came without what it is bound to."""

    def look(self, presented: Presented) -> Verdict | None:
        """As `Guard.look`."""
        verified = presented.verified
        if verified.confirmation is None:
            if presented.policy.bound:
                return deny(Reason.BINDING_REQUIRED, identity=verified.identity)
            return None
        return deny(Reason.BINDING_MISMATCH, identity=verified.identity)
