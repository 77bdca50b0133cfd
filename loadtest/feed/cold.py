"""`feed-cold`: tokens never seen, with the feed, without it, and with nobody to ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtest.bench import LIVE, Bench
from loadtest.feed.cost import Cost, Mark, live_tokens, of_tokens, since
from loadtest.feed.rig import COLD_CACHE, Cluster, Rig, Sidecar

WITH_FEED, WITHOUT_FEED, MEMORY = "with the feed", "without it", "memory://"
IDLE_SECONDS = 12.0
"""Longer than anything that an idle sidecar does once in a while: it reads the map of the cluster
every ten seconds."""


@dataclass(slots=True)
class Cold:
    """By kind of sidecar: `WITH_FEED`, `WITHOUT_FEED`, `MEMORY`."""

    costs: dict[str, list[Cost]] = field(default_factory=dict)
    """By round."""
    commands: dict[str, dict[str, int]] = field(default_factory=dict)
    """What the cluster was asked meanwhile, by command, all rounds together. With the feed, its
    own looking after the streams is among it."""
    idle_commands: dict[str, int] = field(default_factory=dict)
    """The same of the sidecar with the feed, without any check, for `IDLE_SECONDS`."""
    others: float = 0.0

    @property
    def wrong(self) -> int:
        return sum(cost.wrong for costs in self.costs.values() for cost in costs)

    def per_check(self, kind: str) -> float | None:
        """Commands for each check, of those that no idle sidecar gives: look-ups."""
        if kind not in self.commands:
            return None
        checks = sum(cost.requests for cost in self.costs[kind])
        asked = sum(
            count for name, count in self.commands[kind].items() if name not in self.idle_commands
        )
        return asked / max(checks, 1)


def measure(bench: Bench, *, seconds: float, rounds: int) -> Cold:
    """Raises as Bench does. Each sidecar with a store has a cluster of its own, so that commands
    can be told apart.
    """
    found, rig = Cold(), Rig(bench)
    with rig.cluster("followed") as followed, rig.cluster("asked") as asked:
        cold = {"cache": COLD_CACHE}
        wanted = {
            "cold-with": {**cold, "store": followed.store},
            "cold-without": {**cold, "store": asked.store, "feed": {"enabled": False}},
            "cold-memory": cold,
        }
        with rig.sidecars(wanted, bench.pinning.server) as sidecars:
            kinds = dict(zip((WITH_FEED, WITHOUT_FEED, MEMORY), sidecars, strict=True))
            clusters = {WITH_FEED: followed, WITHOUT_FEED: asked}
            rig.wait_until_live([kinds[WITH_FEED]])
            mark = Mark.now(bench)
            before = followed.commands()
            bench.wait(IDLE_SECONDS)
            found.idle_commands = since(followed.commands(), before)
            for number in range(rounds + 1):  # the first one warms up
                _round(bench, found, kinds, clusters, seconds, counts=number > 0)
            found.others = mark.others(bench)
    return found


def _round(
    bench: Bench,
    found: Cold,
    kinds: Mapping[str, Sidecar],
    clusters: Mapping[str, Cluster],
    seconds: float,
    *,
    counts: bool,
) -> None:
    for kind, sidecar in kinds.items():
        cluster = clusters.get(kind)
        before = cluster.commands() if cluster else {}
        cost = of_tokens(bench, sidecar, seconds, live_tokens(bench), LIVE)
        asked = since(cluster.commands(), before) if cluster else {}
        if counts:
            found.costs.setdefault(kind, []).append(cost)
            total = found.commands.setdefault(kind, {})
            for name, count in asked.items():
                total[name] = total.get(name, 0) + count
