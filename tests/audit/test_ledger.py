"""What an audit file says was let through, and what of it an earlier start left open."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from authz.audit import instant
from authz.audit.fields import FailOpen, Reconciled
from authz.audit.ledger import Ledger
from authz.audit.log import AuditLog
from authz.audit.recall import recall
from authz.revocation.record import TokenRef
from authz.revocation.store import Trace
from authz.settings import AuditSettings
from support.audit import ENTRY, RECONCILED

AT = 1_800_000_000.0


async def written(path: Path, *entries: tuple[float, FailOpen | Reconciled]) -> str:
    """Records with their times, of one sidecar; its instance."""
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    for at, entry in entries:
        assert await log.record(entry, at=at)
    await log.aclose()
    return log.instance


def reconciled(last: float, **changes: Any) -> Reconciled:
    return replace(RECONCILED, last_at=instant.rfc3339(round(last * 1000)), **changes)


def ledger_of(path: Path) -> Ledger:
    ledger = Ledger()
    for line in path.read_bytes().splitlines(keepends=True):
        ledger.read(line)
    return ledger


def test_the_clock_reads_back_to_the_millisecond() -> None:
    for seconds in (0.0, AT + 0.123, AT + 0.1229999, AT + 0.9999999, AT + 0.0004):
        at = instant.milliseconds(seconds)
        assert instant.parse(instant.rfc3339(at)) == at
    assert instant.rfc3339(instant.milliseconds(AT + 0.25)) == "2027-01-15T08:00:00.250Z"


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2027-01-15", "2027-01-15T08:00:00Z", "2027-01-15T08:00:00.250+00:00"]
)
def test_a_time_in_another_form_is_none(text: str) -> None:
    assert instant.parse(text) is None


async def test_each_token_has_its_requests(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    other = replace(ENTRY, token="V" * 43, token_id="t-2")
    await written(path, (AT, ENTRY), (AT + 1, other), (AT + 2, ENTRY))
    first, second = ledger_of(path).tokens()
    assert (first.ref, first.subject, first.token_id) == (
        TokenRef("U" * 43, "T" * 43, 3, 1_800_000_000, 1_800_003_600),
        "ann",
        "t-1",
    )
    assert (first.times.total, first.times.first, first.times.last) == (
        2,
        round(AT * 1000),
        round(AT * 1000) + 2000,
    )
    assert (second.token_id, second.times.total) == ("t-2", 1)


async def test_only_requests_that_no_later_record_speaks_of_are_outstanding(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit"
    other = replace(ENTRY, token="V" * 43)
    await written(
        path,
        (AT, ENTRY),
        (AT + 1, ENTRY),
        (AT + 2, ENTRY),  # while the record of the two before was made
        (AT + 2, reconciled(AT + 1)),
        (AT + 3, other),
        (AT + 4, reconciled(AT + 3, token="V" * 43)),
    )
    (token,) = ledger_of(path).outstanding()
    assert (token.ref.token, token.times.total) == ("T" * 43, 1)
    assert token.times.first == round(AT * 1000) + 2000


async def test_what_was_let_through_by_a_clock_that_was_set_back_is_outstanding(
    tmp_path: Path,
) -> None:
    """And the sidecar was killed before it could look at it."""
    path = tmp_path / "audit"
    await written(path, (AT, ENTRY), (AT + 11, reconciled(AT)))
    await written(path, (AT - 3, ENTRY))
    (token,) = ledger_of(path).outstanding()
    assert (token.times.total, token.times.first) == (1, round(AT * 1000) - 3000)


async def test_the_latest_finding_counts(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await written(
        path,
        (AT, ENTRY),
        (AT + 9, reconciled(AT + 8)),
        (AT + 9, reconciled(AT + 1, was_revoked=False, revoked_at="")),
    )
    ledger = ledger_of(path)
    ref = ledger.tokens()[0].ref
    assert ledger.finding(ref) == Trace("store", True, AT + 5, "ops", "stolen")
    assert ledger.finding(replace(ref, token="V" * 43)) is None


async def test_what_is_no_record_is_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await written(path, (AT, ENTRY))
    line = path.read_bytes()
    bad_time = json.dumps({**json.loads(line), "time": "soon"}).encode() + b"\n"
    old_format = json.dumps({**json.loads(line), "v": 1}).encode() + b"\n"
    path.write_bytes(line + line[:50] + b"\n\n" + bad_time + old_format + b"[]\n")
    ledger = ledger_of(path)
    assert (len(ledger.tokens()), ledger.skipped) == (1, 4)


# At the start


async def test_what_others_left_is_recalled_and_not_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await written(path, (AT, ENTRY), (AT + 1, ENTRY))
    own = await written(path, (AT + 2, ENTRY))
    (token,) = recall(path, own, 16)
    assert token.times.total == 2
    (token,) = recall(path, "somebody else", 16)
    assert token.times.total == 3


async def test_a_bucket_that_is_no_more_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await written(path, (AT, replace(ENTRY, bucket=5)), (AT, replace(ENTRY, bucket=15)))
    assert [token.ref.bucket for token in recall(path, "", 8)] == [5]


async def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    await written(path, *((AT + n, replace(ENTRY, token=f"{n:043}")) for n in range(9)))
    length = len(path.read_bytes()) // 9
    found = [token.ref.token for token in recall(path, "", 16, most=3 * length + length // 2)]
    assert found == [f"{n:043}" for n in (6, 7, 8)]
    found = [token.ref.token for token in recall(path, "", 16, most=3 * length)]
    assert found == [f"{n:043}" for n in (6, 7, 8)]  # cut just between two lines


def test_where_there_is_no_file_nothing_is_recalled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path / "pipe", Path("/dev/null")):
        assert recall(path, "", 16) == []
