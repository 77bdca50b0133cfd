"""What `/metrics` of a relay shows: read from it when someone asks."""

import platform
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from authz import __version__
from authz.observe import names
from authz.observe.counters import Histogram
from authz.observe.families import family, histogram
from authz.relay.relay import Relay


class RelayMetrics(Collector):
    """In a registry of its own. Read from the thread that answers HTTP: single integers and floats
    can't be torn.
    """

    def __init__(self, relay: Relay, loop_lag: Histogram) -> None:
        self._relay = relay
        self._loop_lag = loop_lag
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type, as `Metrics.render`."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """All families, as `names.RELAY_METRICS` lists them, and the process' own."""
        relay, figures = self._relay, self._relay.figures
        sides = (relay.source, relay.target)
        lag = relay.lag
        yield family(names.RELAY_LAG, {} if lag is None else {(): lag})
        yield family(names.RELAY_BACKLOG, {(): relay.backlog})
        yield family(names.RELAY_LEVEL, {(): relay.level})
        yield family(names.RELAY_ENTRIES, {(k,): n for k, n in figures.entries.items()})
        yield family(names.RELAY_RESYNCS, {(): figures.resyncs})
        yield family(names.RELAY_SCANS, {(): figures.scans})
        yield family(names.RELAY_UP, {(side.which,): bool(side.up) for side in sides})
        yield family(names.RELAY_FAILURES, {(k,): n for k, n in figures.failures.items()})
        yield histogram(names.LOOP_LAG, self._loop_lag)
        yield family(names.BUILD_INFO, {(__version__, platform.python_version(), ""): 1})
