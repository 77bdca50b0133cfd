"""All guards, in their order."""

from authz.check.binding import BindingGuard
from authz.check.guard import Guard
from authz.check.once import OnceGuard


def all_guards() -> tuple[Guard, ...]:
    """Those that refuse without effect come first; what a request uses up is used up in this order,
    so that a proof that was seen before doesn't use up a token.
    """
    return (BindingGuard(), OnceGuard())
