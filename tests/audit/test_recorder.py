"""From a decision about a request to its record."""

import json
from pathlib import Path

import pytest

from authz.audit.log import AuditLog
from authz.audit.recorder import FailOpenRecorder
from authz.check.request import PlainRequest
from authz.check.token import Identity
from authz.revocation.record import TokenRef
from authz.settings import AuditSettings

REQUEST = PlainRequest(
    request_id="5c3f",
    method="GET",
    path="/orders/7",
    host="shop.example",
    source="192.0.2.7",
    headers={"authorization": ("Bearer whole-token",)},
    forged=(),
    extensions={"authz.fail_mode": "open"},
)
IDENTITY = Identity(
    issuer="https://issuer.example",
    subject="ann",
    token_id="t-1",
    scopes=(),
    audiences=("api",),
    ref=TokenRef("U" * 43, "T" * 43, 3, 1_800_000_000, 1_800_003_600),
)


async def test_the_record_tells_the_request_the_token_and_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    try:
        recorder = FailOpenRecorder(log, required=True)
        assert await recorder.record(REQUEST, IDENTITY, "timeout")
    finally:
        await log.aclose()
    line = json.loads(path.read_text())
    assert {name: line[name] for name in list(line)[6:]} == {
        "request_id": "5c3f",
        "method": "GET",
        "path": "/orders/7",
        "host": "shop.example",
        "source": "192.0.2.7",
        "issuer": "https://issuer.example",
        "subject": "ann",
        "token_id": "t-1",
        "token": "T" * 43,
        "user": "U" * 43,
        "bucket": 3,
        "issued_at": 1_800_000_000,
        "expires_at": 1_800_003_600,
        "cause": "timeout",
        "fail_mode_from": "route",
    }


@pytest.mark.parametrize("required", [True, False])
async def test_without_a_record_only_an_audit_that_is_not_required_lets_through(
    *, required: bool
) -> None:
    log = AuditLog(AuditSettings(path=Path("/dev/full"), required=required, timeout=5))
    log.start()
    try:
        recorder = FailOpenRecorder(log, required=required)
        assert await recorder.record(REQUEST, IDENTITY, "timeout") is not required
    finally:
        await log.aclose()
