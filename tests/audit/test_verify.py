"""`authz audit verify`: a whole file passes, and each kind of damage is located."""

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.audit import chain
from authz.audit.chain import Head
from authz.audit.log import AuditLog
from authz.audit.verify import Verification
from authz.cli.main import app
from authz.settings import AuditSettings
from support.audit import ENTRY, RECONCILED


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    """Five records, written by the audit log itself."""
    return written(tmp_path / "written.jsonl", 5)


def written(path: Path, *records: int) -> list[bytes]:
    """Lines of so many sidecars, one after another, each of which writes so many records."""
    for count in records:
        asyncio.run(write(path, count))
    return path.read_bytes().splitlines(keepends=True)


async def write(path: Path, records: int) -> None:
    """One sidecar's."""
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    for number in range(records):
        entry = RECONCILED if number % 4 == 3 else replace(ENTRY, request_id=str(number))
        assert await log.record(entry)
    await log.aclose()


def problems(folder: Path, *files: list[bytes]) -> list[str]:
    verification = Verification()
    for number, content in enumerate(files):
        path = folder / f"audit.{number}"
        path.write_bytes(b"".join(content))
        verification.read(path)
    verification.finish()
    return [f"{one.place.path.name}:{one.place.line}: {one.text}" for one in verification.problems]


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
    other = written(tmp_path / "other", 5)
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
        (lambda line: line[:40] + b"\n", "is not a JSON object: torn, or overwritten"),
        (lambda _: b"[]\n", "is not a JSON object: torn, or overwritten"),
        (lambda _: b"[" * 100_000 + b"\n", "is not a JSON object: torn, or overwritten"),
        (lambda line: changed(line, v=1), "format version is not 2"),
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


def test_a_changed_value_is_located(lines: list[bytes], tmp_path: Path) -> None:
    """Of the right type, so that only the chain can tell."""
    (found,) = problems(tmp_path, [*lines[:2], changed(lines[2], subject="mallory"), *lines[3:]])
    assert found.startswith("audit.0:3: record 3 of ")
    assert found.endswith(f"the hash of it in the next at {tmp_path}/audit.0:4, was changed")


def test_lines_removed_between_two_sidecars_are_located(tmp_path: Path) -> None:
    lines = written(tmp_path / "written", 3, 3)
    second = json.loads(lines[3])["instance"]
    (found,) = problems(tmp_path, lines[:1], lines[3:])
    assert found.startswith(f"audit.1:1: the line that {second} found at its start is missing")


def test_a_first_record_that_follows_an_older_file_is_said_and_is_no_problem(
    tmp_path: Path,
) -> None:
    lines = written(tmp_path / "written", 3, 3)
    path = tmp_path / "audit"
    path.write_bytes(b"".join(lines[3:]))
    verification = Verification()
    verification.read(path)
    assert verification.begins_late.startswith("begins with record 1 of ")
    assert not verification.problems


def test_a_chain_that_begins_behind_others_without_a_link_is_said(tmp_path: Path) -> None:
    """The file was rotated before the sidecar started: what was cut off before it can't be told."""
    older = written(tmp_path / "older", 2)
    newer = written(tmp_path / "newer", 2)
    files = [tmp_path / "audit.1", tmp_path / "audit"]
    for path, content in zip(files, (older, newer), strict=True):
        path.write_bytes(b"".join(content))
    run = CliRunner().invoke(app, ["audit", "verify", *map(str, files)], standalone_mode=False)
    assert run.return_value == 0
    assert f"{files[1]}:1: the chain of " in run.output


def test_the_first_record_may_follow_one_of_an_older_format(
    lines: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "audit"
    path.write_bytes(changed(lines[0], v=1))
    written(path, 2)
    assert problems(tmp_path, path.read_bytes().splitlines(keepends=True)) == [
        "audit.0:1: format version is not 2"
    ]


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Twelve records of three sidecars, one after another."""
    return written(tmp_path_factory.mktemp("chained") / "audit", 4, 1, 7)


def head_of(lines: list[bytes]) -> Head:
    last = json.loads(lines[-1])
    return Head(last["instance"], last["seq"], chain.digest(lines[-1]))


def damaged(data: st.DataObject, lines: list[bytes]) -> tuple[list[bytes], int]:
    """The lines with one kind of damage done to them, and the first line it touched."""
    lines = list(lines)
    at = data.draw(st.integers(0, len(lines) - 1), label="line")
    match data.draw(st.sampled_from(["remove", "cut out", "change", "swap", "tear", "cut off"])):
        case "remove":
            del lines[at]
        case "cut out":
            del lines[at : data.draw(st.integers(at + 1, len(lines)), label="up to")]
        case "change":
            line = bytearray(lines[at])
            byte = data.draw(st.integers(0, len(line) - 1), label="byte")
            line[byte] ^= data.draw(st.integers(1, 255), label="bits")
            lines[at] = bytes(line)
        case "swap":
            other = data.draw(st.integers(0, len(lines) - 1).filter(lambda n: n != at))
            lines[at], lines[other] = lines[other], lines[at]
            at = min(at, other)
        case "tear":
            lines[at] = lines[at][: data.draw(st.integers(1, len(lines[at]) - 2))] + b"\n"
        case "cut off":
            del lines[at:]
    return lines, at


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_single_damage_is_found_where_it_is(chained: list[bytes], data: st.DataObject) -> None:
    """A head guards the end. At the beginning, where older files may have been deleted, the
    record that is first now is named instead."""
    lines, at = damaged(data, chained)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "audit"
        path.write_bytes(b"".join(lines))
        verification = Verification([head_of(chained)])
        verification.read(path)
        verification.finish()
    found = [problem.place.line - 1 for problem in verification.problems]
    if at == 0 and verification.begins_late:
        return
    assert found, "nothing was found"
    assert min(found) in range(at - 1, at + 2)


def test_the_property_above_would_fail_without_damage(chained: list[bytes], tmp_path: Path) -> None:
    assert problems(tmp_path, chained) == []


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
    other = run.invoke(app, ["audit", "verify", str(bad)], standalone_mode=False)
    assert other.return_value == 1
    assert f"{bad}:2: record 2 of" in other.output


def test_the_command_finds_what_a_head_says_is_missing(lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_bytes(b"".join(lines[:-1]))
    arguments = ["audit", "verify", str(path), "--head"]
    run = CliRunner().invoke(app, [*arguments, str(head_of(lines))], standalone_mode=False)
    assert run.return_value == 1
    assert f"{path}:4: record 5 of " in run.output
    wrong = CliRunner().invoke(app, [*arguments, "17:abc"])
    assert wrong.exit_code == 2
    assert "INSTANCE:SEQ:HASH" in wrong.output


def test_the_entry_used_here_has_every_field() -> None:
    assert all(value != "" for value in asdict(ENTRY).values())
