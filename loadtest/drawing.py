"""What the plots have in common."""

from collections.abc import Iterable, Mapping
from math import log10
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 8.2
"""Inches, 590 points: as wide as the text of a README."""
INK, FAINT, PANEL = "#1f2328", "#59636e", "#ffffff"
"""Dark on a white panel of its own: readable wherever it is shown, on dark pages too."""
COLOURS = ("#8250df", "#1a7f37", "#0969da", "#bc4c00", "#b3261e", "#59636e")
MOST_NINES = 4
"""A latency is drawn up to p99.99, as far as there were requests enough."""
FINEST = 0.03
"""Nines between two points of a curve: about a point of the plot."""


def curve(histograms: Iterable[Mapping[Any, int]]) -> tuple[list[float], list[float]]:
    """Of requests by microseconds: nines on the way up (1 is p90, 2 p99), and milliseconds."""
    counts: dict[int, int] = {}
    for one in histograms:
        for time, count in one.items():
            counts[int(time)] = counts.get(int(time), 0) + count
    total, seen = sum(counts.values()), 0
    nines: list[float] = []
    times: list[float] = []
    for time in sorted(counts):
        left = 1 - seen / total  # the part that took this long or longer
        if -log10(left) > MOST_NINES:
            break
        if not nines or -log10(left) - nines[-1] > FINEST:
            nines.append(-log10(left))
            times.append(max(time, 1) / 1000)
        seen += counts[time]
    return nines, times


def percentile_axes(axes: "Axes") -> None:
    """For such curves: nines to the right, milliseconds upwards."""
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xticks(range(MOST_NINES + 1), ["p0", "p90", "p99", "p99.9", "p99.99"])
    axes.tick_params(axis="x", labelsize=7)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
