"""What the steps of a check cost, in one process and without a server.

    python -m loadtest.pieces [--json]

The machine is taken to be noisy: what is counted is CPU time, everything is measured in short
turns, A B C, A B C, ..., and medians are given. Ratios are the medians of the turns' own ratios.
"""

import asyncio
import gc
import json
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import click
import jwt

from authz.check.authorizer import Authorizer
from authz.check.claims import identity_of
from authz.check.credentials import CredentialFinder
from authz.check.guards import all_guards
from authz.check.jose import take_apart
from authz.check.policy import RoutePolicies
from authz.check.request import CheckRequest
from authz.check.token import Identity
from authz.check.verifier import Verifier
from authz.envoy_api import check_pb2 as pb
from authz.envoy_api.service import CheckService
from authz.keys.encryption import parse_decryption_keys
from authz.keys.generate import generate_key
from authz.keys.jwk import parse_jwks, public_part
from authz.keys.keyset import KeySet
from authz.keys.secret import parse_secret
from authz.keys.signing import SigningKey, secret_signing_key, sign, signing_key
from authz.observe.counters import CheckCounters
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.memory import MemoryStore
from authz.revocation.record import CLEAR, Clear, Note, TokenRef, token_digest
from authz.revocation.store import TokenRevocation
from authz.revocation.view import Revocations
from authz.settings import (
    ENCRYPTION_ALGORITHMS,
    CacheSettings,
    FeedSettings,
    IssuerlessSettings,
    IssuerSettings,
)
from authz.tokens.encryption import encrypt
from authz.uses.ledger import Ledger

REPOSITORY = Path(__file__).parents[1]
CAPTURED = REPOSITORY / "tests/data/check_requests"

ISSUER, AUDIENCE = "https://issuer.example", "api"
BUCKETS = 16
"""The default of `store.buckets`."""
LIFETIME = 3600
"""Seconds that a token is good for: longer than this takes."""
ROUNDS = 40
CHECKS = 500
"""Warm ones in a turn: about 5 ms, short enough that most turns are left alone."""
TOKENS = 40
"""Never seen before, in a turn."""
HEADER_KB = (0, 4, 16, 60)
"""Of request headers that nobody asked for; Envoy takes up to 60 KiB in all."""
EXTRA_HEADERS = 20
REMEMBERED = 20_000
"""Tokens, for the memory of one: as many as the cache has room for."""


class _Keys:
    """An issuer's keys that never change."""

    def __init__(self, keys: KeySet) -> None:
        self.keys = keys

    def refetch(self) -> Awaitable[None] | None:
        return None


class _NoRecord:
    async def record(self, request: CheckRequest, identity: Identity, cause: str) -> bool:
        del request, identity, cause
        return False


@dataclass(frozen=True, slots=True)
class Signer:
    """An algorithm with a key of its own."""

    algorithm: str
    private: SigningKey
    public: Any
    """As PyJWT takes it."""
    keys: KeySet

    def tokens(self, count: int) -> list[str]:
        """Each of a user of its own."""
        now = int(time.time())
        return [
            sign(
                {
                    "iss": ISSUER,
                    "sub": f"user-{secrets.token_hex(8)}",
                    "aud": AUDIENCE,
                    "iat": now,
                    "exp": now + LIFETIME,
                    "jti": secrets.token_hex(16),
                    "scope": "read write",
                    "tenant": "tenant-0123456789",
                },
                self.private,
            )
            for _ in range(count)
        ]


def signers() -> dict[str, Signer]:
    secret = secrets.token_hex(32).encode()  # text: of bytes a newline at the end would not count
    made = [
        _signer(generate_key("rsa")),
        _signer(generate_key("ec")),
        _signer(generate_key("ed25519")),
        Signer("HS256", secret_signing_key(secret), secret, parse_secret(secret, ["HS256"])),
    ]
    return {one.algorithm: one for one in made}


def _signer(jwk: dict[str, Any]) -> Signer:
    private: Any = signing_key(jwk)
    document = json.dumps({"keys": [public_part(jwk)]}).encode()
    keys = parse_jwks(document, [private.algorithm], strict=True).keys
    return Signer(private.algorithm, private, private.key.public_key(), keys)


def make_service(
    signer: Signer, store: MemoryStore, *, followed: bool = False, opening: KeySet | None = None
) -> CheckService:
    """All that a sidecar has between its transport and its store, with the default settings.
    `followed`: as with a feed that is live, and has brought nothing. `opening`: the keys of
    encrypted tokens.
    """
    settings = IssuerSettings.model_validate(
        {
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "algorithms": [signer.algorithm],
            "keys": {"secret_env": "-"} if signer.algorithm == "HS256" else {"jwks_file": "/-"},
        }
    )
    revocations = make_view(store, followed=followed)
    authorizer = Authorizer(
        credentials=CredentialFinder(["header:authorization", "cookie:__Host-access"]),
        verifier=Verifier(
            [settings],
            {ISSUER: _Keys(signer.keys)},
            leeway=5.0,
            buckets=BUCKETS,
            cache_size=CacheSettings().tokens,
            decryption={} if opening is None else {ISSUER: _Keys(opening)},
        ),
        revocations=revocations,
        policies=RoutePolicies("open"),
        guards=all_guards(IssuerlessSettings()),
        ledger=Ledger(None),
        recorder=_NoRecord(),
        clock=time.time,
    )
    return CheckService(authorizer, CheckCounters())


def make_view(store: MemoryStore, *, followed: bool) -> Revocations:
    """What a sidecar knows of revocations, with the default settings."""
    cache = CacheSettings()
    knowledge = Knowledge(
        revocations=cache.revocations,
        negative_ttl=cache.negative_ttl,
        false_positives=FeedSettings().false_positives,
        buckets=BUCKETS,
    )
    if followed:
        knowledge.live_until = [math.inf] * BUCKETS
    revocations = Revocations(knowledge, time.time, time.monotonic)
    revocations.use(store)
    return revocations


def make_request(
    token: str,
    *,
    captured: str = "get",
    extra_kb: int = 0,
    extensions: dict[str, str] | None = None,
    headers_too: dict[str, str] | None = None,
    cookie: bool = False,
) -> bytes:
    """A request as Envoy sent it, with another token and so much more in its headers. `cookie`: the
    token is in a cookie instead.
    """
    message = pb.CheckRequest.FromString((CAPTURED / f"{captured}.bin").read_bytes())
    headers = message.attributes.request.http.headers
    for name, value in (headers_too or {}).items():
        headers[name] = value.encode()
    if cookie:
        del headers["authorization"]
        headers["cookie"] = f"__Host-access={token}".encode()
    else:
        headers["authorization"] = f"Bearer {token}".encode()
    for number in range(EXTRA_HEADERS if extra_kb else 0):
        headers[f"x-extra-{number}"] = b"v" * (extra_kb * 1024 // EXTRA_HEADERS)
    for name, value in (extensions or {}).items():
        message.attributes.context_extensions[name] = value
    return message.SerializeToString()


def measure_pieces() -> dict[str, float]:
    """All figures, JSON-ready: `…_us` are microseconds of CPU, `…_ratio` how much of a bare
    `jwt.decode` of the same tokens, `…_to_clear` of the same check of tokens in the clear, `…_mb`
    and `…_kb` resident memory. Takes about fifteen seconds.
    """
    by_algorithm = signers()
    figures = _warm(by_algorithm["RS256"])
    for algorithm, signer in by_algorithm.items():
        figures |= _never_seen(algorithm.lower(), signer)
    figures["never_seen_ratio"] = figures["never_seen_rs256_ratio"]
    figures |= _encrypted(by_algorithm["RS256"])
    child = subprocess.run(
        [sys.executable, "-c", "from loadtest import pieces; pieces.print_memory()"],
        capture_output=True,
        check=True,
        cwd=REPOSITORY,
        timeout=120,
    )
    memory: dict[str, float] = json.loads(child.stdout)
    return figures | memory


def _warm(signer: Signer) -> dict[str, float]:
    store = MemoryStore()
    service = make_service(signer, store)
    token, revoked = signer.tokens(2)
    asyncio.run(_revoke(store, revoked))
    requests = {
        "warm": make_request(token),
        "warm_allowed_headers": make_request(token, captured="allowed-headers"),
        "warm_other_extensions": make_request(token, extensions={"virtual_host": "shop"}),
        "warm_denied": make_request(revoked),
        "warm_https_demanded": make_request(
            token,
            extensions={"authz.require_https": "true"},
            headers_too={"x-forwarded-proto": "https"},
        ),
        "warm_cookie": make_request(token, cookie=True),
    }
    for size in HEADER_KB:
        requests[f"headers_{size}_kb"] = make_request(token, extra_kb=size)
        # With `allowed_headers` Envoy leaves the rest away.
        requests[f"allowed_headers_{size}_kb"] = requests["warm_allowed_headers"]
    turns = {name: partial(_check_again, service, data) for name, data in requests.items()}
    follower = make_service(signer, store, followed=True)
    turns["warm_followed"] = partial(_check_again, follower, requests["warm"])
    view, ref = make_view(store, followed=True), _ref_of(token)
    turns["revocation_first"] = partial(_find, view, ref, CLEAR)
    clear = view.find(ref, time.time())
    turns["revocation_again"] = partial(_find, view, ref, cast("Clear", clear))
    seconds = in_turns(turns)
    return {f"{name}_us": median(taken) * 1e6 for name, taken in seconds.items()}


async def _revoke(store: MemoryStore, token: str) -> None:
    claims = jwt.decode(token, options={"verify_signature": False})
    await store.revoke_token(
        TokenRevocation(
            token=token_digest(ISSUER, claims["jti"], b""),
            user=None,
            bucket=None,
            expires_at=claims["exp"],
            note=Note("loadtest", "loadtest", time.time()),
        )
    )


def _ref_of(token: str) -> TokenRef:
    """As the verifier makes it."""
    jws = take_apart(token)
    return identity_of(jws.claims, ISSUER, jws.signing_input, BUCKETS).ref


def _find(view: Revocations, ref: TokenRef, last: Clear) -> float:
    """Seconds to ask whether it is revoked, of what a live feed knows; `last` is what was found
    before.
    """
    find, now = view.find, time.time()
    started = time.process_time()
    for _ in range(CHECKS):
        find(ref, now, last)
    return (time.process_time() - started) / CHECKS


def _check_again(service: CheckService, data: bytes) -> float:
    """Seconds a check, of a token that is known but for the first time."""
    check = service.check
    check(data)
    started = time.process_time()
    for _ in range(CHECKS):
        check(data)
    return (time.process_time() - started) / CHECKS


def _never_seen(name: str, signer: Signer) -> dict[str, float]:
    tokens = signer.tokens(TOKENS)
    requests = [make_request(token) for token in tokens]
    seconds = in_turns(
        {
            "decode": partial(_decode_all, signer, tokens),
            "check": partial(_check_first, signer, requests),
        }
    )
    ratios = [
        check / decode for check, decode in zip(seconds["check"], seconds["decode"], strict=True)
    ]
    return {
        f"never_seen_{name}_us": median(seconds["check"]) * 1e6,
        f"jwt_decode_{name}_us": median(seconds["decode"]) * 1e6,
        f"never_seen_{name}_ratio": median(ratios),
    }


def _encrypted(signer: Signer) -> dict[str, float]:
    """Tokens never seen that come encrypted, beside the same in the clear."""
    made = [generate_key("rsa", use="enc"), generate_key("ec", use="enc")]
    document = json.dumps({"keys": made}).encode()
    opening = parse_decryption_keys(document, ENCRYPTION_ALGORITHMS).keys
    turns: dict[str, Callable[[], float]] = {}
    for jwk in ({"alg": "clear"}, *made):
        texts = signer.tokens(TOKENS)
        if jwk in made:
            published = json.dumps({"keys": [public_part(jwk)]}).encode()
            texts = [encrypt(text, published) for text in texts]
        requests = [make_request(text) for text in texts]
        turns[jwk["alg"].lower()] = partial(_check_first, signer, requests, opening)
    seconds = in_turns(turns)
    clear = seconds.pop("clear")
    return {
        f"never_seen_{name.replace('-', '_')}_{unit}": figure
        for name, taken in seconds.items()
        for unit, figure in (
            ("us", median(taken) * 1e6),
            ("to_clear", median(one / other for one, other in zip(taken, clear, strict=True))),
        )
    }


def _decode_all(signer: Signer, tokens: Sequence[str]) -> float:
    """Seconds that PyJWT needs for one, as its users call it."""
    started = time.process_time()
    for token in tokens:
        jwt.decode(
            token, signer.public, algorithms=[signer.algorithm], audience=AUDIENCE, issuer=ISSUER
        )
    return (time.process_time() - started) / len(tokens)


def _check_first(signer: Signer, requests: Sequence[bytes], opening: KeySet | None = None) -> float:
    """Seconds for the first check of a token, from the request's bytes to the answer's."""
    service = make_service(signer, MemoryStore(), opening=opening)
    started = time.process_time()
    for request in requests:
        service.check(request)
    return (time.process_time() - started) / len(requests)


def in_turns(turns: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    for turn in turns.values():
        turn()
    taken: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            taken[name].append(turn())
    return taken


def print_memory() -> None:
    """Resident memory of a process that has imported what a sidecar has, before and with
    REMEMBERED tokens. As JSON; for a process of its own.
    """
    import authz.sidecar  # noqa: F401 - for its memory

    signer = signers()["HS256"]  # the algorithm makes no difference, and this one is quick
    service = make_service(signer, MemoryStore())
    for token in signer.tokens(100):
        service.check(make_request(token))
    gc.collect()
    rest = _resident()
    for _ in range(REMEMBERED // 100):
        for token in signer.tokens(100):
            service.check(make_request(token))
    gc.collect()
    full = _resident()
    figures = {
        "memory_rest_mb": rest / 1e6,
        "memory_full_mb": full / 1e6,
        "memory_token_kb": (full - rest) / REMEMBERED / 1024,
    }
    print(json.dumps(figures))


def _resident() -> int:
    """Bytes (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def main(as_json: bool) -> None:
    """Measure the steps of a check in this process: about ten seconds.

    \b
    Example:
      python -m loadtest.pieces --json
    """
    figures = measure_pieces()
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for name, figure in figures.items():
        print(f"{name:32} {figure:8.2f}")


if __name__ == "__main__":
    main()
