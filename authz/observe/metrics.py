"""What `/metrics` shows: read from the parts of the sidecar when someone asks.

The parts count in plain integers and know nothing of Prometheus. They are handed in here, each as
the few attributes that are read, so that nothing has to import anything else.
"""

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from authz import __version__
from authz.check.verdict import Reason
from authz.observe import names
from authz.observe.counters import CheckCounters, Histogram
from authz.observe.families import Values, family, histogram

# Series that exist from the start, at 0: one that began at 1 would be no increase to Prometheus,
# and an alert would miss the first fail-open.

STORE_CAUSES = ("timeout", "connection", "breaker_open", "error")
"""The causes of `authz.revocation.record.Unavailable`."""

_POSSIBLE_VERDICTS = (
    ("allow", str(Reason.OK)),
    ("allow", str(Reason.ANONYMOUS)),
    ("fail-open", str(Reason.STORE_UNAVAILABLE)),
    *(("deny", str(reason)) for reason in Reason if reason not in {Reason.OK, Reason.ANONYMOUS}),
)


class TokenCacheFigures(Protocol):
    """The cache of verified tokens: `authz.check.verifier.Verifier`."""

    hits: int
    misses: int

    @property
    def size(self) -> int: ...


class TransportFigures(Protocol):
    """`authz.envoy_api.counters.TransportCounters`."""

    accepted: int
    open: int
    refused: dict[str, int]
    faults: dict[str, int]

    def calls(self) -> dict[str, int]: ...


class RevocationCacheFigures(Protocol):
    """`authz.revocation.known.cache.RevocationCache`."""

    hits_revoked: int
    hits_clear: int
    misses: int
    evictions_revoked: int
    evictions_clear: int

    @property
    def size_revoked(self) -> int: ...

    @property
    def size_clear(self) -> int: ...


class FeedFigures(Protocol):
    """`authz.revocation.feed.figures.FeedFigures`."""

    entries: dict[str, int]
    gaps: int
    syncs: int
    scans: int
    lost: int
    failures: int


class FilterFigures(Protocol):
    """`authz.revocation.known.filter.RevocationFilter`."""

    @property
    def entries(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


class CutoffFigures(Protocol):
    """`authz.revocation.known.cutoffs.Cutoffs`."""

    @property
    def users(self) -> int: ...


class KnowledgeFigures(Protocol):
    """`authz.revocation.known.knowledge.Knowledge`."""

    @property
    def filtered(self) -> Mapping[Any, int]:
        """Look-ups in the filter, by what it said; the words are its enum's."""
        ...

    @property
    def filter(self) -> FilterFigures: ...

    @property
    def cutoffs(self) -> CutoffFigures: ...

    @property
    def cache(self) -> RevocationCacheFigures: ...


class FeedState(Protocol):
    """`authz.revocation.feed.feed.Feed`."""

    buckets: int

    @property
    def figures(self) -> FeedFigures: ...

    @property
    def live_buckets(self) -> int: ...

    @property
    def staleness(self) -> float:
        """Seconds; infinite until every bucket was verified."""
        ...

    @property
    def subscribed(self) -> bool: ...


class BreakerFigures(Protocol):
    """`authz.revocation.redis.outage.Breaker`."""

    opened: int

    @property
    def state(self) -> str: ...


class StoreFigures(Protocol):
    """`authz.revocation.redis.RedisStore`. `memory://` has neither nodes nor a map."""

    @property
    def topology_refreshes(self) -> int: ...

    def breakers(self) -> Mapping[str, BreakerFigures]:
        """`host:port` of each node, and its breaker."""
        ...


class OwedFigures(Protocol):
    """`authz.uses.owed.OwedUses`."""

    settled: dict[str, int]

    def __len__(self) -> int: ...


class UseFigures(Protocol):
    """`authz.uses.ledger.Ledger`."""

    results: dict[str, int]

    @property
    def remembered(self) -> int: ...

    @property
    def evictions(self) -> int: ...

    @property
    def owed(self) -> OwedFigures: ...


class AuditFigures(Protocol):
    """`authz.audit.log.AuditLog`."""

    written: int
    late: int
    failed: dict[str, int]

    @property
    def queue_length(self) -> int: ...


class ReconcilerFigures(Protocol):
    """`authz.audit.reconciler.Reconciler`."""

    reconciled: dict[bool, int]
    requests_after: int

    @property
    def pending(self) -> int: ...

    @property
    def dropped(self) -> int: ...


class KeyRingFigures(Protocol):
    """`authz.keys.ring.KeyRing`."""

    issuer: str

    @property
    def use(self) -> str:
        """`sig` or `enc`."""
        ...

    refreshed: int
    """Attempts to read or fetch the keys that succeeded."""
    refreshes_failed: int

    @property
    def failing(self) -> bool: ...

    def age(self, now: float) -> float | None:
        """Seconds since the keys were last obtained; `now` in monotonic seconds."""
        ...


class Metrics(Collector):
    """Composes the parts' figures into metric families, in a registry of its own.

    Read from the thread that answers HTTP, while the event loop goes on counting: single integers
    can't be torn, and mappings are copied before they are walked.
    """

    def __init__(
        self,
        *,
        checks: CheckCounters,
        connections: TransportFigures | None,
        fail_opens: Mapping[str, int],
        tokens: TokenCacheFigures,
        knowledge: KnowledgeFigures,
        feed: FeedState | None,
        revocation_lag: Histogram,
        lookups: Mapping[str, int],
        store_latency: Histogram,
        store: StoreFigures | None,
        uses: UseFigures,
        exposed: Mapping[str, int],
        audit: AuditFigures,
        reconciler: ReconcilerFigures,
        keys: Callable[[], Iterable[KeyRingFigures]],
        loop_lag: Histogram,
        transport: str,
        clock: Callable[[], float],
    ) -> None:
        """`connections`: None where the transport counts nothing.
        `fail_opens`: by cause (`FailOpenRecorder.fail_opens`). `lookups`: by result
        (`Revocations.results`). `store`, `feed`: None for `memory://`.
        `exposed`: by result (`ExposedTokens.results`), empty where none is revoked.
        `keys`: the key rings of now.
        `loop_lag`: `Heartbeat.lag`. `clock`: the monotonic seconds that `KeyRing.age` takes.
        """
        self._checks = checks
        self._connections = connections
        self._fail_opens = fail_opens
        self._tokens = tokens
        self._knowledge = knowledge
        self._feed = feed
        self._revocation_lag = revocation_lag
        self._lookups = lookups
        self._store_latency = store_latency
        self._store = store
        self._uses = uses
        self._exposed = exposed
        self._audit = audit
        self._reconciler = reconciler
        self._keys = keys
        self._loop_lag = loop_lag
        self._transport = transport
        self._clock = clock
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)  # CPU, memory, descriptors, start time

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where `accept` asks for it, else the
        Prometheus text format 0.0.4.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator[Family]:
        """All families, as `names.METRICS` lists them."""
        yield from self._collect_checks()
        yield from self._collect_connections()
        yield from self._collect_caches()
        yield from self._collect_knowledge()
        yield from self._collect_feed()
        yield from self._collect_store()
        yield from self._collect_uses()
        yield from self._collect_audit()
        yield from self._collect_reconciled()
        yield from self._collect_keys()
        yield histogram(names.LOOP_LAG, self._loop_lag)
        build = (__version__, platform.python_version(), self._transport)
        yield family(names.BUILD_INFO, {build: 1})

    def _collect_checks(self) -> Iterator[Family]:
        verdicts = dict.fromkeys(_POSSIBLE_VERDICTS, 0) | {
            (str(decision), str(reason)): count
            for (decision, reason), count in self._checks.verdicts().items()
        }
        yield family(names.CHECKS, verdicts)
        yield histogram(names.CHECK_DURATION, self._checks.duration)
        yield family(names.FAIL_OPENS, _by_one_label(self._fail_opens, STORE_CAUSES))

    def _collect_connections(self) -> Iterator[Family]:
        """Without any value where the transport counts nothing."""
        told = self._connections
        yield family(names.CONNECTIONS, {(): told.open} if told else {})
        yield family(names.CONNECTIONS_ACCEPTED, {(): told.accepted} if told else {})
        yield family(names.CONNECTIONS_REFUSED, _by_one_label(told.refused) if told else {})
        yield family(names.CONNECTION_FAULTS, _by_one_label(told.faults) if told else {})
        yield family(names.GRPC_CALLS, _by_one_label(told.calls()) if told else {})

    def _collect_caches(self) -> Iterator[Family]:
        yield family(names.TOKEN_CACHE_HITS, {(): self._tokens.hits})
        yield family(names.TOKEN_CACHE_MISSES, {(): self._tokens.misses})
        yield family(names.TOKEN_CACHE_SIZE, {(): self._tokens.size})
        cache = self._knowledge.cache
        yield family(
            names.REVOCATION_CACHE_HITS,
            {("revoked",): cache.hits_revoked, ("clear",): cache.hits_clear},
        )
        yield family(names.REVOCATION_CACHE_MISSES, {(): cache.misses})
        yield family(
            names.REVOCATION_CACHE_SIZE,
            {("revoked",): cache.size_revoked, ("clear",): cache.size_clear},
        )
        yield family(
            names.REVOCATION_CACHE_EVICTIONS,
            {("revoked",): cache.evictions_revoked, ("clear",): cache.evictions_clear},
        )

    def _collect_knowledge(self) -> Iterator[Family]:
        knowledge = self._knowledge
        answers = {(str(answer),): count for answer, count in knowledge.filtered.items()}
        yield family(names.FILTER_LOOKUPS, answers)
        yield family(names.FILTER_ENTRIES, {(): knowledge.filter.entries})
        yield family(names.FILTER_BYTES, {(): knowledge.filter.size_bytes})
        yield family(names.CUTOFFS, {(): knowledge.cutoffs.users})

    def _collect_feed(self) -> Iterator[Family]:
        """Without any value where there is no feed."""
        feed = self._feed
        figures = feed.figures if feed else None
        yield family(names.FEED_BUCKETS, {(): feed.buckets} if feed else {})
        yield family(names.FEED_LIVE_BUCKETS, {(): feed.live_buckets} if feed else {})
        stale_for = feed.staleness if feed else math.inf
        yield family(names.FEED_STALENESS, {} if math.isinf(stale_for) else {(): stale_for})
        yield family(names.FEED_SUBSCRIBED, {(): int(feed.subscribed)} if feed else {})
        yield family(names.FEED_ENTRIES, _by_one_label(figures.entries) if figures else {})
        yield family(names.FEED_GAPS, {(): figures.gaps} if figures else {})
        yield family(names.FEED_SYNCS, {(): figures.syncs} if figures else {})
        yield family(names.FEED_SCANS, {(): figures.scans} if figures else {})
        yield family(names.FEED_HISTORY_LOST, {(): figures.lost} if figures else {})
        yield family(names.FEED_FAILURES, {(): figures.failures} if figures else {})
        yield histogram(names.REVOCATION_LAG, self._revocation_lag)

    def _collect_store(self) -> Iterator[Family]:
        breakers = {} if self._store is None else self._store.breakers()
        yield family(
            names.STORE_LOOKUPS, _by_one_label(self._lookups, ("revoked", "clear", *STORE_CAUSES))
        )
        yield histogram(names.STORE_LATENCY, self._store_latency)
        yield family(
            names.STORE_BREAKER_OPEN,
            {(node,): int(breaker.state == "open") for node, breaker in breakers.items()},
        )
        yield family(
            names.STORE_BREAKER_OPENED,
            {(node,): breaker.opened for node, breaker in breakers.items()},
        )
        refreshes = {} if self._store is None else {(): self._store.topology_refreshes}
        yield family(names.STORE_TOPOLOGY_REFRESHES, refreshes)
        yield family(names.EXPOSED_TOKENS, _by_one_label(self._exposed))

    def _collect_uses(self) -> Iterator[Family]:
        outcomes = ("first", "used", "used_here", *STORE_CAUSES)
        yield family(names.USES, _by_one_label(self._uses.results, outcomes))
        yield family(names.USES_REMEMBERED, {(): self._uses.remembered})
        yield family(names.USES_UNWRITTEN, {(): len(self._uses.owed)})
        yield family(names.USES_SETTLED, _by_one_label(self._uses.owed.settled))
        yield family(names.USES_EVICTED, {(): self._uses.evictions})

    def _collect_audit(self) -> Iterator[Family]:
        yield family(names.AUDIT_RECORDS, {(): self._audit.written})
        yield family(names.AUDIT_LATE, {(): self._audit.late})
        yield family(names.AUDIT_FAILURES, _by_one_label(self._audit.failed))
        yield family(names.AUDIT_QUEUE, {(): self._audit.queue_length})

    def _collect_reconciled(self) -> Iterator[Family]:
        told = self._reconciler
        by_finding = {(str(was).lower(),): count for was, count in told.reconciled.items()}
        yield family(names.RECONCILED, by_finding)
        yield family(names.RECONCILED_AFTER, {(): told.requests_after})
        yield family(names.RECONCILE_PENDING, {(): told.pending})
        yield family(names.RECONCILE_DROPPED, {(): told.dropped})

    def _collect_keys(self) -> Iterator[Family]:
        now = self._clock()
        rings = list(self._keys())
        ages = {(ring.issuer, ring.use): ring.age(now) for ring in rings}
        yield family(
            names.KEY_SET_AGE, {labels: age for labels, age in ages.items() if age is not None}
        )
        failing = {(ring.issuer, ring.use): int(ring.failing) for ring in rings}
        yield family(names.KEY_SET_FAILING, failing)
        yield family(
            names.KEY_REFRESHES,
            {(ring.issuer, ring.use, "ok"): ring.refreshed for ring in rings}
            | {(ring.issuer, ring.use, "failed"): ring.refreshes_failed for ring in rings},
        )


def _by_one_label(counts: Mapping[str, int], known: Iterable[str] = ()) -> Values:
    return {(label,): count for label, count in (dict.fromkeys(known, 0) | dict(counts)).items()}
