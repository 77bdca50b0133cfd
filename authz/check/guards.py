"""All guards, in their order."""

from collections.abc import Callable

from authz.check.binding import BindingGuard
from authz.check.csrf import CsrfGuard
from authz.check.dpop import DpopGuard
from authz.check.guard import Guard
from authz.check.nonce import Nonces
from authz.check.once import OnceGuard
from authz.check.proof import ProofVerifier
from authz.check.token import Identity
from authz.check.transport import TransportGuard
from authz.settings import Settings


def all_guards(
    settings: Settings,
    *,
    exposed: Callable[[Identity], None] | None = None,
    nonces: Nonces | None = None,
) -> tuple[Guard, ...]:
    """Those that only refuse come first. What a request uses up is used up in this order, so that a
    proof that was seen before doesn't use up a token. `exposed`: as of `TransportGuard`. `nonces`:
    None where proofs of possession need none.
    """
    proofs = ProofVerifier(max_age=settings.dpop.max_age, leeway=settings.leeway, nonces=nonces)
    return (
        TransportGuard(exposed),
        CsrfGuard(settings.csrf.trusted_origins),
        BindingGuard(),
        DpopGuard(proofs, settings.dpop.origins or ()),
        OnceGuard(),
    )
