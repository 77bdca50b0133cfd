"""From a decision about a request to its record."""

import json
from pathlib import Path

import pytest

from authz.audit import instant
from authz.audit.log import AuditLog
from authz.audit.pending import Pending
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


def recorder_of(log: AuditLog, *, required: bool = True) -> tuple[FailOpenRecorder, Pending]:
    pending = Pending()
    recorder = FailOpenRecorder(
        log, required=required, pending=pending, clock=lambda: 1_800_000_001.2345
    )
    return recorder, pending


async def test_the_record_tells_the_request_the_token_and_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    try:
        recorder, _ = recorder_of(log)
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
        recorder, pending = recorder_of(log, required=required)
        assert await recorder.record(REQUEST, IDENTITY, "timeout") is not required
        assert len(pending) == (not required)  # what is denied needn't be looked at again
    finally:
        await log.aclose()


async def test_what_was_let_through_is_pending_with_the_instant_of_its_record(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    try:
        recorder, pending = recorder_of(log)
        for _ in range(2):
            assert await recorder.record(REQUEST, IDENTITY, "timeout")
    finally:
        await log.aclose()
    (token,) = pending.take(3, 10)
    assert (token.issuer, token.subject, token.token_id) == ("https://issuer.example", "ann", "t-1")
    assert (token.ref, token.times.total) == (IDENTITY.ref, 2)
    times = {json.loads(line)["time"] for line in path.read_text().splitlines()}
    assert times == {instant.rfc3339(token.times.first)} == {"2027-01-15T08:00:01.234Z"}
