"""What was let through is looked at again when the store answers, until that is on record."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from authz.audit import reconciler as reconciler_module
from authz.audit.log import AuditLog
from authz.audit.pending import LetThrough, Pending, Times
from authz.audit.reconciler import Reconciler, conclude
from authz.observe import events
from authz.revocation.record import TokenRef, Unavailable
from authz.revocation.store import Trace
from authz.settings import AuditSettings
from support.waiting import eventually

NOW = 1_800_000_000_000
"""Milliseconds since 1970."""

REF = TokenRef("U" * 43, "T" * 43, 3, 1_800_000_000, 1_800_003_600)
CLEAR = Trace("store", revoked=False)
REVOKED = Trace("store", revoked=True, at=1_800_000_001.0, by="ops", reason="stolen")


class Store:
    """Says of each bucket what the test wants."""

    def __init__(self) -> None:
        self.down: set[int] = set()
        self.revoked: dict[TokenRef, Trace] = {}
        self.asked: list[tuple[int, int]] = []
        """Bucket, and how many tokens."""
        self.hold = asyncio.Event()
        self.hold.set()

    async def trace(
        self, bucket: int, refs: Sequence[TokenRef], now: float
    ) -> Sequence[Trace] | Unavailable:
        assert now == NOW / 1000
        assert {ref.bucket for ref in refs} == {bucket}
        self.asked.append((bucket, len(refs)))
        await self.hold.wait()
        if bucket in self.down:
            return Unavailable("connection")
        return [self.revoked.get(ref, CLEAR) for ref in refs]


class Parts:
    def __init__(self, path: Path | None, recall: Any = None, *, limit: int = 100_000) -> None:
        self.pending = Pending(limit)
        self.store = Store()
        self.path = path
        self.audit = AuditLog(AuditSettings(path=path, required=path is not None, timeout=5))
        self.reconciler = Reconciler(
            self.pending, self.store, self.audit, clock=lambda: NOW / 1000, recall=recall
        )

    def let_through(self, ref: TokenRef = REF, at: int = NOW) -> None:
        self.pending.add("https://issuer.example", "ann", "t-1", ref, at)

    def records(self) -> list[dict[str, Any]]:
        assert self.path is not None
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]

    async def settled(self) -> None:
        await eventually(lambda: len(self.pending) == 0, "everything to be settled")


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[Parts]:
    parts.audit.start()
    parts.reconciler.start()
    try:
        yield parts
    finally:
        await parts.reconciler.aclose()
        await parts.audit.aclose()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "POLL", 0.005)


def ref(number: int, bucket: int = 3) -> TokenRef:
    return replace(REF, token=f"{number:043}", bucket=bucket)


async def test_a_token_that_was_revoked_meanwhile_is_recorded_with_its_requests(
    tmp_path: Path,
) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        parts.store.revoked[REF] = REVOKED
        for at in (NOW, NOW + 999, NOW + 1000, NOW + 1500):
            parts.let_through(at=at)
        await parts.settled()
    (record,) = parts.records()
    assert {name: record[name] for name in list(record)[6:]} == {
        "issuer": "https://issuer.example",
        "subject": "ann",
        "token_id": "t-1",
        "token": "T" * 43,
        "user": "U" * 43,
        "bucket": 3,
        "issued_at": 1_800_000_000,
        "expires_at": 1_800_003_600,
        "first_at": "2027-01-15T08:00:00.000Z",
        "last_at": "2027-01-15T08:00:01.500Z",
        "requests": 4,
        "was_revoked": True,
        "revoked_at": "2027-01-15T08:00:01.000Z",
        "revoked_by": "ops",
        "revoked_reason": "stolen",
        "requests_after": 2,
        "evidence": "store",
    }
    assert record["event"] == "reconciled"
    assert (parts.reconciler.reconciled, parts.reconciler.requests_after) == (
        {True: 1, False: 0},
        2,
    )


async def test_a_token_that_was_not_revoked_is_recorded_too(tmp_path: Path) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        parts.let_through()
        await parts.settled()
    (record,) = parts.records()
    assert (record["was_revoked"], record["revoked_at"], record["requests_after"]) == (False, "", 0)
    assert parts.reconciler.reconciled == {True: 0, False: 1}


@pytest.mark.parametrize(
    ("trace", "after"),
    [
        (Trace("store", revoked=True), 3),
        (Trace("stream", revoked=True, at=NOW / 1000 - 60), 3),
        (Trace("stream", revoked=True, at=NOW / 1000 + 60), 0),
        (Trace("expired", revoked=False), 0),
    ],
)
def test_where_nobody_knows_when_all_requests_count(trace: Trace, after: int) -> None:
    times = Times()
    for at in (NOW, NOW + 1, NOW + 2):
        times.add(at)
    record = conclude(LetThrough("iss", "ann", "t", REF, times), trace)
    assert (record.requests, record.requests_after) == (3, after)


async def test_while_the_store_is_away_one_token_is_asked_about_at_a_time(tmp_path: Path) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        parts.store.down = {3}
        for number in range(50):
            parts.let_through(ref(number))
        await eventually(lambda: len(parts.store.asked) > 3, "a few attempts")
        assert set(parts.store.asked) == {(3, 1)}
        assert parts.reconciler.status()["waiting_for"] == "store: connection"
        assert (parts.reconciler.pending, parts.records()) == (50, [])
        parts.store.asked.clear()
        parts.store.down.clear()
        await parts.settled()
        assert parts.store.asked[-2:] == [(3, 1), (3, 49)]  # one first, and the rest together
        await eventually(lambda: parts.reconciler.status()["waiting_for"] is None, "all is well")
    assert len({record["token"] for record in parts.records()}) == 50


async def test_a_shard_that_is_gone_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        parts.store.down = {0, 1}
        for bucket in range(6):
            parts.let_through(ref(1, bucket))
        await eventually(lambda: parts.reconciler.pending == 2, "the others to be settled")
        assert {record["bucket"] for record in parts.records()} == {2, 3, 4, 5}


async def test_what_is_let_through_during_the_look_gets_a_record_of_its_own(
    tmp_path: Path,
) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        parts.store.hold.clear()
        parts.let_through(at=NOW)
        await eventually(lambda: len(parts.store.asked) == 1, "the look-up to begin")
        parts.let_through(at=NOW + 5)
        parts.store.hold.set()
        await parts.settled()
    assert [(one["requests"], one["first_at"][-5:]) for one in parts.records()] == [
        (1, ".000Z"),
        (1, ".005Z"),
    ]


async def test_a_record_that_can_not_be_written_is_tried_until_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_bytes(b"")  # a file where a folder should be
    async with running(Parts(folder / "audit")) as parts:
        for number in range(40):
            parts.let_through(ref(number))
        await eventually(
            lambda: parts.reconciler.status()["waiting_for"] == "audit", "the first attempt"
        )
        assert parts.reconciler.pending == 40
        assert parts.reconciler.reconciled == {True: 0, False: 0}
        folder.unlink()
        folder.mkdir()
        await parts.settled()
    assert sorted(record["token"] for record in parts.records()) == [f"{n:043}" for n in range(40)]


async def test_without_an_audit_it_is_counted_all_the_same() -> None:
    async with running(Parts(None)) as parts:
        parts.let_through()
        await parts.settled()
        assert parts.reconciler.reconciled == {True: 0, False: 1}


async def test_what_an_earlier_start_left_is_settled(tmp_path: Path) -> None:
    times = Times()
    times.add(NOW)
    left = [LetThrough("iss", "ann", "t", ref(number), times) for number in range(3)]
    with capture_logs() as logged:
        async with running(Parts(tmp_path / "audit", recall=lambda: left)) as parts:
            await eventually(lambda: len(parts.records()) == 3, "the records")
            assert parts.reconciler.status()["recalled"] == 3
    assert {"event": events.RECALLED, "tokens": 3, "log_level": "info"} in logged


async def test_an_audit_that_can_not_be_read_is_said_and_stops_nothing(tmp_path: Path) -> None:
    def recall() -> Sequence[LetThrough]:
        raise PermissionError(13, "Permission denied")

    with capture_logs() as logged:
        async with running(Parts(tmp_path / "audit", recall=recall)) as parts:
            parts.let_through()
            await parts.settled()
    assert events.RECALL_FAILED in [line["event"] for line in logged]


async def test_a_fault_of_our_own_is_logged_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        with capture_logs() as logged:
            with monkeypatch.context() as broken:
                broken.setattr(parts.store, "trace", None)
                parts.let_through()
                await eventually(lambda: len(logged) > 0, "the fault")
                assert logged[0]["event"] == events.RECONCILE_FAILED
            await parts.settled()
    assert len(parts.records()) == 1


async def test_it_is_summed_up_once_and_a_revoked_token_is_said_at_once(tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with running(Parts(tmp_path / "audit")) as parts:
            for number in range(40):
                parts.let_through(ref(number))
            await eventually(lambda: len(logged) == 1, "the summary")
            parts.store.down = {5}
            parts.store.revoked[REF] = REVOKED
            parts.let_through(REF, NOW + 2000)
            parts.let_through(ref(1, bucket=5))
            await eventually(lambda: len(logged) == 2, "the alarm")
    summary, alarm, *_ = logged
    assert (summary["event"], summary["tokens"], summary["log_level"]) == (
        events.RECONCILED,
        40,
        "info",
    )
    assert (alarm["event"], alarm["revoked"], alarm["requests_after"], alarm["pending"]) == (
        events.RECONCILED_REVOKED,
        1,
        1,
        1,
    )
    assert alarm["log_level"] == "error"


async def test_an_overflow_is_said_once_and_points_to_the_command(tmp_path: Path) -> None:
    with capture_logs() as logged:
        async with running(Parts(tmp_path / "audit", limit=2)) as parts:
            parts.store.down = {3}
            for number in range(9):
                parts.let_through(ref(number))
            await eventually(lambda: len(logged) > 0, "the overflow to be said")
            await eventually(lambda: len(parts.store.asked) > 3, "a few more turns")
            assert parts.reconciler.dropped == 7
    assert [line["event"] for line in logged][:-1] == [events.RECONCILE_OVERFLOW]
    assert "authz audit reconcile" in events.MEANINGS[events.RECONCILE_OVERFLOW]


async def test_stopping_leaves_what_waits(tmp_path: Path) -> None:
    async with running(Parts(tmp_path / "audit")) as parts:
        parts.store.hold.clear()
        parts.let_through()
        await eventually(lambda: len(parts.store.asked) == 1, "the look-up to begin")
    assert len(parts.pending.take(3, 10)) == 1
