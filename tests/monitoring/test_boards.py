"""The dashboards as they are checked in."""

import json
import re
from typing import Any

import pytest
import yaml

from authz.observe import names
from k8s.monitoring.generator.board import Board
from k8s.monitoring.generator.files import BOARDS, FOLDER
from k8s.monitoring.generator.kinds import Kind

METRICS = {
    metric.name
    for metric in (
        *names.METRICS, *names.WORKER_METRICS, *names.RELAY_METRICS, *names.TOKEN_METRICS
    )
}  # fmt: skip


def shown(board: Board) -> set[str]:
    """Our metrics that a dashboard asks for."""
    queries = " ".join(query for panel in board.panels for query in panel.expressions())
    found = re.findall(r"(?<![\w:])authz_\w+", queries)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def grafana(board: Board) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"dashboards/{board.name}.json").read_text())
    return loaded


def test_every_metric_is_on_a_dashboard_and_no_other_is() -> None:
    assert set.union(*(shown(board) for board in BOARDS)) == METRICS


def test_the_kustomization_has_all_there_is() -> None:
    told = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (dashboards,) = told["configMapGenerator"]
    assert dashboards["files"] == [
        str(path.relative_to(FOLDER)) for path in sorted(FOLDER.glob("dashboards/*.json"))
    ]
    assert told["resources"] == ["podmonitor.yaml", "prometheusrule.yaml"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_panel_has_a_title_of_its_own_and_says_what_it_means(board: Board) -> None:
    titles = [panel.title for panel in board.panels]
    assert len(titles) == len(set(titles))
    assert all(panel.meaning.endswith(".") for panel in board.panels)
    assert all(panel.queries for panel in board.panels)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_grafana_can_tell_panels_and_queries_apart(board: Board) -> None:
    panels = grafana(board)["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(numbers) == len(set(numbers))
    for panel in panels:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(letters) == len(set(letters))
    assert len([panel for panel in panels if panel["type"] != "row"]) == len(list(board.panels))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_panels_do_not_lie_on_each_other(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in grafana(board)["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_query_is_of_the_source_and_the_installation_that_are_chosen(board: Board) -> None:
    """But those of relays, which have jobs of their own, and of alerts."""
    told = grafana(board)
    variables = [variable["name"] for variable in told["templating"]["list"]]
    assert variables == ["datasource", "namespace", "job"]
    for panel in told["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "$datasource"
            for metric, labels in named(target["expr"]):
                assert labels == "{" or metric.startswith("authz_relay_"), target["expr"]


def named(query: str) -> list[tuple[str, str]]:
    """Metrics, each with the character after it; not what stands between braces."""
    bare = re.sub(r"\{[^}]*", "{", query)
    return re.findall(r"\b((?:authz|envoy|process)_\w+)(.)", bare)


@pytest.mark.parametrize(
    ("kind", "yes", "no"),
    [
        (Kind.RATE, 3.5, -0.1),
        (Kind.SHARE, 1, 1.01),
        (Kind.BUDGET, -20, 1.01),
        (Kind.FLAG, 1, 0.5),
        (Kind.SECONDS, 0, float("-inf")),
    ],
)
def test_a_kind_knows_what_can_not_be_of_it(kind: Kind, yes: float, no: float) -> None:
    assert kind.holds(yes)
    assert not kind.holds(no)
