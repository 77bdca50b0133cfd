"""The objects for the Prometheus operator."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from k8s.monitoring.generator.files import FOLDER
from k8s.monitoring.generator.runbook import alerts_of

SCHEMAS = Path(__file__).parents[1] / "data/resources"


def objects() -> list[dict[str, Any]]:
    return [
        told
        for name in ("podmonitor.yaml", "prometheusrule.yaml")
        for told in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    ]


def named(name: str) -> dict[str, Any]:
    (found,) = (
        one for one in objects() if one["metadata"]["name"] == name and "Pod" in one["kind"]
    )
    return found


@pytest.mark.parametrize(
    "told", objects(), ids=lambda told: f"{told['kind']}-{told['metadata']['name']}"
)
def test_the_operator_takes_it(told: dict[str, Any]) -> None:
    name = f"{told['apiVersion'].replace('/', '_')}_{told['kind']}.json"
    schema = json.loads((SCHEMAS / name).read_text())
    errors = jsonschema_rs.validator_for(schema).iter_errors(told["spec"])
    assert [error.message for error in errors] == []


def test_a_sidecar_and_its_envoy_get_the_same_job() -> None:
    """One PodMonitor is one job, `<namespace>/<name>`, where no `jobLabel` says otherwise."""
    spec = named("authz")["spec"]
    assert "jobLabel" not in spec
    ports = {one["port"]: one["path"] for one in spec["podMetricsEndpoints"]}
    assert ports == {"authz-http": "/metrics", "envoy-metrics": "/stats/prometheus"}


@pytest.mark.parametrize("name", ["authz", "authz-tokens"])
def test_a_target_that_is_down_is_noticed(name: str) -> None:
    """By the job that the operator gives it."""
    rules = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))
    (down,) = (one for one in alerts_of(rules) if one["alert"] == "AuthzTargetDown")
    pattern = re.search(r'job=~"([^"]+)"', down["expr"])
    assert pattern
    assert re.fullmatch(pattern[1], f"monitoring/{named(name)['metadata']['name']}")
