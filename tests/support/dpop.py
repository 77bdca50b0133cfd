"""Keys that tokens are bound to, and proofs by them: made with cryptography and PyJWT only."""

import hashlib
import json
import time
from itertools import count
from typing import Any

import jwt

from support.jwks import PrivateKey, b64, default_algorithm, ec_key, jwk, sign

_numbers = count(time.time_ns())


class ProofKey:
    """A client's key pair."""

    def __init__(self, key: PrivateKey | None = None, alg: str | None = None) -> None:
        self.key = ec_key("a client's") if key is None else key
        self.alg = alg or default_algorithm(self.key)

    @property
    def jwk(self) -> dict[str, Any]:
        return jwk(self.key, use=None)

    @property
    def jkt(self) -> str:
        """RFC 7638 section 3, written anew."""
        names = {"EC": "crv kty x y", "RSA": "e kty n", "OKP": "crv kty x"}[self.jwk["kty"]]
        members = {name: self.jwk[name] for name in names.split()}
        text = json.dumps(members, separators=(",", ":"), sort_keys=True)
        return b64(hashlib.sha256(text.encode()).digest())

    @property
    def cnf(self) -> dict[str, str]:
        """For a token's claims."""
        return {"jkt": self.jkt}

    def prove(
        self,
        method: str,
        url: str,
        token: str | None = None,
        *,
        now: float | None = None,
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A proof for this request. `claims` and `headers` replace what it would have; those set to
        `...` are left out.
        """
        values: dict[str, Any] = {
            "jti": f"proof-{next(_numbers)}",
            "htm": method,
            "htu": url,
            "iat": int(time.time() if now is None else now),
            "ath": ... if token is None else b64(hashlib.sha256(token.encode()).digest()),
            **claims,
        }
        header = {"typ": "dpop+jwt", "jwk": self.jwk, **(headers or {})}
        return sign(
            {name: value for name, value in values.items() if value is not ...},
            self.key,
            alg=self.alg,
            headers={name: None if value is ... else value for name, value in header.items()},
        )


def claims_of(proof: str) -> dict[str, Any]:
    """What a proof says, unverified."""
    claims: dict[str, Any] = jwt.decode(proof, options={"verify_signature": False})
    return claims
