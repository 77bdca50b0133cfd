"""Tokens that came over plain HTTP, where anyone on the way could read them."""

from collections.abc import Callable

from authz.check.guard import Presented
from authz.check.request import FORWARDED_PROTO_HEADER, CheckRequest
from authz.check.token import Identity
from authz.check.verdict import Reason, Verdict, deny


class TransportGuard:
    """Refuses a token that did not come over HTTPS, where the route demands that."""

    name = "transport"
    of_cookies = False

    def __init__(self, exposed: Callable[[Identity], None] | None = None) -> None:
        """`exposed` is told whose token came in the clear and is bound to nothing, and returns at
        once; None: nobody is.
        """
        self._exposed = exposed

    def look(self, presented: Presented) -> Verdict | None:
        """As `Guard.look`."""
        if not presented.policy.require_https:
            return None
        identity = presented.verified.identity
        match client_scheme(presented.request):
            case "https":
                return None
            case "":  # no client can bring that about: Envoy always sets the header
                return deny(
                    Reason.MISCONFIGURED_ROUTE,
                    identity=identity,
                    detail=f"authz.require_https needs {FORWARDED_PROTO_HEADER} from Envoy",
                )
            # One that is bound is of no use to who read it, and whoever did could have it revoked.
            case "http" if self._exposed is not None and presented.verified.confirmation is None:
                self._exposed(identity)
        return deny(Reason.HTTPS_REQUIRED, identity=identity)


def client_scheme(request: CheckRequest) -> str:
    """`http`, `https`, something odd in lower case, or empty where Envoy did not say.

    By `x-forwarded-proto`: Envoy sets it to what the connection is, and believes a client's only
    where `xff_num_trusted_hops` trusts the hop before, or `use_remote_address` is off. Never by
    `:scheme`, which each client of HTTP/2 chooses.
    """
    return ",".join(request.header(FORWARDED_PROTO_HEADER)).lower()
