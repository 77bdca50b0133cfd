"""Metrics as the client library wants them: one family out of a name's entry and its values."""

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from authz.observe.counters import Histogram
from authz.observe.names import Metric

Values = Mapping[Any, float]
"""By a tuple of the labels' values, in the order of the metric's labels. `Any`, since the keys of a
`Mapping` are invariant, and each family has tuples of a length of its own."""


def family(metric: Metric, values: Values) -> Family:
    """A counter or a gauge, as `metric.kind` says."""
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in values.items():
        made.add_metric(labels, value)
    return made


def histogram(metric: Metric, counted: Histogram) -> Family:
    """Without labels."""
    made = HistogramMetricFamily(metric.name, metric.meaning)
    buckets = [
        ("+Inf" if bound == math.inf else repr(bound), count)
        for bound, count in counted.cumulative()
    ]
    made.add_metric([], buckets, counted.total)
    return made
