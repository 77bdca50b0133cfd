"""How much one run measures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amounts:
    seconds: float
    """Of load on each subject, in each round."""
    rounds: int
    cached: int
    """Tokens with which memory is looked at."""
    checks: int
    """Over which memory is watched."""
    sidecars: int
    """That follow the revocations in `feed-lag`."""
    lag_seconds: float
    """For which there are some."""
    revocations: int
    """That `feed-million` knows."""
