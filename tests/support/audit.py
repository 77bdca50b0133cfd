"""Records of the audit, for tests."""

from authz.audit.fields import FailOpen, Reconciled

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

RECONCILED = Reconciled(
    issuer="https://issuer.example",
    subject="ann",
    token_id="t-1",
    token="T" * 43,
    user="U" * 43,
    bucket=3,
    issued_at=1_800_000_000,
    expires_at=1_800_003_600,
    first_at="2027-01-15T08:00:00.250Z",
    last_at="2027-01-15T08:00:09.000Z",
    requests=7,
    was_revoked=True,
    revoked_at="2027-01-15T08:00:05.000Z",
    revoked_by="ops",
    revoked_reason="stolen",
    requests_after=4,
    evidence="store",
)
