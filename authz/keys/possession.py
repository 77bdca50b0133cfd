"""Proofs of possession of a key (DPoP, RFC 9449): what a client makes, for trying things out."""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

from authz.check.verdict import PROOF_ALGORITHMS
from authz.keys.errors import KeySourceError
from authz.keys.jwk import public_part, thumbprint
from authz.keys.keyfile import read_keys
from authz.keys.signing import signing_key


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever has a private key."""

    _jwk: Mapping[str, Any] = field(repr=False)

    @property
    def jkt(self) -> str:
        """What a token is bound to by (section 6.1)."""
        return thumbprint(self._jwk)

    def prove(
        self,
        method: str,
        url: str,
        *,
        token: str | None,
        nonce: str | None,
        jti: str,
        now: float,
    ) -> str:
        """A proof for one request (section 4.2). KeySourceError: proofs aren't signed by such keys.

        `token`: the one that the request presents; `now`: seconds since 1970.
        """
        key = signing_key(self._jwk)
        if key.algorithm not in PROOF_ALGORITHMS:
            names = ", ".join(PROOF_ALGORITHMS)
            raise KeySourceError(f"signs with {key.algorithm}; proofs are signed with {names}")
        claims = {"jti": jti, "htm": method, "htu": url, "iat": int(now)}
        if token is not None:
            hashed = hashlib.sha256(token.encode()).digest()
            claims["ath"] = urlsafe_b64encode(hashed).rstrip(b"=").decode()
        if nonce is not None:
            claims["nonce"] = nonce
        public = public_part(self._jwk)
        bare = {name: public[name] for name in public.keys() - {"kid", "use", "alg"}}
        header = {"typ": "dpop+jwt", "jwk": bare}
        private: Any = key.key
        return jwt.encode(claims, private, algorithm=key.algorithm, headers=header)


def load_holder(path: Path) -> Holder:
    """Of the first key in a private JWK Set. KeySourceError: the file can't be used."""
    return Holder(read_keys(path, private=True)[0])
