"""`issuing`: tokens issued, refreshed and revoked, beside a bare `jwt.encode` in the same run."""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import jwt

from authz.keys.generate import KeyType, generate_key
from authz.keys.signing import signing_key
from loadtest.bench import Bench
from loadtest.feed import scripts
from loadtest.feed.cost import Mark, milliseconds
from loadtest.feed.rig import Rig
from loadtest.issuing.client import OPERATIONS
from loadtest.issuing.service import ISSUER, Service, serving

ALGORITHMS: dict[str, KeyType] = {"RS256": "rsa", "ES256": "ec"}
CONNECTIONS = 16
"""Requests in flight: enough to keep one process busy, few enough that none waits for long."""
COUNT = 400
"""Operations in a turn: about a second, since one takes some 2 ms of a core."""
WARM_UP = 32
ENCODINGS = 200
TIMEOUT = 120.0
"""Seconds for a turn, with what it has to obtain before."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One operation of one round."""

    per_second: float
    server_us: float
    """CPU time of the token service for each."""
    latency_ms: dict[str, float]
    wrong: int


@dataclass(slots=True)
class Issuing:
    connections: int = CONNECTIONS
    encode_us: dict[str, list[float]] = field(default_factory=dict)
    """CPU time of a bare `jwt.encode` with such a key, by algorithm and round."""
    turns: dict[str, dict[str, list[Turn]]] = field(default_factory=dict)
    """By algorithm, operation and round."""
    others: float = 0.0

    @property
    def wrong(self) -> int:
        return sum(
            turn.wrong
            for operations in self.turns.values()
            for turns in operations.values()
            for turn in turns
        )

    def as_json(self) -> dict[str, Any]:
        multiples = {
            algorithm: {name: self.to_encode(algorithm, name) for name in operations}
            for algorithm, operations in self.turns.items()
        }
        return {**asdict(self), "to_encode": multiples}

    def to_encode(self, algorithm: str, operation: str) -> float:
        """CPU time of an operation, as a multiple of a bare `jwt.encode` in the same round."""
        pairs = zip(self.turns[algorithm][operation], self.encode_us[algorithm], strict=True)
        return median(turn.server_us / bare for turn, bare in pairs)


def measure(bench: Bench, *, rounds: int) -> Issuing:
    """Raises as Bench does."""
    found = Issuing()
    with ExitStack() as stack:
        services = {}
        for algorithm in ALGORITHMS:
            # A cluster each, for both know the client by the same name.
            cluster = stack.enter_context(Rig(bench).cluster(f"issuing-{algorithm.lower()}"))
            services[algorithm] = stack.enter_context(serving(bench, cluster, algorithm))
        for service in services.values():
            for operation in OPERATIONS:
                _turn(bench, service, operation, WARM_UP)
        mark = Mark.now(bench)
        for _ in range(rounds):
            for algorithm, service in services.items():
                found.encode_us.setdefault(algorithm, []).append(_encode_us(algorithm))
                by_operation = found.turns.setdefault(algorithm, {})
                for operation in OPERATIONS:
                    turn = _turn(bench, service, operation, COUNT)
                    by_operation.setdefault(operation, []).append(turn)
        found.others = mark.others(bench)
    return found


def _turn(bench: Bench, service: Service, operation: str, count: int) -> Turn:
    what = {
        **service.specification(),
        "operation": operation,
        "count": count,
        "connections": CONNECTIONS,
    }
    command = scripts.command(bench.folder, "client", what, package="issuing")
    said = scripts.read(bench.load(command, TIMEOUT, direct=True))
    done = max(said["operations"], 1)
    return Turn(
        said["operations"] / said["seconds"],
        said["server_seconds"] / done * 1e6,
        milliseconds(said["times_us"]),
        said["wrong"] + (said["operations"] != count),
    )


def _encode_us(algorithm: str) -> float:
    """With claims such as an access token has."""
    key = signing_key(generate_key(ALGORITHMS[algorithm]))
    private: Any = key.key
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": "user-0123456789abcdef0123456789abcdef",
        "aud": "api",
        "iat": now,
        "exp": now + 900,
        "jti": "0123456789abcdefABCDEF",
        "client_id": "loadtest",
        "scope": "read",
        "sid": "0123456789abcdefABCDEF",
    }
    headers = {"kid": key.kid, "typ": "at+jwt"}
    jwt.encode(claims, private, algorithm=algorithm, headers=headers)
    started = time.process_time()
    for _ in range(ENCODINGS):
        jwt.encode(claims, private, algorithm=algorithm, headers=headers)
    return (time.process_time() - started) / ENCODINGS * 1e6
