"""What a proof of possession (DPoP) costs a check, in one process and without a server.

    python -m loadtest.proofs [--json]

Measured as `pieces.py` measures: CPU time, in short turns, medians. Beside each check with a proof
stands one of the same token as a bearer token, seen before, and a bare verification by PyJWT.
"""

import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median
from typing import Any

import click
import jwt

from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.service import CheckService
from authz.keys.generate import KeyType, generate_key
from authz.keys.jwk import public_part, thumbprint
from authz.keys.signing import sign, signing_key
from authz.revocation.memory import MemoryStore
from loadtest.pieces import AUDIENCE, ISSUER, LIFETIME, Signer, in_turns, make_service, signers

PROOFS = 40
"""In a turn; each works once."""
PATH = "/"
HOST = "app.example"
KINDS: dict[str, KeyType] = {"ES256": "ec", "EdDSA": "ed25519", "RS256": "rsa"}
"""By algorithm: the kind of key, as `authz keys generate --type` has it."""


class Client:
    """A client with a key, and a token that is bound to it."""

    def __init__(self, algorithm: str, issuer: Signer) -> None:
        key = generate_key(KINDS[algorithm])
        private: Any = signing_key(key)
        self.algorithm = algorithm
        self.public = private.key.public_key()
        self._private = private.key
        self._jwk = {name: key[name] for name in public_part(key) if name not in {"kid", "use"}}
        self.token = sign(_claims(cnf={"jkt": thumbprint(key)}), issuer.private)
        hashed = hashlib.sha256(self.token.encode()).digest()
        self._ath = urlsafe_b64encode(hashed).rstrip(b"=").decode()

    def proof(self) -> str:
        claims = {
            "jti": secrets.token_urlsafe(16),
            "htm": "GET",
            "htu": f"https://{HOST}{PATH}",
            "iat": int(time.time()),
            "ath": self._ath,
        }
        header = {"typ": "dpop+jwt", "jwk": self._jwk}
        return jwt.encode(claims, self._private, algorithm=self.algorithm, headers=header)


def measure_proofs() -> dict[str, float]:
    """JSON-ready: `bearer_us` and `proof_…_us` are microseconds of CPU of a check, `verify_…_us` of
    a bare `jwt.decode` of the proof, `proof_…_ratio` of a check by that of the bearer token.
    """
    issuer = signers()["RS256"]
    service = make_service(issuer, MemoryStore(), followed=True)
    clients = {algorithm: Client(algorithm, issuer) for algorithm in KINDS}
    bearer = sign(_claims(), issuer.private)
    turns: dict[str, Callable[[], float]] = {"bearer": partial(_check_bearer, service, bearer)}
    for algorithm, client in clients.items():
        turns[f"proof_{algorithm.lower()}"] = partial(_check_proofs, service, client)
        turns[f"verify_{algorithm.lower()}"] = partial(_verify, client)
    seconds = in_turns(turns)
    figures = {f"{name}_us": median(taken) * 1e6 for name, taken in seconds.items()}
    for algorithm in KINDS:
        name = f"proof_{algorithm.lower()}"
        ratios = [one / of for one, of in zip(seconds[name], seconds["bearer"], strict=True)]
        figures[f"{name}_ratio"] = median(ratios)
    return figures


def _claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": ISSUER,
        "sub": "alice",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + LIFETIME,
        "jti": secrets.token_hex(16),
        "scope": "read write",
        **changes,
    }


def _request(authorization: str, proof: str = "") -> bytes:
    message = pb.CheckRequest()
    http = message.attributes.request.http
    http.method, http.host, http.path, http.scheme = b"GET", HOST.encode(), PATH.encode(), b"https"
    http.headers["authorization"] = authorization.encode()
    http.headers["x-forwarded-proto"] = b"https"
    http.headers["x-request-id"] = b"e7e35578-0000-4000-8000-000000000000"
    if proof:
        http.headers["dpop"] = proof.encode()
    return message.SerializeToString()


def _check_bearer(service: CheckService, token: str) -> float:
    data = _request(f"Bearer {token}")
    service.check(data)
    started = time.process_time()
    for _ in range(PROOFS):
        service.check(data)
    return (time.process_time() - started) / PROOFS


def _check_proofs(service: CheckService, client: Client) -> float:
    """Seconds a check with a proof, of a token and a key that are known."""
    authorization = f"DPoP {client.token}"
    requests = [_request(authorization, client.proof()) for _ in range(PROOFS + 1)]
    _finish(service, requests.pop())
    started = time.process_time()
    for data in requests:
        _finish(service, data)
    return (time.process_time() - started) / PROOFS


def _finish(service: CheckService, data: bytes) -> None:
    """A check that has to use something up is a coroutine, which here has nobody to wait for."""
    answer = service.check(data)
    encoded = answer if isinstance(answer, bytes) else _value_of(answer)
    message = pb.CheckResponse.FromString(encoded)
    if message.status.code:
        raise click.ClickException(message.denied_response.body)


def _value_of(answer: Awaitable[bytes]) -> bytes:
    try:
        next(answer.__await__())
    except StopIteration as done:
        value: bytes = done.value
        return value
    raise click.ClickException("a check waits, although its ledger is in memory")


def _verify(client: Client) -> float:
    proofs = [client.proof() for _ in range(PROOFS)]
    started = time.process_time()
    for proof in proofs:
        jwt.decode(proof, client.public, algorithms=[client.algorithm])
    return (time.process_time() - started) / PROOFS


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def main(as_json: bool) -> None:
    """Measure what a proof of possession costs: about ten seconds.

    \b
    Example:
      python -m loadtest.proofs --json
    """
    figures = measure_proofs()
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, figure in figures.items():
        print(f"{name:32} {figure:8.2f}")


if __name__ == "__main__":
    main()
