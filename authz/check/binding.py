"""Tokens that are bound to their holder (`cnf`), of no use to whoever else has them."""

from authz.check.certificate import certificate_thumbprint
from authz.check.guard import Presented
from authz.check.verdict import Reason, Verdict, deny


class BindingGuard:
    """Refuses a token that came without the certificate it is bound to, and one that is bound to
    nothing where the route demands that. Keys are another guard's.
    """

    name = "binding"
    of_cookies = False

    def look(self, presented: Presented) -> Verdict | None:
        """As `Guard.look`."""
        verified = presented.verified
        confirmation = verified.confirmation
        if confirmation is None:
            if presented.policy.bound:
                return deny(Reason.BINDING_REQUIRED, identity=verified.identity)
            return None
        if confirmation.certificate is not None and confirmation.certificate != (
            certificate_thumbprint(presented.request.certificate)
        ):
            return deny(Reason.BINDING_MISMATCH, identity=verified.identity)
        return None
