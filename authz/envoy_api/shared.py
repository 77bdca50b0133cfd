"""What the connections of one server have in common, and may take together."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from authz.envoy_api.counters import TransportCounters
from authz.envoy_api.health import Health

if TYPE_CHECKING:
    from authz.envoy_api.peer import Peer

MAX_CONCURRENT_CHECKS = 8192
"""Checks that wait for their answer: twice the 4,096 requests that Envoy's circuit breaker allows a
cluster in the configs we ship. Beyond it a check gets RESOURCE_EXHAUSTED at once, so memory stays
bounded."""

MAX_CONNECTIONS = 2048
"""Open at a time: those of 16 Envoys with 128 worker threads each, as a node's sidecar may have.
An idle one takes 7 KiB, 14 MiB for all. Further ones are closed, and Envoy uses what it has."""

MAX_BUFFERED = 64 * 1024 * 1024
"""Bytes of requests under way and of answers not taken yet. It lies between the 57 MiB that a
sidecar takes at rest and the 125 MiB it may have. A connection can hold 27.75 MiB at most
(`http2.limits.MEMORY`), of which 12 are counted here; where the sum is higher, the greediest is
ended."""


class Checks(Protocol):
    """What answers checks: `authz.envoy_api.service.CheckService`."""

    def check(self, data: bytes) -> bytes | Awaitable[bytes]:
        """Answer one CheckRequest. MalformedRequestError: `data` is none."""
        ...


class Shared:
    """Of one server. Belongs to its event loop."""

    __slots__ = (
        "arriving", "buffered", "check", "counters", "draining", "gone", "health", "overfull",
        "peers", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        check: Callable[[bytes], bytes | Awaitable[bytes]],
        *,
        gone: Callable[[], None],
        overfull: Callable[[], None],
    ) -> None:
        """`check`: `CheckService.check`. `gone`: called after a connection ended. `overfull`:
        called where `buffered` has grown over MAX_BUFFERED.
        """
        self.check = check
        self.gone = gone
        self.overfull = overfull
        self.counters = TransportCounters()
        self.health = Health()
        self.peers: set[Peer] = set()
        self.arriving = 0
        """Connections that were adopted, and are no peers yet."""
        self.draining = False
        self.waiting = 0
        """Checks whose answer is being waited for."""
        self.buffered = 0
        """Bytes that the connections held when each was last looked at."""
