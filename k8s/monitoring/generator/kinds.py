"""What the numbers of a panel are: its unit in Grafana, and between which bounds they lie."""

import math
from enum import Enum
from typing import NamedTuple


class _Kind(NamedTuple):
    unit: str
    low: float
    high: float


class Kind(Enum):
    """The bounds are facts, not scales: a value beyond them is a mistake of the query."""

    RATE = _Kind("ops", 0, math.inf)
    """Events a second."""
    SHARE = _Kind("percentunit", 0, 1)
    BUDGET = _Kind("percentunit", -math.inf, 1)
    """What is left of one; below nought it is overdrawn."""
    SECONDS = _Kind("s", 0, math.inf)
    COUNT = _Kind("short", 0, math.inf)
    FLAG = _Kind("bool_yes_no", 0, 1)
    """1 or 0, nothing between."""
    BYTES = _Kind("bytes", 0, math.inf)

    @property
    def unit(self) -> str:
        """In Grafana's words."""
        return self.value.unit

    def holds(self, value: float) -> bool:
        """Whether a number can be of this kind."""
        if self is Kind.FLAG:
            return value in {0, 1}
        low, high = self.value.low, self.value.high
        return bool(low <= value <= high)
