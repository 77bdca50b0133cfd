"""The generated files, by name: a test holds those that are checked in equal to them."""

from pathlib import Path
from typing import Any

import yaml

from k8s.monitoring.generator import revocation, sidecar, tokens
from k8s.monitoring.generator.board import Board
from k8s.monitoring.generator.runbook import runbook

FOLDER = Path(__file__).parents[1]
RULES = FOLDER / "rules.yaml"

BOARDS: tuple[Board, ...] = (sidecar.BOARD, revocation.BOARD, tokens.BOARD)

_HEAD = """\
# Made of rules.yaml by `python -m k8s.monitoring.generator`, for the Prometheus operator.
"""


def generated() -> dict[str, str]:
    """Path under `k8s/monitoring` to content."""
    rules: dict[str, Any] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    boards = {f"dashboards/{board.name}.json": board.json() for board in BOARDS}
    return {"prometheusrule.yaml": _operator_rule(rules), "RUNBOOK.md": runbook(rules), **boards}


def _operator_rule(rules: dict[str, Any]) -> str:
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "authz", "labels": {"app.kubernetes.io/name": "authz"}},
        "spec": rules,
    }
    return _HEAD + yaml.dump(rule, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines stay so."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
