"""Whether the sidecar wants to be sent requests."""


class Readiness:
    """Set by the event loop, read from any thread. It never depends on Redis: a sidecar that fails
    open must stay in service.
    """

    def __init__(self) -> None:
        self.reason = "starting"
        """Why not ready, in a word or two; empty while ready."""

    @property
    def ready(self) -> bool:
        return not self.reason

    def serving(self) -> None:
        """Checks are answered from now on."""
        self.reason = ""

    def not_serving(self, reason: str) -> None:
        """Send no more requests: `draining`, or another short constant text."""
        self.reason = reason
