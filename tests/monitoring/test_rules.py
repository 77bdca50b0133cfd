"""The rules of `k8s/monitoring`: without a fault, tested one by one, and explained."""

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from authz.cli.main import app
from authz.observe import events, names
from authz.settings import Settings
from k8s.monitoring.generator.files import FOLDER, RULES, generated
from k8s.monitoring.generator.runbook import SEVERITIES, alerts_of

TEST_FILES = sorted((FOLDER / "tests").glob("*.yaml"))
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

METRICS = {
    metric.name
    for metric in (
        *names.METRICS, *names.WORKER_METRICS, *names.RELAY_METRICS, *names.TOKEN_METRICS
    )
}  # fmt: skip


def rules() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return loaded


ALERTS = list(alerts_of(rules()))
RECORDED = {
    rule["record"]: rule["expr"]
    for group in rules()["groups"]
    for rule in group["rules"]
    if "record" in rule
}


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr


EACH_ALERT = pytest.mark.parametrize("alert", ALERTS, ids=[one["alert"] for one in ALERTS])


@pytest.mark.needs_tool("promtool")
def test_promtool_finds_nothing_to_object_to() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@pytest.mark.needs_tool("promtool")
@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.stem)
def test_every_alert_fires_when_it_should_and_at_no_other_time(file: Path) -> None:
    promtool("test", "rules", file)


@EACH_ALERT
def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not(
    alert: dict[str, Any],
) -> None:
    fires, is_quiet = 0, 0
    for file in TEST_FILES:
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            for asked in case["promql_expr_test"]:
                pattern = re.search(r'alertname=~"([^"]+)"', asked["expr"])
                assert pattern, asked
                if re.fullmatch(pattern[1], alert["alert"]):
                    told = f'{{alertname="{alert["alert"]}"}}'
                    firing = [sample["labels"] for sample in asked["exp_samples"]]
                    fires += told in firing
                    is_quiet += told not in firing
    assert fires
    assert is_quiet


@EACH_ALERT
def test_every_alert_says_what_it_means_where_to_look_and_what_to_do(alert: dict[str, Any]) -> None:
    told = alert["annotations"]
    assert set(told) == {"summary", "look_at", "to_do", "runbook"}
    assert all(len(text) > 20 for text in told.values())
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    path, _, anchor = told["runbook"].partition("#")
    headings = re.findall(r"^## (.+)$", (FOLDER.parents[1] / path).read_text(), re.MULTILINE)
    assert anchor in [heading.lower() for heading in headings]


@EACH_ALERT
def test_what_an_alert_names_exists(alert: dict[str, Any]) -> None:
    """Metrics, log events, settings and commands: nobody wants to find out at night."""
    told = " ".join(alert["annotations"].values())
    for record in re.findall(r"\bjob:\w+:\w+", alert["expr"]):
        assert record in RECORDED
    for metric in re.findall(r"(?<![\w:])authz_\w+", f"{alert['expr']} {told}"):
        assert re.sub(r"_(bucket|count|sum)$", "", metric) in METRICS
    for word in re.findall(r"`([a-z_]+)`", told):
        assert word in KNOWN_WORDS, word
    for command in re.findall(r"`authz ([a-z ]+)", told):
        assert_is_command(command.split())


KNOWN_WORDS = {*events.MEANINGS, *Settings.model_fields, "fail_open", "reconciled"}
KNOWN_WORDS |= {"failure_mode_allow", "cause"}  # Envoy's; a label


def assert_is_command(words: list[str]) -> None:
    command: Any = app
    for word in words:
        command = command.get_command(click.Context(command), word)
        assert command is not None, words


@pytest.mark.parametrize("objective", ["failed", "failed_open", "slow"])
def test_the_windows_of_an_objective_differ_by_nothing_else(objective: str) -> None:
    prefix = f"job:authz_checks_{objective}:ratio_rate"
    shortest = RECORDED[f"{prefix}5m"]
    for window in WINDOWS:
        assert RECORDED[prefix + window] == shortest.replace("[5m]", f"[{window}]")


def test_every_recorded_series_is_used() -> None:
    used = " ".join(alert["expr"] for alert in ALERTS)
    assert [record for record in RECORDED if not re.search(rf"{record}\b", used)] == []


@pytest.mark.parametrize("name", sorted(generated()))
def test_what_is_generated_is_checked_in(name: str) -> None:
    """`python -m k8s.monitoring.generator` makes them anew."""
    assert (FOLDER / name).read_text(encoding="utf-8") == generated()[name]
