"""The dashboard "authz: token service"."""

from k8s.monitoring.generator.board import Board, Panel
from k8s.monitoring.generator.kinds import Kind
from k8s.monitoring.generator.process import process_panels
from k8s.monitoring.generator.queries import quantiles, rate, rates, share

_REQUESTS = "authz_tokens_requests_total{OF}"
_DURATION = "authz_tokens_request_duration_seconds_bucket{OF}"

_AT_A_GLANCE = (
    Panel(
        "Requests",
        "All replicas together.",
        Kind.RATE,
        {"": rate("authz_tokens_requests_total")},
        tile=True,
    ),
    Panel(
        "Failing",
        "Share of requests that ended in 5xx, an error of ours.",
        Kind.SHARE,
        {"": share('authz_tokens_requests_total{OF, status=~"5.."}', _REQUESTS)},
        tile=True,
    ),
    Panel(
        "p99",
        "One request in a hundred takes this or longer.",
        Kind.SECONDS,
        {"": quantiles(_DURATION)["p99"]},
        tile=True,
    ),
    Panel(
        "Tokens issued",
        "Access tokens.",
        Kind.RATE,
        {"": rate("authz_tokens_issued_total")},
        tile=True,
    ),
    Panel(
        "Limited",
        "Share of requests answered 429.",
        Kind.SHARE,
        {"": share('authz_tokens_requests_total{OF, status="429"}', _REQUESTS)},
        tile=True,
    ),
    Panel(
        "Age of the signing key",
        "Since the oldest that signs began to. The service replaces it by schedule.",
        Kind.SECONDS,
        {"": "max(authz_tokens_signing_key_age_seconds{OF})"},
        tile=True,
    ),
)

_REQUEST_PANELS = (
    Panel(
        "By route and status",
        "499: the client went away.",
        Kind.RATE,
        rates("authz_tokens_requests_total", "route", "status"),
    ),
    Panel(
        "Duration",
        "From the request's head to the end of the answer.",
        Kind.SECONDS,
        quantiles(_DURATION),
    ),
    Panel(
        "Tokens by grant",
        "Log-ins (token_exchange), refreshes and machines.",
        Kind.RATE,
        rates("authz_tokens_issued_total", "grant"),
    ),
    Panel(
        "Refused by error",
        "store, signing and busy are ours; the others are a client's.",
        Kind.RATE,
        rates("authz_tokens_errors_total", "error"),
    ),
)

_LIMITS = (
    Panel(
        "429 by limit",
        "Whose limit was reached: of a client, a user, an address.",
        Kind.RATE,
        rates("authz_tokens_limited_total", "limit"),
    ),
    Panel(
        "Counted together",
        "Whether every replica counts in Redis; else each counts for itself.",
        Kind.FLAG,
        {"{{instance}}": "min by (instance) (authz_tokens_limits_shared{OF})"},
    ),
    Panel(
        "Secrets hashed",
        "Each takes 20 ms of a core. Wrong secrets show here.",
        Kind.RATE,
        {"hashes": rate("authz_tokens_secret_hashes_total")},
    ),
    Panel(
        "Requests not counted in Redis",
        "They were counted in the process.",
        Kind.RATE,
        {"failures": rate("authz_tokens_limits_failures_total")},
    ),
)

_SIGNING = (
    Panel(
        "Signatures",
        "unavailable: the key could not be used (Vault sealed or gone).",
        Kind.RATE,
        rates("authz_tokens_signatures_total", "result"),
    ),
    Panel(
        "Time of a signature",
        "The way to Vault and back included.",
        Kind.SECONDS,
        quantiles("authz_tokens_signature_duration_seconds_bucket{OF}"),
    ),
    Panel(
        "Published keys",
        "signing, coming (published ahead), older (their tokens may live).",
        Kind.COUNT,
        {"{{state}}": "max by (state) (authz_tokens_signing_keys{OF})"},
    ),
    Panel(
        "Keys unreadable",
        "Whether a replica can't read the signing keys.",
        Kind.FLAG,
        {"{{instance}}": "max by (instance) (authz_tokens_signing_keys_failing{OF})"},
    ),
    Panel(
        "Readings of the keys",
        "By result.",
        Kind.RATE,
        rates("authz_tokens_signing_key_readings_total", "result"),
    ),
    Panel(
        "Rotations",
        "Keys made by schedule, in the time shown.",
        Kind.COUNT,
        {"{{result}}": "sum by (result) (increase(authz_tokens_rotations_total{OF}[$__range]))"},
    ),
)

BOARD = Board(
    name="tokens",
    title="authz: token service",
    meaning="Requests, limits and signing keys of `authz tokens`.",
    chosen_by="authz_tokens_limits_shared",
    rows={
        "At a glance": _AT_A_GLANCE,
        "Requests": _REQUEST_PANELS,
        "Limits": _LIMITS,
        "Signing": _SIGNING,
        "Process": process_panels("group by (instance, job) (authz_tokens_limits_shared{OF})"),
    },
)
