"""`/metrics` of all workers in one: each tells its families as data, and a label tells whose.

They are not summed. A worker that is restarted counts from 0 again; as a series of its own that is
the reset of a counter, which Prometheus knows, while in a sum it would look like a step back.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

LABEL = "worker"


def pack(registry: Collector) -> list[Any]:
    """All families of a registry, ready for JSON, which `render` understands."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [[sample.name, sample.labels, sample.value] for sample in family.samples],
        ]
        for family in registry.collect()
    ]


def unpack(data: bytes) -> list[Any]:
    """What `json.dumps(pack(…))` made."""
    families: list[Any] = json.loads(data)
    return families


def render(
    packed: Mapping[str, list[Any]], own: Iterable[Family], accept: str
) -> tuple[bytes, str]:
    """One exposition and its content type, in the format that the `Accept` header asks for.

    `packed`: value of the label `worker` to what `pack` gave there. `own` are families of the
    parent, which carry their labels already. Each family appears once, with all samples.
    """
    families: dict[str, Family] = {}
    for worker, told in packed.items():
        for name, documentation, kind, samples in told:
            family = families.setdefault(name, Family(name, documentation, kind))
            for sample_name, labels, value in samples:
                family.add_sample(sample_name, {**labels, LABEL: worker}, value)
    encode, content_type = choose_encoder(accept)
    return encode(_Given([*families.values(), *own])), content_type


class _Given(Collector):
    """Stands in for a registry, of which encoders want no more than this."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families
