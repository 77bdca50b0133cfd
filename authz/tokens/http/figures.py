"""What the endpoints count. Only numbers: another thread reads them."""

import math

from authz.observe.counters import Histogram

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, math.inf)
"""Seconds. A token takes 2 ms, one with a secret to compare 25, one that waits for a failover up to
`store.write_timeout`."""


class Figures:
    """By what their metrics have as labels."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        """By route and status."""
        self.errors: dict[str, int] = {}
        """By `error`, or its cause where that says more."""
        self.issued: dict[str, int] = {}
        """By grant."""
        self.duration = Histogram(REQUEST_BUCKETS)

    def answered(self, route: str, status: int, seconds: float) -> None:
        key = (route, str(status or 499))  # nginx' number for a client that went away
        self.requests[key] = self.requests.get(key, 0) + 1
        self.duration.observe(seconds)

    def refused(self, cause: str) -> None:
        self.errors[cause] = self.errors.get(cause, 0) + 1

    def gave(self, grant: str) -> None:
        self.issued[grant] = self.issued.get(grant, 0) + 1
