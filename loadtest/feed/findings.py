"""What was found of the feed."""

from dataclasses import asdict, dataclass
from typing import Any

from loadtest.feed.cold import Cold
from loadtest.feed.lag import Lag
from loadtest.feed.million import Million
from loadtest.feed.writes import Writes


@dataclass(slots=True)
class Findings:
    """By scenario; None: it was not asked for."""

    lag: Lag | None = None
    million: Million | None = None
    cold: Cold | None = None
    writes: Writes | None = None

    @property
    def wrong(self) -> int:
        return sum(one.wrong for one in self._all)

    @property
    def others(self) -> float:
        """The part of the machine that others used, in the worst of them."""
        return max((one.others for one in self._all), default=0.0)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        if self.cold is not None:
            kinds = self.cold.costs
            found["cold"]["commands_per_check"] = {
                kind: self.cold.per_check(kind) for kind in kinds
            }
        if self.writes is not None:
            found["writes"]["each_us"] = self.writes.each_us
        return found

    @property
    def _all(self) -> list[Lag | Million | Cold | Writes]:
        found = (self.lag, self.million, self.cold, self.writes)
        return [one for one in found if one is not None]
