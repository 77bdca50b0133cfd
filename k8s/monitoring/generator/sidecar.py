"""The dashboard "authz: sidecar"."""

from k8s.monitoring.generator.board import Board, Panel
from k8s.monitoring.generator.kinds import Kind
from k8s.monitoring.generator.process import process_panels
from k8s.monitoring.generator.queries import budget, hits, quantiles, rate, rates, share

_CHECKS = "authz_checks_total{OF}"
_FAIL_OPENS = 'authz_checks_total{OF, verdict="fail-open"}'

_AT_A_GLANCE = (
    Panel(
        "Checks", "All sidecars together.", Kind.RATE, {"": rate("authz_checks_total")}, tile=True
    ),
    Panel(
        "Denied",
        "Share of checks. What is usual depends on the clients; a jump is worth a look.",
        Kind.SHARE,
        {"": share('authz_checks_total{OF, verdict="deny"}', _CHECKS)},
        tile=True,
    ),
    Panel(
        "Let through unasked",
        "Share of checks that failed open: nobody knew whether the token is revoked.",
        Kind.SHARE,
        {"": share(_FAIL_OPENS, _CHECKS)},
        tile=True,
    ),
    Panel(
        "p99",
        "One check in a hundred takes this or longer, as the sidecar measures it.",
        Kind.SECONDS,
        {"": quantiles("authz_check_duration_seconds_bucket{OF}")["p99"]},
        tile=True,
    ),
    Panel(
        "Sidecars",
        "That are scraped.",
        Kind.COUNT,
        {"": 'count(count by (instance) (authz_build_info{OF, transport!=""}))'},
        tile=True,
    ),
    Panel(
        "Alerts",
        "Of ours that are firing; RUNBOOK.md has each.",
        Kind.COUNT,
        {"": 'count(ALERTS{alertname=~"Authz.+", alertstate="firing"}) or vector(0)'},
        tile=True,
    ),
)


def _all(metric: str) -> str:
    return f"sum by (job) (increase({metric}[RANGE]))"


_ENVOY_ERRORS = _all("envoy_http_ext_authz_error{OF}")
_OUR_DENIALS = _all(
    'authz_checks_total{OF, verdict="deny", reason=~'
    '"store_unavailable|audit_unavailable|keys_unavailable|misconfigured_route"}'
)
_ENVOY_CHECKS = " + ".join(
    _all(f"envoy_http_ext_authz_{outcome}{{OF}}") for outcome in ("ok", "denied", "error")
)
_TIMED = _all("authz_check_duration_seconds_count{OF}")
_QUICK = _all('authz_check_duration_seconds_bucket{OF, le="0.01"}')

_BUDGETS = (
    Panel(
        "Availability budget left",
        "Of 0.1 % of checks that may fail for a reason of ours, in the time shown.",
        Kind.BUDGET,
        {"{{job}}": budget(f"{_ENVOY_ERRORS} + {_OUR_DENIALS}", _ENVOY_CHECKS, 0.001)},
    ),
    Panel(
        "Fail-open budget left",
        "Of 0.1 % of checks that may be let through unasked, in the time shown.",
        Kind.BUDGET,
        {"{{job}}": budget(_all(_FAIL_OPENS), _all(_CHECKS), 0.001)},
    ),
    Panel(
        "Latency budget left",
        "Of 1 % of checks that may take longer than 10 ms, in the time shown.",
        Kind.BUDGET,
        {"{{job}}": budget(f"{_TIMED} - {_QUICK}", _TIMED, 0.01)},
    ),
)

_DECISIONS = (
    Panel(
        "By verdict",
        "allow, deny, fail-open.",
        Kind.RATE,
        rates("authz_checks_total", "verdict"),
    ),
    Panel(
        "Denials by reason",
        "README.md of authz/check says what each means. Most are a client's fault.",
        Kind.RATE,
        {
            "{{reason}}": "sum by (reason) "
            '(rate(authz_checks_total{OF, verdict="deny"}[W])) > 0 or sum by (reason) '
            '(rate(authz_checks_total{OF, reason="token_revoked"}[W]))'
        },
    ),
    Panel(
        "Fail-opens by cause",
        "Why the store was not asked. Should be nought.",
        Kind.RATE,
        rates("authz_fail_opens_total", "cause"),
    ),
)

_LATENCY = (
    Panel(
        "Measured by the sidecar",
        "From the request read to the verdict, the wait for store and audit included.",
        Kind.SECONDS,
        quantiles("authz_check_duration_seconds_bucket{OF}"),
    ),
    Panel(
        "Measured by Envoy",
        "From Envoy's asking to the answer: the way, and queues on both sides, included. Its grain "
        "is a millisecond.",
        Kind.SECONDS,
        quantiles(
            'envoy_cluster_upstream_rq_time_bucket{OF, envoy_cluster_name=~".*authz.*"}', scale=1000
        ),
    ),
    Panel(
        "Slower than 10 ms",
        "The objective allows one in a hundred.",
        Kind.SHARE,
        {
            "share": '1 - sum(rate(authz_check_duration_seconds_bucket{OF, le="0.01"}[W])) / '
            "sum(rate(authz_check_duration_seconds_count{OF}[W]))"
        },
    ),
)

_AUTHZ_CLUSTER = ', envoy_cluster_name=~".*authz.*"'

_ACCEPTED = rate("authz_connections_accepted_total")

_ENVOY = (
    Panel(
        "Outcomes",
        "error: no answer of the sidecar, the client got 503. failure_mode_allowed: Envoy let it "
        "through by itself, which must never be.",
        Kind.RATE,
        {
            what: rate(f"envoy_http_ext_authz_{what}")
            for what in ("ok", "denied", "error", "failure_mode_allowed")
        },
    ),
    Panel(
        "Healthy sidecars",
        "As Envoy's health checks have it. An Envoy has one sidecar.",
        Kind.COUNT,
        {
            "healthy": f"sum(envoy_cluster_membership_healthy{{OF{_AUTHZ_CLUSTER}}})",
            "all": f"sum(envoy_cluster_membership_total{{OF{_AUTHZ_CLUSTER}}})",
        },
    ),
    Panel(
        "Why there was no answer",
        "Of calls to the sidecar: out of time, too many at once, no connection.",
        Kind.RATE,
        {
            legend: rate(f"envoy_cluster_{metric}", _AUTHZ_CLUSTER)
            for legend, metric in (
                ("timeout", "upstream_rq_timeout"),
                ("too many", "upstream_rq_pending_overflow"),
                ("no connection", "upstream_cx_connect_fail"),
            )
        },
    ),
    Panel(
        "gRPC calls by status",
        "As the sidecar ends them, health checks included. Denials are OK; CANCELLED are those "
        "that Envoy gave up.",
        Kind.RATE,
        rates("authz_grpc_calls_total", "status"),
    ),
    Panel(
        "Connections",
        "Of Envoy to each sidecar.",
        Kind.COUNT,
        {"{{instance}}": "sum by (instance) (authz_connections{OF})"},
    ),
    Panel(
        "Connections that went wrong",
        "Refused before their first request, or ended because the peer broke a rule.",
        Kind.RATE,
        {
            "accepted": _ACCEPTED,
            "refused": f"{rate('authz_connections_refused_total')} or 0 * {_ACCEPTED}",
            "faults": f"{rate('authz_connection_faults_total')} or 0 * {_ACCEPTED}",
        },
    ),
)

_CACHES = (
    Panel(
        "Signatures known",
        "Share of tokens whose signature had been verified before: 0.1 ms of a core saved each.",
        Kind.SHARE,
        {"share": hits("authz_token_cache")},
    ),
    Panel(
        "Tokens remembered",
        "Each sidecar's, at most `cache.tokens`.",
        Kind.COUNT,
        {"{{instance}}": "sum by (instance) (authz_token_cache_size{OF})"},
    ),
    Panel(
        "Signatures to verify",
        "A flood of forged tokens shows here first.",
        Kind.RATE,
        {"misses": rate("authz_token_cache_misses_total")},
    ),
)

_AUDIT = (
    Panel(
        "Records",
        "Written; late: after their request had given up on them.",
        Kind.RATE,
        {
            "written": rate("authz_audit_records_total"),
            "late": rate("authz_audit_late_records_total"),
        },
    ),
    Panel(
        "Failures by cause",
        "Must be nought: what is not on record is refused.",
        Kind.RATE,
        rates("authz_audit_failures_total", "cause"),
    ),
    Panel(
        "Queue",
        "Records that wait for the disk; at 1024 the next ones fail.",
        Kind.COUNT,
        {"{{instance}}": "sum by (instance) (authz_audit_queue_length{OF})"},
    ),
)

_KEYS = (
    Panel(
        "Age",
        "Since an issuer's keys were last read. Of a file it grows until the file changes.",
        Kind.SECONDS,
        {"{{issuer}} {{use}}": "max by (issuer, use) (authz_key_set_age_seconds{OF})"},
    ),
    Panel(
        "Failing",
        "Whether some sidecar can't get an issuer's keys.",
        Kind.FLAG,
        {"{{issuer}} {{use}}": "max by (issuer, use) (authz_key_set_failing{OF})"},
    ),
    Panel(
        "Refreshes",
        "Attempts to get keys, by result.",
        Kind.RATE,
        rates("authz_key_refreshes_total", "issuer", "result"),
    ),
)

_WORKERS = (
    Panel(
        "Workers that serve",
        "Of each sidecar that has several; the others have none here.",
        Kind.COUNT,
        {"{{instance}}": "sum by (instance) (authz_worker_up{OF})"},
    ),
    Panel(
        "Restarts",
        "A worker that ends takes its connections along.",
        Kind.RATE,
        rates("authz_worker_restarts_total", "instance", "worker"),
    ),
    Panel(
        "Connections of each",
        "Envoy keeps few connections, so they are never quite even.",
        Kind.COUNT,
        {"{{instance}} {{worker}}": "sum by (instance, worker) (authz_worker_connections{OF})"},
    ),
)

BOARD = Board(
    name="sidecar",
    title="authz: sidecar",
    meaning="Decisions, latency and health of the sidecars, as they and Envoy see them.",
    chosen_by="authz_checks_total",
    rows={
        "At a glance": _AT_A_GLANCE,
        "Objectives": _BUDGETS,
        "Decisions": _DECISIONS,
        "Latency": _LATENCY,
        "Seen by Envoy": _ENVOY,
        "Verified tokens": _CACHES,
        "Audit": _AUDIT,
        "Keys of issuers": _KEYS,
        "Workers": _WORKERS,
        "Process": process_panels("group by (instance, job) (authz_checks_total{OF})"),
    },
)
