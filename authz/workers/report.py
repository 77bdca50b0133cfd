"""`/metrics` of the parent: what all workers tell, and how the workers are."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

from authz.observe import names
from authz.workers.exposition import pack, render
from authz.workers.keeper import Keeper
from authz.workers.process import ASK_TIMEOUT

PARENT = "parent"
"""The label `worker` of the parent's own `process_…` metrics."""


class FleetMetrics:
    """Asks all workers at once when someone asks."""

    def __init__(self, workers: Sequence[Keeper], loop: asyncio.AbstractEventLoop) -> None:
        """`loop`: the one that the workers are kept on."""
        self._workers = workers
        self._loop = loop
        self._own = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._own)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as `Metrics.render`. From any thread but the loop's.

        A worker that doesn't answer within `ASK_TIMEOUT` is missing, and its `authz_worker_up` is
        0. TimeoutError: the loop hangs.
        """
        asked = asyncio.run_coroutine_threadsafe(self._ask(), self._loop)
        told, families = asked.result(ASK_TIMEOUT + 1.0)
        return render({**told, PARENT: pack(self._own)}, families, accept)

    async def _ask(self) -> tuple[dict[str, list[Any]], list[Family]]:
        answers = await asyncio.gather(*(worker.ask("metrics") for worker in self._workers))
        told = {
            str(worker.number): answer
            for worker, answer in zip(self._workers, answers, strict=True)
            if answer is not None
        }
        return told, list(self._families(told))

    def _families(self, told: Iterable[str]) -> Iterable[Family]:
        up, connections = (
            GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
            for metric in (names.WORKER_UP, names.WORKER_CONNECTIONS)
        )
        restarts = CounterMetricFamily(
            names.WORKER_RESTARTS.name,
            names.WORKER_RESTARTS.meaning,
            labels=names.WORKER_RESTARTS.labels,
        )
        for worker in self._workers:
            labels = [str(worker.number)]
            up.add_metric(labels, int(labels[0] in told))
            restarts.add_metric(labels, worker.restarts)
            connections.add_metric(labels, worker.connections)
        return up, restarts, connections
