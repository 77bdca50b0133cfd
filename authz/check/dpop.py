"""Tokens that are bound to a key (DPoP, RFC 9449): of no use without it."""

from collections.abc import Iterable

from authz.check.demand import Demand
from authz.check.guard import Presented
from authz.check.proof import BadProof, Expected, Proof, ProofVerifier
from authz.check.request import PROOF_HEADER, CheckRequest
from authz.check.transport import client_scheme
from authz.check.url import normal_origin, normal_path
from authz.check.verdict import Reason, Verdict, deny

NONCE_HEADER = "dpop-nonce"


class DpopGuard:
    """Asks of each token that is bound to a key for a proof by that key, which works once."""

    name = "dpop"
    of_cookies = False

    def __init__(self, proofs: ProofVerifier, origins: Iterable[str]) -> None:
        """`origins`: `scheme://host[:port]` by which clients know us. None of them: whatever the
        request itself says.
        """
        self._proofs = proofs
        self._origins = tuple(normal_origin(*origin.split("://", 1)) for origin in origins)

    def look(self, presented: Presented) -> Verdict | Demand | None:
        """As `Guard.look`."""
        verified, credential = presented.verified, presented.credential
        identity = verified.identity
        jkt = None if verified.confirmation is None else verified.confirmation.jkt
        if jkt is None and credential.scheme != "dpop":
            return None
        if jkt is None or credential.scheme != "dpop":  # section 7.2: neither may pass as the other
            return deny(Reason.SCHEME_MISMATCH, identity=identity)
        proofs = presented.request.header(PROOF_HEADER)
        if not any(proofs):
            headers = _nonce_header(self._proofs.fresh_nonce(presented.now))
            return deny(Reason.PROOF_MISSING, identity=identity, headers=headers)
        if len(proofs) > 1 or "," in proofs[0]:
            return deny(Reason.PROOF_INVALID, identity=identity, detail="more than one")
        expected = Expected(
            presented.request.method, self._urls(presented.request), credential.token, jkt
        )
        match self._proofs.verify(proofs[0].strip(" \t"), expected, presented.now):
            case BadProof(Reason.NONCE_REQUIRED):
                headers = _nonce_header(self._proofs.fresh_nonce(presented.now))
                return deny(Reason.NONCE_REQUIRED, identity=identity, headers=headers)
            case BadProof(reason, detail):
                return deny(reason, identity=identity, detail=detail)
            case Proof(_, name, until, nonce):
                again = deny(Reason.PROOF_REPLAYED, identity=identity)
                return Demand(identity.ref.bucket, name, until, again, _nonce_header(nonce))

    def _urls(self, request: CheckRequest) -> list[str]:
        """What `htu` may be."""
        path = normal_path(request.path)
        if self._origins:
            return [origin + path for origin in self._origins]
        # Where Envoy isn't asked to pass `x-forwarded-proto` on, its own idea of the scheme has to
        # do, which a client of HTTP/2 chooses: it would only fail to match its own proof.
        scheme = client_scheme(request) or request.scheme
        return [normal_origin(scheme, request.host) + path]


def _nonce_header(nonce: str | None) -> tuple[tuple[str, str], ...]:
    return () if nonce is None else ((NONCE_HEADER, nonce),)
