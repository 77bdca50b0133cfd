"""One `/metrics` of several workers."""

import json
import re
import subprocess
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from authz.observe import names
from authz.workers.exposition import pack, render

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def told(worker: int) -> list[Any]:
    """What a worker tells of itself, on the way through JSON."""
    registry = CollectorRegistry()
    Counter("asked", "Asked.", ["kind"], registry=registry).labels('od"d\\\n').inc(worker + 1)
    Histogram("took_seconds", "Took.", buckets=[0.1, 1], registry=registry).observe(0.5)
    Gauge("endless", "Endless.", registry=registry).set(float("inf"))
    ProcessCollector(registry=registry)
    families: list[Any] = json.loads(json.dumps(pack(registry)))
    return families


WORKERS = {str(worker): told(worker) for worker in (0, 1)}


def samples(accept: str) -> dict[str, float]:
    body, _ = render(WORKERS, [], accept)
    parse = parse_openmetrics if accept else parse_text
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_series_says_whose_it_is(accept: str) -> None:
    found = samples(accept)
    expected = {
        """asked_total[('kind', 'od"d\\\\\\n'), ('worker', '0')]""": 1,
        """asked_total[('kind', 'od"d\\\\\\n'), ('worker', '1')]""": 2,
        "took_seconds_bucket[('le', '1.0'), ('worker', '1')]": 1,
        "took_seconds_sum[('worker', '0')]": 0.5,
        "endless[('worker', '0')]": float("inf"),
    }
    assert {name: found.get(name) for name in expected} == expected
    assert all("('worker', " in name for name in found)


def test_a_family_is_described_once() -> None:
    body, content_type = render(WORKERS, [], "")
    helps = re.findall(r"^# HELP (\w+) ", body.decode(), re.MULTILINE)
    assert len(helps) == len(set(helps))
    assert content_type.startswith("text/plain; version=0.0.4")


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    body, content_type = render(WORKERS, [], OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


def test_the_metrics_of_the_parent_carry_the_worker_too() -> None:
    for metric in names.WORKER_METRICS:
        assert metric.labels == ("worker",)


@pytest.mark.needs_tool("promtool")
def test_promtool_finds_nothing_to_object_to() -> None:
    described = {
        worker: [one for one in families if one[0] not in {"endless", "asked"}]
        for worker, families in WORKERS.items()
    }
    body, _ = render(described, [], "")
    outcome = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, check=False, timeout=60
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, b"", b"")
