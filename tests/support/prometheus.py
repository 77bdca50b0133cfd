"""The real Prometheus (Debian's `prometheus`), and what it answers."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import yaml

from support.ports import LOOPBACK, free_port
from support.process import ChildProcess

SCRAPE_INTERVAL = 1
"""Seconds; rules are evaluated as often."""


class Target(NamedTuple):
    """Something to scrape."""

    job: str
    port: int
    path: str = "/metrics"


class Series(NamedTuple):
    """One line of a chart."""

    labels: dict[str, str]
    values: list[float]
    """Those that are numbers."""


class Prometheus:
    """One server that scrapes `targets` once a second and evaluates the rules of a file."""

    def __init__(self, folder: Path, targets: Sequence[Target], rules: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.targets = targets
        port = free_port()
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(_configuration(targets, rules)))
        self.process = ChildProcess(
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}", "--log.level=warn",
            ],
            log=folder / "prometheus.log",
        )  # fmt: skip
        self._http = httpx.Client(base_url=f"http://{LOOPBACK}:{port}", timeout=10, trust_env=False)

    def query(self, expression: str) -> list[Series]:
        """As of now."""
        found = self._ask("/api/v1/query", {"query": expression})
        return [Series(one["metric"], _numbers([one["value"]])) for one in found["result"]]

    def chart(self, expression: str, start: float, end: float) -> list[Series]:
        """As a panel asks, a value for each scrape. `start` and `end` in seconds since 1970."""
        asked = {"query": expression, "start": start, "end": end, "step": SCRAPE_INTERVAL}
        found = self._ask("/api/v1/query_range", asked)
        return [Series(one["metric"], _numbers(one["values"])) for one in found["result"]]

    def alerts(self) -> dict[str, dict[str, str]]:
        """Those that fire, by name, with what is said of the last of them."""
        found = self._ask("/api/v1/alerts", {})["alerts"]
        firing = [alert for alert in found if alert["state"] == "firing"]
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in firing}

    def scrapes_all(self) -> bool:
        """Whether every target was reached."""
        up = self.query("up")
        return len(up) == len(self.targets) and all(one.values == [1] for one in up)

    def is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def _ask(self, path: str, parameters: Mapping[str, Any]) -> Any:
        answer = self._http.get(path, params=dict(parameters)).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def __enter__(self) -> Self:
        self.process.start(self.is_ready)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self.process.stop()


def _configuration(targets: Sequence[Target], rules: Path) -> dict[str, Any]:
    interval = f"{SCRAPE_INTERVAL}s"
    jobs = sorted({(target.job, target.path) for target in targets})
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": f"{job}{path}",
                "metrics_path": path,
                "static_configs": [
                    {
                        "targets": [
                            f"{LOOPBACK}:{one.port}"
                            for one in targets
                            if (one.job, one.path) == (job, path)
                        ],
                    }
                ],
                # As the operator does it for a PodMonitor of several endpoints: one job for all.
                "relabel_configs": [{"target_label": "job", "replacement": job}],
            }
            for job, path in jobs
        ],
    }


def _numbers(values: Sequence[tuple[float, str]]) -> list[float]:
    return [number for _, text in values if not math.isnan(number := float(text))]
