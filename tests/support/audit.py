"""A record of the audit, for tests."""

from authz.audit.fields import FailOpen

ENTRY = FailOpen(
    request_id="5c3f",
    method="GET",
    path="/orders/7",
    host="shop.example",
    source="192.0.2.7",
    issuer="https://issuer.example",
    subject="ann",
    token_id="t-1",
    token="T" * 43,
    user="U" * 43,
    bucket=3,
    issued_at=1_800_000_000,
    expires_at=1_800_003_600,
    cause="breaker_open",
    fail_mode_from="settings",
)
