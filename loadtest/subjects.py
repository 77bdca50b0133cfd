"""What is compared: the servers that answer checks, and the ways of asking them."""

from dataclasses import dataclass
from enum import StrEnum, unique

from authz.check.verdict import Decision, Reason

ALLOWED = f"{Decision.ALLOW}:{Reason.OK}"
DENIED = f"{Decision.DENY}:{Reason.TOKEN_REVOKED}"
"""Verdicts as the sidecar's `/status` counts them."""


@unique
class Server(StrEnum):
    """A process that answers checks, and how it is set. `servers.py` has the settings."""

    OK_GRPCIO = "ok-grpcio"
    """Answers OK without looking, on grpcio: `ok_only.py`."""
    OK_NATIVE = "ok-native"
    """Answers OK without looking, on the sidecar's own transport: `ok_only.py`."""
    MEMORY = "memory"
    """A sidecar with `memory://`: nobody is asked."""
    GRPCIO = "grpcio"
    """The same with `transport: grpcio`."""
    REDIS = "redis"
    """A sidecar with `redis://`, its feed and the default caches."""
    COLD = "cold"
    """`memory://`, and room for one token: with many in turn, each counts as never seen."""
    COLD_REDIS = "cold-redis"
    """`redis://` without the feed, and room for one token and one answer: each check asks Redis."""
    COLD_CLUSTER = "cold-cluster"
    """The same with `redis+cluster://`."""
    COLD_FEED = "cold-feed"
    """The same with the feed: it says of each token that nobody has revoked it."""
    FILLED = "filled"
    """A sidecar with `memory://`, for its memory alone."""
    LARGE = "large"
    """A sidecar with `memory://` and room for all tokens that the load test can make."""


SERVERS_OF_REDIS = frozenset({Server.REDIS, Server.COLD_REDIS})
SERVERS_OF_CLUSTER = frozenset({Server.COLD_CLUSTER, Server.COLD_FEED})
SERVERS_WITHOUT_A_SIDECAR = frozenset({Server.OK_GRPCIO, Server.OK_NATIVE})


@unique
class Way(StrEnum):
    """How Envoy decides: a listener for each server of checks, and these."""

    NONE = "none"
    """No filter at all."""
    JWT_AUTHN = "jwt-authn"
    """Envoy's own filter, which verifies tokens and remembers them; it can't take one back."""
    ALL_HEADERS = "all-headers"
    """The sidecar `memory`, with every request header sent to it: no `allowed_headers`."""
    RECORDER = "recorder"
    """Keeps the bytes of a CheckRequest, for load without Envoy."""


@dataclass(frozen=True, slots=True)
class Subject:
    name: str
    meaning: str
    server: Server | None
    """None: Envoy decides by itself."""
    way: Way | None = None
    """None: the server's own listener."""
    verdict: str = ALLOWED

    @property
    def listener(self) -> str:
        """The name of Envoy's listener."""
        if self.way is not None:
            return self.way
        if self.server is None:
            raise RuntimeError(f"{self.name} has no listener")
        return self.server


NONE = Subject("none", "Envoy without authorisation", None, Way.NONE)
JWT_AUTHN = Subject("jwt-authn", "Envoy's own jwt_authn, JWT cache on", None, Way.JWT_AUTHN)
OK_GRPCIO = Subject("ok-only-grpcio", "answers OK without looking, on grpcio", Server.OK_GRPCIO)
OK_NATIVE = Subject(
    "ok-only-native", "answers OK without looking, on the native transport", Server.OK_NATIVE
)
WARM = Subject("warm", "tokens seen before, memory://", Server.MEMORY)
WARM_GRPCIO = Subject("warm-grpcio", "the same, transport: grpcio", Server.GRPCIO)
WARM_REDIS = Subject("warm-redis", "the same, redis://, followed by the feed", Server.REDIS)
WARM_ALL_HEADERS = Subject(
    "warm-all-headers", "the same as warm, without allowed_headers", Server.MEMORY, Way.ALL_HEADERS
)
COLD = Subject("cold", "tokens never seen, memory://: the signature each time", Server.COLD)
COLD_REDIS = Subject(
    "cold-redis", "the same, redis:// without the feed: and Redis each time", Server.COLD_REDIS
)
COLD_CLUSTER = Subject(
    "cold-cluster", "the same, redis+cluster://, three masters", Server.COLD_CLUSTER
)
COLD_FEED = Subject("cold-feed", "the same with the feed: Redis isn't asked", Server.COLD_FEED)
REVOKED = Subject("denied", "revoked tokens, seen before, redis://", Server.REDIS, verdict=DENIED)
ROOMY = Subject("room-for-all", "cache.tokens as large as it takes", Server.LARGE)
DEFAULT_ROOM = Subject("default-room", "cache.tokens: 20000, the default", Server.MEMORY)
