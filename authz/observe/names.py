"""Every metric of authz: its name, kind, labels and one line of meaning (its HELP).

README.md beside this file is the same list for readers; a test compares the two, and both with
what a sidecar exports.
"""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A family of time series."""

    name: str
    """As it appears in queries, `_total` of counters included."""
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


CHECKS = Metric(
    "authz_checks_total",
    "counter",
    "Checks answered, by verdict (allow, deny, fail-open) and reason.",
    ("verdict", "reason"),
)
CHECK_DURATION = Metric(
    "authz_check_duration_seconds",
    "histogram",
    "From the request read to the verdict, the wait for store and audit included.",
)
FAIL_OPENS = Metric(
    "authz_fail_opens_total",
    "counter",
    "Requests let through unasked, by why the store was not asked.",
    ("cause",),
)

CONNECTIONS = Metric("authz_connections", "gauge", "Connections of Envoy that are open.")
CONNECTIONS_ACCEPTED = Metric(
    "authz_connections_accepted_total", "counter", "Connections taken for good."
)
CONNECTIONS_REFUSED = Metric(
    "authz_connections_refused_total",
    "counter",
    "Connections closed before their first request: too many at a time (limit), or no TLS (tls).",
    ("cause",),
)
CONNECTION_FAULTS = Metric(
    "authz_connection_faults_total",
    "counter",
    "Connections ended because the peer broke a rule or a limit, by HTTP/2 error code.",
    ("code",),
)
GRPC_CALLS = Metric(
    "authz_grpc_calls_total",
    "counter",
    "Calls of Check and of health, by gRPC status; denials are OK, and CANCELLED are Envoy's.",
    ("status",),
)

TOKEN_CACHE_HITS = Metric(
    "authz_token_cache_hits_total", "counter", "Tokens whose signature was known to be good."
)
TOKEN_CACHE_MISSES = Metric(
    "authz_token_cache_misses_total", "counter", "Tokens whose signature had to be verified."
)
TOKEN_CACHE_SIZE = Metric("authz_token_cache_size", "gauge", "Verified tokens remembered.")

REVOCATION_CACHE_HITS = Metric(
    "authz_revocation_cache_hits_total",
    "counter",
    "Look-ups that memory answered, by what it knew (revoked, clear).",
    ("kind",),
)
REVOCATION_CACHE_MISSES = Metric(
    "authz_revocation_cache_misses_total", "counter", "Look-ups that memory could not answer."
)
REVOCATION_CACHE_SIZE = Metric(
    "authz_revocation_cache_size",
    "gauge",
    "Entries held, by kind; those that ran out and were not pushed out yet included.",
    ("kind",),
)
REVOCATION_CACHE_EVICTIONS = Metric(
    "authz_revocation_cache_evictions_total",
    "counter",
    "Entries pushed out while they still counted, by kind; the feed's filter still has them.",
    ("kind",),
)

FILTER_LOOKUPS = Metric(
    "authz_filter_lookups_total",
    "counter",
    "Tokens looked for in the filter of revoked ones, by its answer (no, maybe, forgotten).",
    ("answer",),
)
FILTER_ENTRIES = Metric(
    "authz_filter_entries", "gauge", "Revoked tokens that the filter was told and still holds."
)
FILTER_BYTES = Metric("authz_filter_bytes", "gauge", "Memory of the filter.")
CUTOFFS = Metric("authz_cutoffs", "gauge", "Users whose tokens of before a moment are revoked.")

FEED_BUCKETS = Metric("authz_feed_buckets", "gauge", "Buckets that the feed follows.")
FEED_LIVE_BUCKETS = Metric(
    "authz_feed_live_buckets",
    "gauge",
    "Buckets of which every revocation is known; for the others the store is asked.",
)
FEED_STALENESS = Metric(
    "authz_feed_staleness_seconds",
    "gauge",
    "Since it was last verified, for every bucket, that none is missing; absent until it was.",
)
FEED_SUBSCRIBED = Metric(
    "authz_feed_subscribed", "gauge", "1 while revocations are pushed to this sidecar, else 0."
)
FEED_ENTRIES = Metric(
    "authz_feed_entries_total",
    "counter",
    "Revocations heard of, by how: pushed, read where one was missing, synced with all others.",
    ("how",),
)
FEED_GAPS = Metric("authz_feed_gaps_total", "counter", "Pushes that left a gap before them.")
FEED_SYNCS = Metric(
    "authz_feed_syncs_total", "counter", "Buckets whose revocations were all read anew."
)
FEED_SCANS = Metric(
    "authz_feed_scans_total",
    "counter",
    "Times that all keys of a node were read, because a stream was not whole.",
)
FEED_HISTORY_LOST = Metric(
    "authz_feed_history_lost_total",
    "counter",
    "Buckets of which the store had lost revocations that are known here.",
)
FEED_FAILURES = Metric(
    "authz_feed_failures_total", "counter", "Readings of tips or streams that failed."
)
REVOCATION_LAG = Metric(
    "authz_revocation_lag_seconds",
    "histogram",
    "Age of revocations when they came, by the clocks of the node and of this sidecar.",
)

STORE_LOOKUPS = Metric(
    "authz_store_lookups_total",
    "counter",
    "Look-ups the store was asked, by result: revoked, clear, or the cause of no answer.",
    ("result",),
)
STORE_LATENCY = Metric(
    "authz_store_latency_seconds",
    "histogram",
    "Round trips to the store that were answered, each shared by the look-ups and uses of one "
    "turn.",
)
STORE_BREAKER_OPEN = Metric(
    "authz_store_breaker_open",
    "gauge",
    "1 while no check asks this node because it failed, else 0.",
    ("node",),
)
STORE_BREAKER_OPENED = Metric(
    "authz_store_breaker_opened_total",
    "counter",
    "How often the breaker of this node opened.",
    ("node",),
)
STORE_TOPOLOGY_REFRESHES = Metric(
    "authz_store_topology_refreshes_total",
    "counter",
    "How often the map of the cluster was read.",
)

USES = Metric(
    "authz_uses_total",
    "counter",
    "What may be used once, by outcome: first, used, used_here (before the store was asked), or "
    "the cause of no answer.",
    ("outcome",),
)
USES_REMEMBERED = Metric(
    "authz_uses_remembered", "gauge", "Uses that are known here, should the store be gone."
)
USES_UNWRITTEN = Metric(
    "authz_uses_unwritten",
    "gauge",
    "Uses that were let through while the store was gone, and that it hasn't been told of yet.",
)
USES_SETTLED = Metric(
    "authz_uses_settled_total",
    "counter",
    "Such uses by what became of them: written, present (used elsewhere too, or written after "
    "all), expired, dropped.",
    ("result",),
)
USES_EVICTED = Metric(
    "authz_uses_evicted_total",
    "counter",
    "Uses pushed out of memory while they still counted; the store has them.",
)

EXPOSED_TOKENS = Metric(
    "authz_exposed_tokens_total",
    "counter",
    "Tokens that came in the clear, by what became of them: revoked, failed (and repeated), "
    "dropped.",
    ("result",),
)

AUDIT_RECORDS = Metric("authz_audit_records_total", "counter", "Audit records written.")
AUDIT_LATE = Metric(
    "authz_audit_late_records_total",
    "counter",
    "Audit records written after their request had given up on them.",
)
AUDIT_FAILURES = Metric(
    "authz_audit_failures_total",
    "counter",
    "Audit records that could not be written in time, by cause.",
    ("cause",),
)
AUDIT_QUEUE = Metric(
    "authz_audit_queue_length", "gauge", "Audit records accepted and not written yet."
)

RECONCILED = Metric(
    "authz_reconciled_total",
    "counter",
    "Tokens that were let through and looked at again, by whether they are revoked (true, false).",
    ("was_revoked",),
)
RECONCILED_AFTER = Metric(
    "authz_reconciled_requests_after_total",
    "counter",
    "Requests let through although their token was revoked by then, as found out later.",
)
RECONCILE_PENDING = Metric(
    "authz_reconcile_pending", "gauge", "Tokens that were let through and wait to be looked at."
)
RECONCILE_DROPPED = Metric(
    "authz_reconcile_dropped_total",
    "counter",
    "Requests let through whose token could not be remembered, for there are too many.",
)

KEY_SET_AGE = Metric(
    "authz_key_set_age_seconds",
    "gauge",
    "Since an issuer's keys (use: sig, or enc to decrypt) were last read or fetched; absent until"
    " they first were.",
    ("issuer", "use"),
)
KEY_SET_FAILING = Metric(
    "authz_key_set_failing",
    "gauge",
    "1 while the last attempt to get an issuer's keys failed, else 0.",
    ("issuer", "use"),
)
KEY_REFRESHES = Metric(
    "authz_key_refreshes_total",
    "counter",
    "Attempts to get an issuer's keys, by result (ok, failed).",
    ("issuer", "use", "result"),
)

LOOP_LAG = Metric(
    "authz_event_loop_lag_seconds",
    "histogram",
    "How much later than due the event loop ran a timer, four times a second.",
)
BUILD_INFO = Metric(
    "authz_build_info",
    "gauge",
    "Always 1; the labels say what runs.",
    ("version", "python", "transport"),
)

METRICS = tuple(one for one in list(globals().values()) if isinstance(one, Metric))
"""All of them, in the order above."""

# The parent of several workers. There every metric above carries the label `worker` as well.

WORKER_UP = Metric(
    "authz_worker_up",
    "gauge",
    "1 while the worker serves and answers its parent, else 0.",
    ("worker",),
)
WORKER_RESTARTS = Metric(
    "authz_worker_restarts_total",
    "counter",
    "How often the worker ended unasked and was started again.",
    ("worker",),
)
WORKER_CONNECTIONS = Metric(
    "authz_worker_connections",
    "gauge",
    "Connections of Envoy that the worker serves.",
    ("worker",),
)

WORKER_METRICS = (WORKER_UP, WORKER_RESTARTS, WORKER_CONNECTIONS)
"""These alone; a sidecar of one process has none of them."""

# `authz relay`, which is a process of its own and has none of those above.

RELAY_LAG = Metric(
    "authz_relay_lag_seconds",
    "gauge",
    "Age of the oldest revocation that is not, or may not be, in the target; 0 when level.",
)
RELAY_BACKLOG = Metric(
    "authz_relay_backlog", "gauge", "Entries of the source's streams not in the target yet."
)
RELAY_LEVEL = Metric(
    "authz_relay_level", "gauge", "1 while the target has all that the source has, else 0."
)
RELAY_ENTRIES = Metric(
    "authz_relay_entries_total",
    "counter",
    "Revocations read, by what became of them: written, repeated, expired, unreadable.",
    ("result",),
)
RELAY_RESYNCS = Metric(
    "authz_relay_resyncs_total", "counter", "Buckets copied (again) from their beginning."
)
RELAY_SCANS = Metric(
    "authz_relay_scans_total",
    "counter",
    "Times that all keys of a node were read, because a stream was not whole.",
)
RELAY_UP = Metric(
    "authz_relay_up",
    "gauge",
    "1 while this side (from, to) does what it is asked, else 0.",
    ("side",),
)
RELAY_FAILURES = Metric(
    "authz_relay_failures_total",
    "counter",
    "Calls that failed, by side; each is repeated.",
    ("side",),
)

RELAY_METRICS = (
    RELAY_LAG, RELAY_BACKLOG, RELAY_LEVEL, RELAY_ENTRIES, RELAY_RESYNCS, RELAY_SCANS, RELAY_UP,
    RELAY_FAILURES,
)  # fmt: skip
"""These, and BUILD_INFO and LOOP_LAG."""

# `authz tokens`, which is a process of its own as well.

TOKEN_REQUESTS = Metric(
    "authz_tokens_requests_total",
    "counter",
    "Requests to the token service, by route and status (499: the client went away).",
    ("route", "status"),
)
TOKEN_REQUEST_DURATION = Metric(
    "authz_tokens_request_duration_seconds",
    "histogram",
    "From the request's head to the end of the answer.",
)
TOKENS_ISSUED = Metric(
    "authz_tokens_issued_total",
    "counter",
    "Access tokens given, by grant (client_credentials, refresh_token, token_exchange).",
    ("grant",),
)
TOKEN_ERRORS = Metric(
    "authz_tokens_errors_total",
    "counter",
    "Requests refused, by `error`, or by its cause where that says more (store, signing, busy).",
    ("error",),
)
TOKEN_LIMITED = Metric(
    "authz_tokens_limited_total",
    "counter",
    "Requests answered 429, by the limit that was reached.",
    ("limit",),
)
TOKEN_LIMITS_SHARED = Metric(
    "authz_tokens_limits_shared",
    "gauge",
    "1 while requests are counted in Redis for all processes, 0 while each counts for itself.",
)
TOKEN_LIMITS_FAILURES = Metric(
    "authz_tokens_limits_failures_total",
    "counter",
    "Requests that could not be counted in Redis and were counted here.",
)
TOKEN_SECRET_HASHES = Metric(
    "authz_tokens_secret_hashes_total",
    "counter",
    "Secrets of clients that had to be hashed; each takes 20 ms of a core.",
)

TOKEN_SIGNATURES = Metric(
    "authz_tokens_signatures_total",
    "counter",
    "Tokens to be signed, by result: ok, or unavailable where the key can't be used.",
    ("result",),
)
TOKEN_SIGNATURE_DURATION = Metric(
    "authz_tokens_signature_duration_seconds",
    "histogram",
    "Signatures that were made, the way to Vault and back included.",
)
TOKEN_SIGNING_KEYS = Metric(
    "authz_tokens_signing_keys",
    "gauge",
    "Keys that are published, by what they do: signing, coming, older (their tokens may live).",
    ("state",),
)
TOKEN_SIGNING_KEY_AGE = Metric(
    "authz_tokens_signing_key_age_seconds",
    "gauge",
    "Since the key that signs began to; absent where that was not written down.",
)
TOKEN_SIGNING_FAILING = Metric(
    "authz_tokens_signing_keys_failing",
    "gauge",
    "1 while the signing keys can't be read (Vault sealed or gone, a file damaged), else 0.",
)
TOKEN_SIGNING_READINGS = Metric(
    "authz_tokens_signing_key_readings_total",
    "counter",
    "Attempts to read the signing keys, by result (ok, failed).",
    ("result",),
)
TOKEN_ROTATIONS = Metric(
    "authz_tokens_rotations_total",
    "counter",
    "Signing keys that this process was to make by schedule, by result (ok, failed).",
    ("result",),
)

TOKEN_METRICS = (
    TOKEN_REQUESTS, TOKEN_REQUEST_DURATION, TOKENS_ISSUED, TOKEN_ERRORS, TOKEN_LIMITED,
    TOKEN_LIMITS_SHARED, TOKEN_LIMITS_FAILURES, TOKEN_SECRET_HASHES, TOKEN_SIGNATURES,
    TOKEN_SIGNATURE_DURATION, TOKEN_SIGNING_KEYS, TOKEN_SIGNING_KEY_AGE, TOKEN_SIGNING_FAILING,
    TOKEN_SIGNING_READINGS, TOKEN_ROTATIONS,
)  # fmt: skip
"""These, and BUILD_INFO and LOOP_LAG."""
