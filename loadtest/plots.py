"""The plots of a result, as SVG.

python -m loadtest.plots RESULT.json FOLDER     # draw those of an earlier run again
"""

import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz.cli.errors import CommandError
from loadtest.drawing import COLOURS, FAINT, INK, PANEL, WIDTH, curve, percentile_axes
from loadtest.feed.plot import feed
from loadtest.memory import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Result = Mapping[str, Any]
"""As `Report.as_json` gives it, or as it was read from a file again."""

DRAWN_FONT = "DejaVu Sans"
"""What texts are measured with: it comes with matplotlib, and others are narrower."""
SHOWN_FONTS = "-apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif"
"""As in authz/flow.svg."""
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": FAINT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": PANEL,
    "font.family": DRAWN_FONT,
    "font.size": 9,
    "grid.color": "#d1d9e0",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: a fifth of the size, and it can be searched
    "svg.hashsalt": "authz",  # the same figures make the same file
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def draw(result: Result, folder: Path) -> list[Path]:
    """A file for each plot that there are figures for. CommandError: no matplotlib, no folder."""
    try:
        import matplotlib as mpl  # deferred: the extra `loadtest`, and half a second
        from matplotlib.figure import Figure
    except ImportError:
        raise CommandError("plots need matplotlib: pip install '.[loadtest]'") from None
    drawn = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context(STYLE):
            for name, plot in PLOTS.items():
                figure = Figure(figsize=(WIDTH, 1), layout="constrained")
                if plot(figure, result):
                    text = io.StringIO()
                    figure.savefig(text, format="svg", metadata={"Date": None})
                    path = folder / f"{name}.svg"
                    path.write_text(text.getvalue().replace(f"'{DRAWN_FONT}'", SHOWN_FONTS))
                    drawn.append(path)
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}") from None
    return drawn


def _of(result: Result, scenario: str) -> list[Any]:
    return [one for one in result["results"] if one["scenario"] == scenario]


def _subjects(entries: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(one["subject"] for one in entries))


def _cost(figure: "Figure", result: Result) -> bool:
    """CPU time of a request through Envoy: bars, the server's part and Envoy's."""
    entries = _of(result, "envoy")
    if not entries:
        return False
    figure.set_size_inches(WIDTH, 1.0 + 0.28 * len(entries))
    axes = figure.subplots()
    names = [one["subject"] for one in entries]
    envoy = [one["envoy_us"] for one in entries]
    server = [one["server_us"] or 0.0 for one in entries]
    axes.barh(names, envoy, color="#afb8c1", height=0.7, label="Envoy")
    axes.barh(names, server, left=envoy, color=COLOURS[2], height=0.7, label="server of checks")
    for row, (left, own) in enumerate(zip(envoy, server, strict=True)):
        text = f"{left:.0f} + {own:.0f}" if own else f"{left:.0f}"
        at = (left + own, row)
        axes.annotate(text, at, xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(right=1.15 * max(map(sum, zip(envoy, server, strict=True))))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(title="CPU time of a request through Envoy", xlabel="µs")
    axes.legend(loc="lower right")
    return True


def _latency(figure: "Figure", result: Result) -> bool:
    """Latency by percentile, a panel for each load."""
    entries = _of(result, "latency")
    points = sorted({one["point"] for one in entries})
    if not points:
        return False
    figure.set_size_inches(WIDTH, 3.2)
    panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axes, point in zip(panels, points, strict=True):
        here = [one for one in entries if one["point"] == point]
        for colour, one in zip(COLOURS, here, strict=False):
            nines, times = curve(sample["histogram_us"] for sample in one["rounds"])
            axes.plot(nines, times, color=colour, linewidth=1.4, label=one["subject"])
        percentile_axes(axes)
        rate = here[0]["rounds"][0]["rate"]
        axes.set_title(f"{point} %: {rate:,.0f} requests/s")
    panels[0].set_ylabel("ms from the time due")
    panels[0].legend(loc="upper left", fontsize=8)
    return True


def _memory(figure: "Figure", result: Result) -> bool:
    """Memory over the checks."""
    readings = result["memory"]["readings"]
    if not readings:
        return False
    figure.set_size_inches(WIDTH, 2.8)
    axes = figure.subplots()
    checks = [one["checks"] / 1e6 for one in readings]
    for colour, kind in zip(COLOURS[2::-1], ("rss", "pss", "uss"), strict=True):
        sizes = [one[kind] / MIB for one in readings]
        axes.plot(checks, sizes, color=colour, linewidth=1.4, label=kind.upper())
    axes.set_ylim(bottom=0)
    axes.set(title="Memory of the sidecar", xlabel="million checks", ylabel="MiB")
    axes.legend(loc="lower right", ncols=3)
    return True


GROWING = {
    "connections": "Direct, by connections",
    "clients": "Through Envoy, by clients' connections",
    "tokens": "Direct, by distinct tokens",
    "headers": "Through Envoy, by KB of headers",
}


def _growth(figure: "Figure", result: Result) -> bool:
    """CPU time of a check as something grows, a panel for each."""
    scenarios = [name for name in GROWING if _of(result, name)]
    if not scenarios:
        return False
    rows = (len(scenarios) + 1) // 2
    figure.set_size_inches(WIDTH, 2.7 * rows)
    panels = figure.subplots(rows, 2, squeeze=False).flat
    for axes, name in zip(panels, scenarios, strict=False):
        _grow(axes, _of(result, name))
        axes.set(title=GROWING[name], ylabel="server µs a check")
    for axes in list(panels)[len(scenarios) :]:
        axes.set_visible(False)
    return True


def _grow(axes: "Axes", entries: list[Any]) -> None:
    points = sorted({one["point"] for one in entries})
    if points[0] > 0:
        axes.set_xscale("log")
    for colour, subject in zip(COLOURS, _subjects(entries), strict=False):
        mine = [one for one in entries if one["subject"] == subject and one["server_us"]]
        if mine:
            costs = [one["server_us"] for one in mine]
            at = [one["point"] for one in mine]
            axes.plot(at, costs, "o-", color=colour, linewidth=1.4, markersize=3, label=subject)
    axes.set_xticks(points, [f"{point:,}" for point in points])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


PLOTS: dict[str, Callable[["Figure", Result], bool]] = {
    "cost": _cost,
    "latency": _latency,
    "memory": _memory,
    "growth": _growth,
    "feed": feed,
}


def main() -> None:
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for path in draw(result, Path(sys.argv[2])):
        print(path)


if __name__ == "__main__":
    main()
