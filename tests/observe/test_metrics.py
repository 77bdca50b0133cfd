"""What `/metrics` shows."""

import math
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from revocation.entries import cutoff_entry, token_entry

from authz import __version__
from authz.audit.log import AuditLog
from authz.check.token import Identity
from authz.check.verdict import Reason, allow, deny
from authz.envoy_api.counters import TransportCounters
from authz.observe import names
from authz.observe.counters import (
    REVOCATION_LAG_BUCKETS,
    CheckCounters,
    Histogram,
    StoreCounters,
)
from authz.observe.heartbeat import Heartbeat
from authz.observe.metrics import Metrics
from authz.revocation.feed.figures import FeedFigures
from authz.revocation.known.knowledge import Knowledge
from authz.revocation.record import Clear, Revoked, TokenRef
from authz.revocation.redis.outage import Breaker
from authz.settings import AuditSettings
from authz.uses.owed import OwedUses

REF = TokenRef("user", "token", 3, 1_800_000_000, 1_800_003_600)
IDENTITY = Identity("https://issuer.example", "ann", "t-1", (), ("api",), REF)


class Ring:
    """A key ring in the metrics' eyes."""

    def __init__(self, issuer: str, age: float | None, *, failing: bool) -> None:
        self.issuer = issuer
        self.use = "sig"
        self.refreshed = 4
        self.refreshes_failed = 2
        self.failing = failing
        self._age = age

    def age(self, now: float) -> float | None:
        return None if self._age is None else now - self._age


class Store:
    """A store with two nodes, one of which fails."""

    topology_refreshes = 7

    def breakers(self) -> dict[str, Breaker]:
        good, bad = Breaker(0.0, lambda: 0.5), Breaker(0.0, lambda: 0.5)
        for _ in range(5):
            bad.failure(1.0)
        return {"127.0.0.1:7001": good, "127.0.0.1:7002": bad}


class Feed:
    """A feed that follows three of four buckets."""

    buckets = 4
    live_buckets = 3
    staleness = 2.5
    subscribed = True

    def __init__(self) -> None:
        self.figures = FeedFigures(
            entries={"pushed": 11, "read": 2, "synced": 700},
            gaps=3,
            syncs=4,
            scans=1,
            lost=2,
            failures=6,
        )


def some_knowledge() -> Knowledge:
    """Of one token that is revoked, one that isn't, two that were heard of and one user."""
    known = Knowledge(revocations=10, negative_ttl=1.0, false_positives=1e-6, buckets=4)
    other = TokenRef("user", "other", 3, 0, 0)
    known.learn(REF, Revoked(100.0), 0.0)
    known.recall(REF, 1.0, 1.0)
    known.recall(other, 1.0, 1.0)
    known.learn(other, Clear(), 1.0)
    for name in ("heard", "too"):
        entry = token_entry(TokenRef("user", name, 3, 0, 0), 1000.0)
        known.hear(entry, 1.0, just_now=False)
    known.hear(cutoff_entry(TokenRef("someone", "", 3, 0, 0), 50.0), 1.0, just_now=False)
    return known


def some_owed() -> OwedUses:
    """Three uses, of which one didn't fit."""
    owed = OwedUses(capacity=2)
    for name in "abc":
        owed.add(0, name, 100.0)
    return owed


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    """Real parts, each having counted something."""
    checks = CheckCounters()
    checks.count(allow(IDENTITY), 0.00002)
    checks.count(deny(Reason.TOKEN_REVOKED, identity=IDENTITY), 0.0004)
    lag = Histogram(REVOCATION_LAG_BUCKETS)
    lag.observe(0.0015)
    store = StoreCounters()
    store.observe(0.0007, 3)
    connections = TransportCounters()
    connections.accepted, connections.open = 5, 2
    connections.count_fault("PROTOCOL_ERROR")
    connections.statuses[0] = 8
    audit = AuditLog(AuditSettings(path=tmp_path / "audit.jsonl"))
    audit.written = 12
    audit.failed["timeout"] = 3
    return Metrics(
        checks=checks,
        connections=connections,
        fail_opens={"breaker_open": 12},
        tokens=SimpleNamespace(hits=90, misses=10, size=9),
        knowledge=some_knowledge(),
        feed=Feed(),
        revocation_lag=lag,
        lookups={"clear": 20, "timeout": 2},
        store_latency=store.latency,
        store=Store(),
        uses=SimpleNamespace(
            results={"first": 6, "used_here": 2}, remembered=6, evictions=1, owed=some_owed()
        ),
        exposed={"revoked": 3, "failed": 2, "dropped": 0},
        audit=audit,
        reconciler=SimpleNamespace(
            reconciled={True: 2, False: 40}, requests_after=5, pending=7, dropped=1
        ),
        keys=lambda: [
            Ring("https://issuer.example", 40.0, failing=False),
            Ring('https://odd.example/"\\\n', None, failing=True),
        ],
        loop_lag=Heartbeat().lag,
        transport="grpcio",
        clock=lambda: 100.0,
    )


def samples(metrics: Metrics) -> dict[str, float]:
    body, _ = metrics.render("")
    return {
        sample.name + str(sorted(sample.labels.values()) or ""): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def test_the_figures_of_the_parts_are_shown(metrics: Metrics) -> None:
    found = samples(metrics)
    odd = repr('https://odd.example/"\\\n')
    expected = {
        "authz_checks_total['allow', 'ok']": 1,
        "authz_checks_total['deny', 'token_revoked']": 1,
        "authz_check_duration_seconds_bucket['2.5e-05']": 1,
        "authz_check_duration_seconds_bucket['+Inf']": 2,
        "authz_check_duration_seconds_sum": pytest.approx(0.00042),
        "authz_fail_opens_total['breaker_open']": 12,
        "authz_connections": 2,
        "authz_connections_accepted_total": 5,
        "authz_connections_refused_total['limit']": 0,
        "authz_connection_faults_total['PROTOCOL_ERROR']": 1,
        "authz_grpc_calls_total['OK']": 8,
        "authz_grpc_calls_total['RESOURCE_EXHAUSTED']": 0,
        "authz_token_cache_hits_total": 90,
        "authz_token_cache_misses_total": 10,
        "authz_token_cache_size": 9,
        "authz_revocation_cache_hits_total['revoked']": 1,
        "authz_revocation_cache_misses_total": 1,
        "authz_revocation_cache_size['clear']": 1,
        "authz_revocation_cache_evictions_total['revoked']": 0,
        "authz_filter_lookups_total['no']": 1,
        "authz_filter_lookups_total['maybe']": 0,
        "authz_filter_lookups_total['forgotten']": 0,
        "authz_filter_entries": 2,
        "authz_cutoffs": 1,
        "authz_feed_buckets": 4,
        "authz_feed_live_buckets": 3,
        "authz_feed_staleness_seconds": 2.5,
        "authz_feed_subscribed": 1,
        "authz_feed_entries_total['pushed']": 11,
        "authz_feed_entries_total['synced']": 700,
        "authz_feed_gaps_total": 3,
        "authz_feed_syncs_total": 4,
        "authz_feed_scans_total": 1,
        "authz_feed_history_lost_total": 2,
        "authz_feed_failures_total": 6,
        "authz_revocation_lag_seconds_bucket['0.0025']": 1,
        "authz_revocation_lag_seconds_sum": pytest.approx(0.0015),
        "authz_store_lookups_total['timeout']": 2,
        "authz_store_latency_seconds_count": 1,
        "authz_store_breaker_open['127.0.0.1:7001']": 0,
        "authz_store_breaker_open['127.0.0.1:7002']": 1,
        "authz_store_breaker_opened_total['127.0.0.1:7002']": 1,
        "authz_store_topology_refreshes_total": 7,
        "authz_uses_total['first']": 6,
        "authz_uses_total['used_here']": 2,
        "authz_uses_total['timeout']": 0,
        "authz_uses_remembered": 6,
        "authz_uses_unwritten": 2,
        "authz_uses_settled_total['written']": 0,
        "authz_uses_settled_total['dropped']": 1,
        "authz_uses_evicted_total": 1,
        "authz_exposed_tokens_total['revoked']": 3,
        "authz_exposed_tokens_total['dropped']": 0,
        "authz_audit_records_total": 12,
        "authz_audit_failures_total['timeout']": 3,
        "authz_audit_failures_total['no_space']": 0,
        "authz_audit_queue_length": 0,
        "authz_reconciled_total['true']": 2,
        "authz_reconciled_total['false']": 40,
        "authz_reconciled_requests_after_total": 5,
        "authz_reconcile_pending": 7,
        "authz_reconcile_dropped_total": 1,
        "authz_key_set_age_seconds['https://issuer.example', 'sig']": 60,
        f"authz_key_set_failing[{odd}, 'sig']": 1,
        "authz_key_refreshes_total['failed', 'https://issuer.example', 'sig']": 2,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["authz_filter_bytes"] > 0
    assert f"authz_key_set_age_seconds[{odd}, 'sig']" not in found  # never obtained: no age


def test_what_never_happened_is_shown_as_zero(metrics: Metrics) -> None:
    """So that the first fail-open is an increase, which an alert can see."""
    metrics._checks = CheckCounters()
    metrics._fail_opens = metrics._lookups = {}
    found = samples(metrics)
    for series in (
        "authz_checks_total['fail-open', 'store_unavailable']",
        "authz_checks_total['audit_unavailable', 'deny']",
        "authz_fail_opens_total['breaker_open']",
        "authz_store_lookups_total['timeout']",
    ):
        assert found[series] == 0


def test_build_info_says_what_runs(metrics: Metrics) -> None:
    (family,) = (f for f in metrics.collect() if f.name == names.BUILD_INFO.name)
    assert family.samples[0].labels["version"] == __version__
    assert family.samples[0].labels["transport"] == "grpcio"


def test_every_family_of_the_list_is_exported_and_no_other(metrics: Metrics) -> None:
    body, _ = metrics.render("")
    helps = dict(re.findall(r"^# HELP (authz_\w+) (.+)$", body.decode(), re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (authz_\w+) (\w+)$", body.decode(), re.MULTILINE))
    assert helps == {metric.name: metric.meaning for metric in names.METRICS}
    assert kinds == {metric.name: metric.kind for metric in names.METRICS}


def test_every_sample_carries_the_labels_of_the_list(metrics: Metrics) -> None:
    listed = {metric.name.removesuffix("_total"): set(metric.labels) for metric in names.METRICS}
    for family in metrics.collect():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == listed[family.name]


def test_the_readme_tables_every_metric() -> None:
    readme = (Path(names.__file__).parent / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(authz_\w+)` \| (\w+) \| (.*) \| (.+) \|$", readme, re.MULTILINE)
    assert table == [
        (one.name, one.kind, ", ".join(f"`{label}`" for label in one.labels), one.meaning)
        for one in (
            *names.METRICS,
            *names.WORKER_METRICS,
            *names.RELAY_METRICS,
            *names.TOKEN_METRICS,
        )
    ]


def test_openmetrics_is_given_to_who_asks_for_it(metrics: Metrics) -> None:
    body, content_type = metrics.render("application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = list(parse_openmetrics(body.decode()))  # type: ignore[no-untyped-call]
    assert "authz_checks" in {family.name for family in families}


def test_a_store_without_nodes_shows_none(metrics: Metrics) -> None:
    """`memory://`: the families are there and empty, so that a dashboard's query is no error."""
    metrics._store = None
    found = samples(metrics)
    assert not [name for name in found if re.search("store_(breaker|topology)", name)]


def test_without_a_feed_nothing_is_shown_of_one(metrics: Metrics) -> None:
    """`memory://`, or `feed.enabled` off. What is known is shown all the same."""
    metrics._feed = None
    found = samples(metrics)
    assert not [name for name in found if name.startswith("authz_feed_")]
    assert found["authz_filter_entries"] == 2


def test_the_age_of_a_feed_that_never_was_live_is_no_number(metrics: Metrics) -> None:
    """An infinite one would make an average of it infinite."""
    feed = Feed()
    feed.staleness = math.inf
    metrics._feed = feed
    assert "authz_feed_staleness_seconds" not in samples(metrics)


def test_a_transport_that_counts_nothing_shows_nothing(metrics: Metrics) -> None:
    metrics._connections = None
    found = samples(metrics)
    assert not [name for name in found if re.match("authz_(connection|grpc)", name)]


def test_two_sidecars_in_one_process_share_nothing(metrics: Metrics, tmp_path: Path) -> None:
    """No global registry: a second one can be made, and collects only its own."""
    parts: dict[str, Any] = {
        name.removeprefix("_"): value for name, value in vars(metrics).items() if name != "registry"
    }
    second = Metrics(**{**parts, "checks": CheckCounters()})
    assert samples(second)["authz_checks_total['allow', 'ok']"] == 0
    assert samples(metrics)["authz_checks_total['allow', 'ok']"] == 1


@pytest.mark.needs_tool("promtool")
def test_promtool_finds_nothing_to_object_to(metrics: Metrics) -> None:
    body, _ = metrics.render("")
    outcome = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, check=False, timeout=60
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, b"", b"")
