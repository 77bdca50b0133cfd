"""What `authz revoke --from-file` keeps beside a file: how far it got, and what failed."""

import os
from pathlib import Path
from typing import Any

import pytest

from authz.cli.bulk.checkpoint import Checkpoint, CheckpointError, Identity, Progress, Tally
from authz.cli.bulk.failures import FailedLines
from authz.cli.bulk.lines import MAX_LINE, Line, Raw

HERE = Identity(1000, 17, "ab" * 32)


def progress(**changes: Any) -> Progress:
    found = Progress(began_at=12.5, line=7, offset=700, failed_bytes=30)
    found.tally = Tally(revoked=4, repeated=1, expired=1, unreadable=1, replicas=1)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def failing(number: int) -> Line:
    text = b"line %d" % number
    return Line(Raw(number, 100 * number, text), None, "bad")


# Checkpoints


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "progress", HERE)
    assert checkpoint.load() is None
    for line in (7, 8):
        checkpoint.save(progress(line=line))
        assert checkpoint.load() == progress(line=line)
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]
    checkpoint.remove()
    assert checkpoint.load() is None


@pytest.mark.parametrize(
    "other", [Identity(1001, 17, HERE.head), Identity(1000, 18, HERE.head), Identity(1000, 17, "")]
)
def test_one_of_another_file_counts_for_nothing(tmp_path: Path, other: Identity) -> None:
    Checkpoint(tmp_path / "progress", HERE).save(progress())
    assert Checkpoint(tmp_path / "progress", other).load() is None


def test_a_files_identity_is_its_size_its_time_and_its_head(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 200_000)
    os.utime(path, ns=(1, 1))
    descriptor = os.open(path, os.O_RDWR)
    before = Identity.of(descriptor)
    assert Identity.of(descriptor) == before
    for position, data in ((0, b"y"), (65_535, b"y"), (200_000, b"x")):
        os.pwrite(descriptor, data, position)
        os.utime(path, ns=(1, 1))
        after = Identity.of(descriptor)
        assert after != before
        before = after
    os.utime(path, ns=(2, 2))
    assert Identity.of(descriptor) != before
    os.close(descriptor)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"notes", b"\xff", b"[" * 100_000, b'{"version": 1, "file": {}}',
     b'{"version": 1, "file": {"size": 1}, "progress": {"line": 3}}'],
)  # fmt: skip
def test_what_is_no_checkpoint_is_said_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "progress"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"progress is no checkpoint; remove it"):
        Checkpoint(path, HERE).load()
    assert path.read_bytes() == content


def test_one_of_another_version_is_said(tmp_path: Path) -> None:
    (tmp_path / "progress").write_text('{"version": 2}')
    with pytest.raises(CheckpointError, match="of another version"):
        Checkpoint(tmp_path / "progress", HERE).load()


def test_the_tally_adds_up() -> None:
    tally = Tally(revoked=4, repeated=1, expired=2, unreadable=3, refused=5)
    assert (tally.lines, tally.acknowledged, tally.failed) == (15, 5, 8)


# Failed lines


def test_each_stands_under_its_number_and_reason(tmp_path: Path) -> None:
    failures = FailedLines(tmp_path / "failed")
    assert not failures.path.exists()
    failures.add(failing(1), "bad")
    failures.add(Line(Raw(2, 9, b"", too_long=True), None), f"longer than {MAX_LINE} bytes")
    failures.add(failing(3), "bad as well")
    failures.sync()
    failures.close()
    content = failures.path.read_text()
    assert content == (
        "# line 1: bad\nline 1\n# line 2: longer than 16384 bytes\n# line 3: bad as well\nline 3\n"
    )
    assert failures.length == len(content)


def test_what_was_written_behind_the_checkpoint_is_written_again(tmp_path: Path) -> None:
    """The run that wrote it was killed before the next one."""
    failures = FailedLines(tmp_path / "failed")
    failures.add(failing(1), "bad")
    length = failures.length
    failures.add(failing(2), "bad")
    failures.close()
    later = FailedLines(tmp_path / "failed", length)
    later.add(failing(2), "worse")
    later.close()
    assert later.path.read_text() == "# line 1: bad\nline 1\n# line 2: worse\nline 2\n"
    anew = FailedLines(tmp_path / "failed", 0)
    assert not anew.path.exists()


def test_what_somebody_took_away_meanwhile_is_not_missed(tmp_path: Path) -> None:
    failures = FailedLines(tmp_path / "failed", 500)
    failures.add(failing(2), "bad")
    assert failures.length == len(failures.path.read_bytes())
    failures.close()
