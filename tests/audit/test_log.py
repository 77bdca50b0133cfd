"""The audit log: on record before it takes effect, and the loop never waits for a disk."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from authz.audit import chain
from authz.audit import log as audit_log
from authz.audit.fields import (
    CUT,
    MAX_PATH,
    MAX_TEXT,
    Entry,
    FailOpen,
    Reconciled,
    Stamp,
    meanings,
)
from authz.audit.log import QUEUE_RECORDS, AuditLog
from authz.observe import events
from authz.settings import AuditSettings
from support.audit import ENTRY, RECONCILED
from support.waiting import eventually


@asynccontextmanager
async def opened(
    path: Path | None, *, required: bool = True, limit: float = 5.0, **more: Any
) -> AsyncIterator[AuditLog]:
    log = AuditLog(AuditSettings(path=path, required=required, timeout=limit), **more)
    log.start()
    try:
        yield log
    finally:
        await log.aclose()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def test_a_record_is_in_the_file_when_record_returns(tmp_path: Path) -> None:
    """Without closing or flushing anything: that is what `on record before` means."""
    path = tmp_path / "audit.jsonl"
    async with opened(path, clock=lambda: 1_800_000_000.25) as log:
        assert await log.record(ENTRY)
        (line,) = lines_of(path)
        assert line == {
            "v": 2,
            "time": "2027-01-15T08:00:00.250Z",
            "event": "fail_open",
            "seq": 1,
            "instance": log.instance,
            "prev": chain.GENESIS,
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
            "cause": "breaker_open",
            "fail_mode_from": "settings",
        }
        assert (log.written, log.queue_length, sum(log.failed.values())) == (1, 0, 0)


@pytest.mark.parametrize("entry", [ENTRY, RECONCILED])
async def test_every_field_is_written_in_the_order_of_the_list(
    tmp_path: Path, entry: Entry
) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await log.record(entry)
    assert list(lines_of(path)[0]) == [*meanings(Stamp), *meanings(type(entry))]
    assert lines_of(path)[0]["event"] == entry.event


def test_the_readme_tables_every_field() -> None:
    readme = (Path(audit_log.__file__).parent / "README.md").read_text(encoding="utf-8")
    tables = [
        dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", block, re.MULTILINE))
        for block in readme.split("| field | meaning |")[1:]
    ]
    for table, kind in zip(tables, (Stamp, FailOpen, Reconciled), strict=True):
        assert list(table.items()) == list(meanings(kind).items())


async def test_a_patient_record_waits_for_a_disk_that_hangs(tmp_path: Path) -> None:
    """No request waits for it."""
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    async with opened(path, limit=0.01) as log:
        waiting = asyncio.create_task(log.record(RECONCILED, patient=True))
        assert not await log.record(ENTRY)
        assert not waiting.done()
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert await waiting
            assert json.loads(os.read(reader, 65536))["event"] == "reconciled"
        finally:
            os.close(reader)


async def test_time_is_rfc_3339_in_utc_with_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await log.record(ENTRY)
    (line,) = lines_of(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


async def test_concurrent_records_are_written_in_order_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        outcomes = await asyncio.gather(
            *(log.record(replace(ENTRY, request_id=str(n))) for n in range(500))
        )
    assert all(outcomes)
    lines = lines_of(path)
    assert [line["request_id"] for line in lines] == [str(n) for n in range(500)]
    assert [line["seq"] for line in lines] == list(range(1, 501))
    assert log.written == 500


async def test_records_that_wait_together_are_written_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group commit: 200 records that are submitted in one turn need a few writes, not 200."""
    calls = 0
    write = os.write

    def counting_write(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += bytes(data[:4]) == b'{"v"'
        return write(descriptor, data)

    async with opened(tmp_path / "audit.jsonl") as log:
        await log.record(ENTRY)
        monkeypatch.setattr(os, "write", counting_write)
        await asyncio.gather(*(log.record(ENTRY) for _ in range(200)))
        monkeypatch.undo()
    assert log.written == 201
    assert 1 <= calls < 100


async def test_two_starts_of_a_sidecar_can_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        async with opened(path) as log:
            await log.record(ENTRY)
    first, second = lines_of(path)
    assert first["instance"] != second["instance"]
    assert (first["seq"], second["seq"]) == (1, 1)


async def test_a_full_disk_is_not_written_and_is_said_once() -> None:
    with capture_logs() as logged:
        async with opened(Path("/dev/full")) as log:
            assert [await log.record(ENTRY) for _ in range(3)] == [False] * 3
            assert log.failed["no_space"] == 3
            assert log.status()["writable"] is False
            assert log.status()["error"] == os.strerror(28)
    assert [(line["event"], line.get("cause")) for line in logged] == [
        (events.AUDIT_UNWRITABLE, "no_space"),
        (events.AUDIT_CLOSED, None),
    ]


async def test_an_unwritable_file_is_no_crash_and_is_written_once_it_can_be(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "log"
    folder.write_bytes(b"")  # a file where a folder should be: this stops root too
    with capture_logs() as logged:
        async with opened(folder / "audit.jsonl") as log:
            await eventually(lambda: log.status()["writable"] is False, "the first attempt")
            assert not await log.record(ENTRY)
            assert log.failed["io_error"] == 1
            folder.unlink()
            folder.mkdir()
            assert await log.record(ENTRY)
            assert log.status()["writable"] is True
    assert lines_of(folder / "audit.jsonl")[0]["seq"] == 1
    assert [line["event"] for line in logged][:2] == [
        events.AUDIT_UNWRITABLE,
        events.AUDIT_WRITABLE,
    ]


async def test_a_disk_that_hangs_counts_as_not_written_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    """A FIFO that nobody reads blocks the writer in the kernel, as a dead NFS server would."""
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    counting = asyncio.create_task(count_turns())
    async with opened(path, limit=0.05) as log:
        assert not await log.record(ENTRY)
        assert log.failed["timeout"] == 1
        assert log.queue_length == 1
        assert turns > 5  # the loop turned while the writer hung
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # frees the writer
        try:
            await eventually(lambda: log.queue_length == 0, "the writer to go on")
            assert log.written == 0  # the request was denied, so the record was taken back
            assert await log.record(replace(ENTRY, request_id="after"))
            assert json.loads(os.read(reader, 65536))["request_id"] == "after"
        finally:
            os.close(reader)
            counting.cancel()


async def test_what_was_let_through_without_waiting_is_still_written_late(tmp_path: Path) -> None:
    """Where the audit isn't required the request went on, so its record is worth having."""
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    async with opened(path, required=False, limit=0.02) as log:
        assert not await log.record(ENTRY)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            await eventually(lambda: log.queue_length == 0, "the writer to go on")
            assert (log.written, log.late) == (1, 1)
            assert json.loads(os.read(reader, 65536))["seq"] == 1
        finally:
            os.close(reader)


async def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    async with opened(path, limit=5.0) as log:
        waiting = [asyncio.create_task(log.record(ENTRY)) for _ in range(QUEUE_RECORDS)]
        await asyncio.sleep(0)
        assert log.queue_length == QUEUE_RECORDS
        assert not await log.record(ENTRY)
        assert log.failed["queue_full"] == 1
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


async def test_a_caller_that_is_cancelled_leaves_no_record(tmp_path: Path) -> None:
    """Its client went away: nothing is let through."""
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    async with opened(path) as log:
        caller = asyncio.create_task(log.record(ENTRY))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            await eventually(lambda: log.queue_length == 0, "the writer to go on")
            assert log.written == 0
        finally:
            os.close(reader)


async def test_reopen_follows_a_rotation_at_once(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await log.record(ENTRY)
        path.rename(tmp_path / "audit.1")
        log.reopen()
        await eventually(path.exists, "the new file")
        await log.record(ENTRY)
    assert [line["seq"] for line in lines_of(tmp_path / "audit.1")] == [1]
    assert [line["seq"] for line in lines_of(path)] == [2]


async def test_closing_writes_what_is_queued_and_refuses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    waiting = [asyncio.create_task(log.record(ENTRY)) for _ in range(50)]
    await asyncio.sleep(0)
    await log.aclose()
    assert await asyncio.gather(*waiting) == [True] * 50
    assert len(lines_of(path)) == 50
    assert not await log.record(ENTRY)
    assert log.failed["closed"] == 1


async def test_closing_gives_up_on_a_writer_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    os.mkfifo(path)
    monkeypatch.setattr(audit_log, "CLOSE_TIMEOUT", 0.05)
    log = AuditLog(AuditSettings(path=path, timeout=0.01))
    log.start()
    with capture_logs() as logged:
        assert not await log.record(ENTRY)
        await log.aclose()
    assert logged[-1] == {"event": events.AUDIT_ABANDONED, "records": 1, "log_level": "error"}
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # frees the thread


async def test_without_a_path_nothing_is_recorded_and_the_log_says_so() -> None:
    with capture_logs() as logged:
        async with opened(None, required=False) as log:
            assert not log.enabled
            assert not await log.record(ENTRY)
            assert sum(log.failed.values()) == 0
    assert logged[0]["event"] == events.AUDIT_DISABLED


async def test_a_fault_of_our_own_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"

    def broken(*_: object) -> bytes:
        raise ValueError("unforeseen")

    async with opened(path) as log:
        monkeypatch.setattr(log, "_line", broken)
        assert not await log.record(ENTRY)
        monkeypatch.undo()
        assert await log.record(ENTRY)
        assert (log.failed["io_error"], log.written) == (1, 1)


async def test_query_and_fragment_are_never_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await log.record(replace(ENTRY, path="/reset?secret=hunter2"))
        await log.record(replace(ENTRY, path="/reset#hunter2"))
    assert [line["path"] for line in lines_of(path)] == ["/reset", "/reset"]
    assert b"hunter2" not in path.read_bytes()


async def test_a_token_in_a_text_is_masked(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
    async with opened(path) as log:
        await log.record(replace(ENTRY, path=f"/reset/{token}", request_id=token))
    (line,) = lines_of(path)
    assert (line["path"], line["request_id"]) == ("/reset/[redacted]", "[redacted]")


async def test_a_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await log.record(replace(ENTRY, path="/" + "a" * 9000, subject="s" * 9000))
    (line,) = lines_of(path)
    assert (len(line["path"]), len(line["subject"])) == (MAX_PATH, MAX_TEXT)
    assert line["path"].endswith(CUT)
    assert line["subject"].endswith(CUT)


@given(st.text(st.characters(), max_size=300), st.text(st.characters(), max_size=300))
def test_no_text_can_end_its_line_or_forge_another(host: str, subject: str) -> None:
    """Any text, lone surrogates included, is one line of ASCII that reads back as a record."""
    body = "{" + audit_log._encode(replace(ENTRY, host=host, subject=subject))
    assert body.isascii()
    assert body.isprintable()
    assert json.loads(body)["bucket"] == 3
