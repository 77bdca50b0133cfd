"""How much a peer may do that asks for nothing: so much at once, and so much a second."""

from authz.envoy_api.http2 import limits
from authz.envoy_api.http2.errors import EnhanceYourCalmError


class Allowance:
    """A token bucket."""

    __slots__ = ("_burst", "_left", "_per_second", "_since")

    def __init__(self, burst: float, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._left = burst
        self._since = now

    def spend(self, amount: int, now: float, earned: int = 0) -> bool:
        """Take so many. False: there aren't as many left. `earned`: what was allowed beside since
        the last call; it counts up to the burst.
        """
        self._left = min(self._burst, self._left + earned)
        if self._left < amount:
            more = max(0.0, now - self._since) * self._per_second
            self._left = min(self._burst, self._left + more)
            self._since = now
        if self._left < amount:
            return False
        self._left -= amount
        return True


class Patience:
    """The allowances of one connection. `now` is set to the time of what is being read."""

    __slots__ = ("_idle", "_resets", "now", "requests")

    def __init__(self, now: float) -> None:
        self.now = now
        self.requests = 0
        """Whole requests since the last idle frame: each earns `limits.IDLE_PER_REQUEST`."""
        self._idle = Allowance(limits.IDLE_BURST, limits.IDLE_PER_SECOND, now)
        self._resets = Allowance(limits.RESET_BURST, limits.RESETS_PER_SECOND, now)

    def bear_idle_frame(self, weight: int = 1) -> None:
        """A frame that takes as long as `weight` of them. EnhanceYourCalmError: one too many."""
        earned, self.requests = self.requests * limits.IDLE_PER_REQUEST, 0
        if not self._idle.spend(weight, self.now, earned):
            raise EnhanceYourCalmError("too many frames that ask for nothing")

    def bear_reset(self) -> None:
        """A stream was reset, by the peer or for its fault. EnhanceYourCalmError as above."""
        if not self._resets.spend(1, self.now):
            raise EnhanceYourCalmError("too many streams were reset")
