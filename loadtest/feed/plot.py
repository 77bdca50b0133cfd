"""The feed's plot: how soon a revocation is refused, and what a cold token costs."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from loadtest.drawing import COLOURS, FAINT, WIDTH, curve, percentile_axes
from loadtest.feed.cold import MEMORY, WITH_FEED, WITHOUT_FEED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROMISED_MS = 100.0
"""At p99."""
COLOUR_OF = {WITH_FEED: COLOURS[2], WITHOUT_FEED: COLOURS[3], MEMORY: "#afb8c1"}


def feed(figure: "Figure", result: Mapping[str, Any]) -> bool:
    """A panel for each of the two that was measured."""
    found = result.get("feed", {})  # an earlier run has none
    wanted = [(PANELS[name], found[name]) for name in PANELS if found.get(name) is not None]
    if not wanted:
        return False
    figure.set_size_inches(WIDTH, 2.8)
    panels = figure.subplots(1, len(wanted), squeeze=False)[0]
    for axes, (panel, one) in zip(panels, wanted, strict=True):
        panel(axes, one)
    return True


def _lag(axes: "Axes", lag: Any) -> None:
    nines, times = curve([lag["histogram_us"]])
    axes.plot(nines, times, color=COLOURS[2], linewidth=1.4)
    limit = f"{PROMISED_MS:g} ms, promised at p99"
    axes.axhline(PROMISED_MS, label=limit, color=FAINT, linewidth=0.8, linestyle="--")
    axes.legend(loc="lower right", fontsize=8)
    percentile_axes(axes)
    axes.set(title=f"Refused by {lag['sidecars']} sidecars", ylabel="ms after the acknowledgement")


def _cold(axes: "Axes", cold: Any) -> None:
    names = list(cold["costs"])
    costs = [median(one["server_us"] for one in cold["costs"][name]) for name in names]
    axes.barh(names, costs, color=[COLOUR_OF[name] for name in names], height=0.6)
    for row, cost in enumerate(costs):
        at = (cost, row)
        axes.annotate(
            f"{cost:.0f}", at, xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xlim(right=1.15 * max(costs))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(title="A token never seen", xlabel="µs of the sidecar")


PANELS: dict[str, Callable[["Axes", Any], None]] = {"lag": _lag, "cold": _cold}
