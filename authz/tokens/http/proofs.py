"""Proofs of possession (DPoP, RFC 9449 section 5): to whose key a token is bound."""

import binascii
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request

from authz.check.proof import BadProof, Expected, Proof, ProofVerifier
from authz.check.url import normal_url
from authz.check.verdict import PROOF_ALGORITHMS, Reason
from authz.revocation.record import Unavailable
from authz.tokens.http.errors import OAuthError, unavailable
from authz.uses.ledger import Ledger
from authz.uses.record import Used

PROOF_HEADER = "dpop"


class Proven(NamedTuple):
    """What a proof has shown."""

    cnf: Mapping[str, Any]
    """For a token that is bound to the key: `{"jkt": …}` (section 6.1)."""
    next_nonce: str | None
    """What the client's next proof should have in it (section 8.2); None: it may go on as it is."""


class Proofs:
    """Reads the proof of a request, which works once in the whole cluster."""

    algorithms = PROOF_ALGORITHMS

    def __init__(self, verifier: ProofVerifier, ledger: Ledger, buckets: int) -> None:
        self._verifier = verifier
        self._ledger = ledger
        self._buckets = buckets

    async def of(
        self, request: Request, url: str, now: float, *, access_token: str | None = None
    ) -> Proven | None:
        """Who sent the request to `url`; None: there is no proof.

        `access_token`: what the proof has to go with. OAuthError: the proof is no good, or nobody
        can say whether it was used before.
        """
        values = request.headers.getlist(PROOF_HEADER)
        if not values:
            return None
        if len(values) > 1:
            raise _bad("more than one came")
        expected = Expected(request.method, [normal_url(url) or url], access_token, None)
        proof = self._verifier.verify(values[0], expected, now)
        if isinstance(proof, BadProof):
            if proof.reason is Reason.NONCE_REQUIRED:
                # Section 8: with a nonce for the next try.
                nonce = self._verifier.fresh_nonce(now) or ""
                raise OAuthError(
                    400, "use_dpop_nonce", "the proof needs this nonce", {"dpop-nonce": nonce}
                )
            raise _bad(proof.detail or proof.reason.value.description)
        await self._use(proof, now)
        return Proven({"jkt": proof.jkt}, proof.next_nonce)

    async def _use(self, proof: Proof, now: float) -> None:
        bucket = binascii.crc32(proof.name.encode()) % self._buckets
        use = self._ledger.use(bucket, proof.name, proof.until, now)
        match await use if isinstance(use, Awaitable) else use:
            case Used():
                raise _bad("it was used before")
            case Unavailable():
                self._ledger.forget(proof.name, proof.until)
                raise unavailable("store")


def _bad(detail: str) -> OAuthError:
    return OAuthError(400, "invalid_dpop_proof", f"the DPoP proof is no good: {detail}")
