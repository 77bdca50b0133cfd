"""What signing counts, for metrics: plain integers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from authz.keys.signer import Signer, SigningUnavailableError
from authz.observe.counters import Histogram

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds: a key in this process takes the first of these, Vault nearby the middle ones, and 2 s is
`vault.timeout`."""


@dataclass(slots=True)
class SigningFigures:
    """Of one process."""

    signatures: dict[str, int] = field(default_factory=lambda: {"ok": 0, "unavailable": 0})
    readings: dict[str, int] = field(default_factory=lambda: {"ok": 0, "failed": 0})
    """Of the keys' store."""
    rotations: dict[str, int] = field(default_factory=lambda: {"ok": 0, "failed": 0})
    """By schedule, of this process."""
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    """Of signatures that were made, in seconds."""


class CountedSigner:
    """A signer whose signatures are counted."""

    __slots__ = ("_figures", "_signer", "_unavailable", "algorithm", "kid")

    def __init__(
        self, signer: Signer, figures: SigningFigures, unavailable: Callable[[], None]
    ) -> None:
        """`unavailable` is called whenever the key can't be used."""
        self._unavailable = unavailable
        self.kid = signer.kid
        self.algorithm = signer.algorithm
        self._signer = signer
        self._figures = figures

    async def sign(self, signing_input: bytes) -> bytes:
        """As `Signer.sign`."""
        began = time.perf_counter()
        try:
            signature = await self._signer.sign(signing_input)
        except SigningUnavailableError:
            self._figures.signatures["unavailable"] += 1
            self._unavailable()
            raise
        self._figures.signatures["ok"] += 1
        self._figures.latency.observe(time.perf_counter() - began)
        return signature
