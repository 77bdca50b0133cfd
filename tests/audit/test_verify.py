"""`authz audit verify`: a whole file passes, and each kind of damage is located."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.audit.fields import FailOpen
from authz.audit.log import AuditLog
from authz.audit.verify import Verification
from authz.cli.main import app
from authz.settings import AuditSettings

ENTRY = FailOpen(
    request_id="r",
    method="GET",
    path="/",
    host="h",
    source="127.0.0.1",
    issuer="https://issuer.example",
    subject="alice",
    token_id="j",
    token="t",
    user="u",
    bucket=3,
    issued_at=1,
    expires_at=2,
    cause="timeout",
    fail_mode_from="settings",
)


@pytest.fixture
async def lines(tmp_path: Path) -> list[bytes]:
    """Five records, written by the audit log itself."""
    path = tmp_path / "written.jsonl"
    log = AuditLog(AuditSettings(path=path))
    log.start()
    for number in range(5):
        assert await log.record(replace(ENTRY, request_id=str(number)))
    await log.aclose()
    return path.read_bytes().splitlines(keepends=True)


def problems(folder: Path, *files: list[bytes]) -> list[str]:
    verification = Verification()
    for number, content in enumerate(files):
        path = folder / f"audit.{number}"
        path.write_bytes(b"".join(content))
        verification.read(path)
    return [f"{one.path.name}:{one.line}: {one.text}" for one in verification.problems]


def changed(line: bytes, **values: object) -> bytes:
    return json.dumps({**json.loads(line), **values}).encode() + b"\n"


def test_what_the_audit_log_wrote_is_whole(lines: list[bytes], tmp_path: Path) -> None:
    assert problems(tmp_path, lines) == []


def test_a_rotated_audit_is_whole_over_its_files(lines: list[bytes], tmp_path: Path) -> None:
    assert problems(tmp_path, lines[:2], lines[2:]) == []


def test_a_removed_line_is_located(lines: list[bytes], tmp_path: Path) -> None:
    [problem] = problems(tmp_path, [*lines[:2], *lines[3:]])
    assert problem.startswith("audit.0:3: record 3 of ")
    assert problem.endswith("missing before this line")


def test_lines_removed_before_another_start_are_located(lines: list[bytes], tmp_path: Path) -> None:
    other = [changed(line, instance="another") for line in lines]
    [problem] = problems(tmp_path, [*other, *lines[2:]])
    assert problem.startswith("audit.0:6: records 1 to 2 of ")


def test_a_first_file_that_begins_late_is_said_and_is_no_problem(
    lines: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "audit"
    path.write_bytes(b"".join(lines[2:]))
    verification = Verification()
    verification.read(path)
    assert verification.begins_late.startswith("begins with record 3 of ")
    assert not verification.problems


def test_a_repeated_or_misplaced_line_is_located(lines: list[bytes], tmp_path: Path) -> None:
    [problem] = problems(tmp_path, [*lines, lines[1]])
    assert problem.startswith("audit.0:6: record 2 of ")


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (lambda line: line[:40] + b"\n", "is not JSON: torn, or overwritten"),
        (lambda _: b"[]\n", "is not a JSON object"),
        (lambda line: changed(line, v=2), "format version is not 1"),
        (lambda line: changed(line, event="x"), "event is none that is known"),
        (lambda line: changed(line, bucket="3"), "field bucket is not a whole number"),
        (lambda line: changed(line, subject=None), "field subject is not text"),
        (lambda line: changed(line, more=1), "field 'more' is unknown"),
    ],
)
def test_a_damaged_line_is_located(
    lines: list[bytes], tmp_path: Path, damage: object, finding: str
) -> None:
    assert callable(damage)
    found = problems(tmp_path, [*lines[:4], damage(lines[4])])
    assert found == [f"audit.0:5: {finding}"]


def test_a_missing_field_is_located(lines: list[bytes], tmp_path: Path) -> None:
    record = json.loads(lines[4])
    del record["cause"]
    found = problems(tmp_path, [*lines[:4], json.dumps(record).encode() + b"\n"])
    assert found == ["audit.0:5: field cause is missing"]


def test_a_line_without_an_end_is_located(lines: list[bytes], tmp_path: Path) -> None:
    found = problems(tmp_path, [*lines[:4], lines[4].rstrip()])
    assert found == ["audit.0:5: the line is torn: it has no end"]


def test_the_command_exits_0_for_a_whole_file_and_1_for_another(
    lines: list[bytes], tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"".join(lines))
    bad.write_bytes(b"".join([lines[0], *lines[2:]]))
    run = CliRunner()
    whole = run.invoke(app, ["audit", "verify", str(good)], standalone_mode=False)
    assert whole.return_value == 0
    assert whole.output == "5 record(s) of 1 start(s) of a sidecar: whole\n"
    damaged = run.invoke(app, ["audit", "verify", str(bad)], standalone_mode=False)
    assert damaged.return_value == 1
    assert f"{bad}:2: record 2 of" in damaged.output


def test_the_entry_used_here_has_every_field() -> None:
    assert all(value != "" for value in asdict(ENTRY).values())
