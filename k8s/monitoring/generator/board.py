"""A dashboard as rows of panels, and Grafana's JSON of it (schema of Grafana 11)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

from k8s.monitoring.generator.kinds import Kind

OF = 'namespace=~"$namespace", job=~"$job"'
"""What `OF` stands for in a query: the installation that is chosen. Outside Kubernetes there is no
namespace, which `.*` matches as well."""

WINDOW = "$__rate_interval"
"""What `[W]` stands for: Grafana's, which is never shorter than four scrapes."""

SOURCE = model.DataSourceRef(type_val="prometheus", uid="$datasource")

COLUMNS = 24
CHART_HEIGHT, CHARTS_A_ROW = 8, 3
TILE_HEIGHT, TILES_A_ROW = 4, 6


@dataclass(frozen=True)
class Panel:
    """One question. `queries`: the legend, with labels as `{{reason}}`, and PromQL in which `OF`
    and `[W]` stand for the above. A tile shows the last value, a chart all of them.
    """

    title: str
    meaning: str
    kind: Kind
    queries: Mapping[str, str]
    tile: bool = False

    def expressions(self) -> list[str]:
        """The queries as Grafana has them."""
        return [expanded(query) for query in self.queries.values()]


@dataclass(frozen=True)
class Board:
    """`name` is its file's; `chosen_by`: the metric that lists the installations to choose from."""

    name: str
    title: str
    meaning: str
    chosen_by: str
    rows: Mapping[str, tuple[Panel, ...]]

    @property
    def panels(self) -> Iterator[Panel]:
        """All, from the top."""
        for panels in self.rows.values():
            yield from panels

    def json(self) -> str:
        """As Grafana imports it; the same every time."""
        return json.dumps(self._built(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"

    def _built(self) -> model.Dashboard:
        board = (
            dashboard.Dashboard(self.title)
            .uid(f"authz-{self.name}")
            .description(self.meaning)
            .tags(["authz"])
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .time("now-1h", "now")
            .refresh("30s")
            .timezone("utc")
            .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
            .with_variable(_choice("namespace", self.chosen_by))
            .with_variable(_choice("job", self.chosen_by))
            .link(
                dashboard.DashboardLink("authz")
                .type(model.DashboardLinkType.DASHBOARDS)
                .tags(["authz"])
                .include_vars(include_vars=True)
                .keep_time(keep_time=True)
            )
        )
        number = 0
        for title, panels in self.rows.items():
            number += 1
            board.with_row(dashboard.Row(title).id(number))
            for panel in panels:
                number += 1
                board.with_panel(_built(panel, number))
        return board.build()


def expanded(query: str) -> str:
    """PromQL with Grafana's variables."""
    return " ".join(query.split()).replace("{OF", "{" + OF).replace("[W]", f"[{WINDOW}]")


def _choice(label: str, metric: str) -> dashboard.QueryVariable:
    within = "" if label == "namespace" else '{namespace=~"$namespace"}'
    return (
        dashboard.QueryVariable(label)
        .query(f"label_values({metric}{within}, {label})")
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _built(panel: Panel, number: int) -> Any:
    built = _tile(panel) if panel.tile else _chart(panel)
    built.id(number).title(panel.title).description(panel.meaning)
    built.datasource(SOURCE).unit(panel.kind.unit)
    for letter, (legend, query) in enumerate(panel.queries.items(), start=ord("A")):
        built.with_target(
            prometheus.Dataquery()
            .expr(expanded(query))
            .legend_format(legend)
            .ref_id(chr(letter))
            .datasource(SOURCE)
        )
    return built


def _tile(panel: Panel) -> stat.Panel:
    built = stat.Panel().height(TILE_HEIGHT).span(COLUMNS // TILES_A_ROW)
    if panel.kind in {Kind.SHARE, Kind.BUDGET}:
        built.decimals(2)
    return built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def _chart(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().height(CHART_HEIGHT).span(COLUMNS // CHARTS_A_ROW)
    if panel.kind is not Kind.BUDGET:
        built.min(0)
    if panel.kind is Kind.FLAG:
        built.max(1)
    return (
        built.fill_opacity(10)
        .show_points(options.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
    )
