"""The dashboard "authz: revocation and Redis"."""

from k8s.monitoring.generator.board import Board, Panel
from k8s.monitoring.generator.kinds import Kind
from k8s.monitoring.generator.queries import hits, quantiles, rate, rates, share

_LAG = "authz_revocation_lag_seconds_bucket{OF}"
_FAILED = 'authz_store_lookups_total{OF, result!~"revoked|clear"}'

_AT_A_GLANCE = (
    Panel(
        "Live buckets",
        "Share of buckets of which a sidecar knows every revocation. For the others it asks.",
        Kind.SHARE,
        {"": "sum(authz_feed_live_buckets{OF}) / sum(authz_feed_buckets{OF})"},
        tile=True,
    ),
    Panel(
        "Stale for",
        "The worst sidecar: since it last knew that no revocation is missing.",
        Kind.SECONDS,
        {"": "max(authz_feed_staleness_seconds{OF})"},
        tile=True,
    ),
    Panel(
        "Lag p99",
        "Age of revocations when they reach a sidecar, in the time shown.",
        Kind.SECONDS,
        {
            "": "histogram_quantile(0.99, sum by (le) "
            "(rate(authz_revocation_lag_seconds_bucket{OF}[$__range])))"
        },
        tile=True,
    ),
    Panel(
        "Breakers open",
        "Nodes of the store that no check asks, counted at each sidecar.",
        Kind.COUNT,
        {"": "sum(authz_store_breaker_open{OF})"},
        tile=True,
    ),
    Panel(
        "Revoked and let through",
        "Requests, in the time shown. Must be nought; each is in the audit as `reconciled`.",
        Kind.COUNT,
        {"": "sum(increase(authz_reconciled_requests_after_total{OF}[$__range]))"},
        tile=True,
    ),
    Panel(
        "Look-ups that failed",
        "Share of those that the store was asked.",
        Kind.SHARE,
        {"": share(_FAILED, "authz_store_lookups_total{OF}")},
        tile=True,
    ),
)

_FEED = (
    Panel(
        "Lag",
        "Age of revocations when they came, by the clocks of node and sidecar.",
        Kind.SECONDS,
        quantiles(_LAG),
    ),
    Panel(
        "Revocations heard of",
        "pushed is the rule; read: one was missing; synced: all were read, as at the start.",
        Kind.RATE,
        rates("authz_feed_entries_total", "how"),
    ),
    Panel(
        "Staleness",
        "Of each sidecar. Above `feed.max_staleness` it asks the store about every token.",
        Kind.SECONDS,
        {"{{instance}}": "max by (instance) (authz_feed_staleness_seconds{OF})"},
    ),
    Panel(
        "Live buckets of each sidecar",
        "All there are, when all is well.",
        Kind.COUNT,
        {"{{instance}}": "min by (instance) (authz_feed_live_buckets{OF})"},
    ),
    Panel(
        "Subscribed",
        "Whether revocations are pushed to each sidecar.",
        Kind.FLAG,
        {"{{instance}}": "min by (instance) (authz_feed_subscribed{OF})"},
    ),
    Panel(
        "Trouble",
        "lost: the store forgot revocations that are known here.",
        Kind.RATE,
        {
            legend: rate(f"authz_feed_{metric}_total")
            for legend, metric in (
                ("gaps", "gaps"),
                ("buckets read anew", "syncs"),
                ("scans of a node", "scans"),
                ("failures", "failures"),
                ("lost", "history_lost"),
            )
        },
    ),
)

_STORE = (
    Panel(
        "Look-ups by result",
        "clear and revoked are answers; the others are causes of none.",
        Kind.RATE,
        rates("authz_store_lookups_total", "result"),
    ),
    Panel(
        "Latency",
        "Round trips that were answered, each shared by the look-ups of one turn.",
        Kind.SECONDS,
        quantiles("authz_store_latency_seconds_bucket{OF}"),
    ),
    Panel(
        "Breaker open",
        "Whether some sidecar doesn't ask this node.",
        Kind.FLAG,
        {"{{node}}": "max by (node) (authz_store_breaker_open{OF})"},
    ),
    Panel(
        "Breakers that opened",
        "One sidecar: its network. All: the node.",
        Kind.RATE,
        {
            "{{node}} of {{instance}}": "sum by (node, instance) "
            "(rate(authz_store_breaker_opened_total{OF}[W]))"
        },
    ),
    Panel(
        "Maps of the cluster read",
        "It rises when slots move or masters change.",
        Kind.RATE,
        {"all": rate("authz_store_topology_refreshes_total")},
    ),
)

_MEMORY = (
    Panel(
        "Answers of the filter",
        "no: not revoked, Redis isn't asked. maybe: looked up.",
        Kind.RATE,
        rates("authz_filter_lookups_total", "answer"),
    ),
    Panel(
        "Revocations remembered",
        "Entries of each sidecar's filter, and users whose tokens of before a moment are revoked.",
        Kind.COUNT,
        {
            "{{instance}} tokens": "max by (instance) (authz_filter_entries{OF})",
            "{{instance}} users": "max by (instance) (authz_cutoffs{OF})",
        },
    ),
    Panel(
        "Memory of the filter",
        "Of each sidecar.",
        Kind.BYTES,
        {"{{instance}}": "max by (instance) (authz_filter_bytes{OF})"},
    ),
    Panel(
        "Cache of look-ups",
        "Share that memory answered.",
        Kind.SHARE,
        {"share": hits("authz_revocation_cache")},
    ),
    Panel(
        "Entries of the cache",
        "By what they say. At most `cache.revocations` in each sidecar.",
        Kind.COUNT,
        {"{{kind}}": "sum by (kind) (authz_revocation_cache_size{OF})"},
    ),
    Panel(
        "Evictions",
        "Entries that were pushed out while they still counted.",
        Kind.RATE,
        rates("authz_revocation_cache_evictions_total", "kind"),
    ),
)

_OUTAGE = (
    Panel(
        "Fail-opens by cause",
        "Requests let through, by why the store was not asked.",
        Kind.RATE,
        rates("authz_fail_opens_total", "cause"),
    ),
    Panel(
        "Looked at again",
        "Tokens that were let through, by whether they are revoked, in the time shown.",
        Kind.COUNT,
        {
            "revoked: {{was_revoked}}": "sum by (was_revoked) "
            "(increase(authz_reconciled_total{OF}[$__range]))"
        },
    ),
    Panel(
        "Waiting to be looked at",
        "Tokens; and requests in the time shown whose token could not be remembered.",
        Kind.COUNT,
        {
            "waiting": "sum(authz_reconcile_pending{OF})",
            "dropped": "sum(increase(authz_reconcile_dropped_total{OF}[$__range]))",
        },
    ),
)

_USES = (
    Panel(
        "Used once, by outcome",
        "Proofs and tokens that work once. used: a replay was refused.",
        Kind.RATE,
        rates("authz_uses_total", "outcome"),
    ),
    Panel(
        "Uses remembered",
        "unwritten: let through while the store was gone, and to be told it.",
        Kind.COUNT,
        {
            "remembered": "sum(authz_uses_remembered{OF})",
            "unwritten": "sum(authz_uses_unwritten{OF})",
            "pushed out": "sum(increase(authz_uses_evicted_total{OF}[$__range]))",
        },
    ),
    Panel(
        "What became of unwritten uses",
        "present: used elsewhere too, so let through twice. In the time shown.",
        Kind.COUNT,
        {"{{result}}": "sum by (result) (increase(authz_uses_settled_total{OF}[$__range]))"},
    ),
    Panel(
        "Tokens in the clear",
        "That came over plain HTTP, by whether they could be revoked. In the time shown.",
        Kind.COUNT,
        {"{{result}}": "sum by (result) (increase(authz_exposed_tokens_total{OF}[$__range]))"},
    ),
)

# Relays have jobs of their own, which is why these ask for all of them.

_RELAY = (
    Panel(
        "Lag of relays",
        "Age of the oldest revocation that may not be in the other region yet.",
        Kind.SECONDS,
        {"{{instance}}": "max by (instance) (authz_relay_lag_seconds)"},
    ),
    Panel(
        "Backlog of relays",
        "Entries of the source that are not in the target. level: 1 when it has them all.",
        Kind.COUNT,
        {
            "{{instance}}": "max by (instance) (authz_relay_backlog)",
            "{{instance}} level": "min by (instance) (authz_relay_level)",
        },
    ),
    Panel(
        "Sides that work",
        "from and to.",
        Kind.FLAG,
        {"{{instance}} {{side}}": "min by (instance, side) (authz_relay_up)"},
    ),
    Panel(
        "Revocations copied",
        "By what became of them. repeated: the target had them.",
        Kind.RATE,
        {"{{result}}": "sum by (result) (rate(authz_relay_entries_total[W]))"},
    ),
    Panel(
        "Trouble of relays",
        "Calls that failed, by side; buckets that were copied again, and nodes read key by key.",
        Kind.RATE,
        {
            "{{side}} failed": "sum by (side) (rate(authz_relay_failures_total[W]))",
            "buckets copied again": "sum(rate(authz_relay_resyncs_total[W]))",
            "scans": "sum(rate(authz_relay_scans_total[W]))",
        },
    ),
)

BOARD = Board(
    name="revocation",
    title="authz: revocation and Redis",
    meaning="How soon revocations arrive, how the store answers, and what an outage let through.",
    chosen_by="authz_checks_total",
    rows={
        "At a glance": _AT_A_GLANCE,
        "Feed of revocations": _FEED,
        "The store": _STORE,
        "Memory": _MEMORY,
        "What an outage let through": _OUTAGE,
        "What may be used once": _USES,
        "Relays between regions": _RELAY,
    },
)
