"""All guards, in their order."""

from authz.check.binding import BindingGuard
from authz.check.dpop import DpopGuard
from authz.check.guard import Guard
from authz.check.nonce import Nonces
from authz.check.once import OnceGuard
from authz.check.proof import ProofVerifier
from authz.settings import Settings


def all_guards(settings: Settings, *, nonces: Nonces | None = None) -> tuple[Guard, ...]:
    """Those that refuse without effect come first; what a request uses up is used up in this order,
    so that a proof that was seen before doesn't use up a token. `nonces`: None where proofs need
    none.
    """
    proofs = ProofVerifier(max_age=settings.dpop.max_age, leeway=settings.leeway, nonces=nonces)
    return (BindingGuard(), DpopGuard(proofs, settings.dpop.origins or ()), OnceGuard())
