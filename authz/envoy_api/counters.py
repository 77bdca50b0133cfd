"""What the native transport counts: plain integers, for the reasons `observe/counters.py` gives."""

from authz.envoy_api.grpc_calls import Status

STATUS_NAMES = {status.value: status.name for status in Status}


class TransportCounters:
    """Written by the event loop alone; may be read from any thread."""

    __slots__ = ("accepted", "faults", "open", "refused", "statuses")

    def __init__(self) -> None:
        self.accepted = 0
        """Connections taken, ever."""
        self.open = 0
        """Connections now."""
        self.refused = {"limit": 0, "tls": 0}
        """Connections closed before a byte of HTTP/2: too many at a time; or the handshake failed,
        took too long, or agreed on no `h2`."""
        self.faults: dict[str, int] = {}
        """Connections ended because the peer broke a rule or a limit, by the HTTP/2 error code."""
        self.statuses = [0] * (max(STATUS_NAMES) + 1)
        """Calls by the number of their gRPC status. What is answered by HTTP alone is UNKNOWN, and
        what the peer took back is CANCELLED."""

    def count_fault(self, code: str) -> None:
        """A connection ended with this error code."""
        self.faults[code] = self.faults.get(code, 0) + 1

    def calls(self) -> dict[str, int]:
        """Calls by the name of their gRPC status."""
        return {name: self.statuses[number] for number, name in STATUS_NAMES.items()}
