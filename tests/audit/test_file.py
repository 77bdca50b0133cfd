"""The audit file itself: appending, tearing, rotating. Real files throughout."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from authz.audit.file import CHECK_EVERY, TAIL, AuditFile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"before\n")
    file = AuditFile(path)
    assert file.append([b"one\n", b"two\n"]) == (2, None)
    file.close()
    assert path.read_bytes() == b"before\none\ntwo\n"


def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        file = AuditFile(tmp_path / "audit.jsonl")
        file.open()
        file.close()
    finally:
        os.umask(umask)
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o7777 == 0o640


def test_the_first_line_begins_anew_where_the_file_ends_in_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"v":2,"ti')
    file = AuditFile(path)
    assert file.append([b"one\n"]) == (1, None)
    assert file.append([b"two\n"]) == (1, None)
    file.close()
    assert path.read_bytes() == b'{"v":2,"ti\none\ntwo\n'


def test_a_full_disk_is_an_error_and_no_line_counts() -> None:
    file = AuditFile(Path("/dev/full"))
    whole, error = file.append([b"one\n", b"two\n"])
    assert whole == 0
    assert error is not None
    assert error.errno == errno.ENOSPC


def test_a_path_that_can_not_exist_is_an_error_and_tried_again(tmp_path: Path) -> None:
    """Under a file instead of a folder: this stops root too."""
    parent = tmp_path / "folder"
    parent.write_bytes(b"")
    file = AuditFile(parent / "audit.jsonl")
    whole, error = file.append([b"one\n"])
    assert whole == 0
    assert error is not None
    assert error.errno == errno.ENOTDIR
    parent.unlink()
    parent.mkdir()
    assert file.append([b"two\n"]) == (1, None)
    file.close()
    assert (parent / "audit.jsonl").read_bytes() == b"two\n"


def test_after_a_rename_lines_go_to_a_new_file_within_a_second(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, clock)
    file.append([b"one\n"])
    path.rename(tmp_path / "audit.1")
    clock.now += CHECK_EVERY - 0.01
    file.append([b"two\n"])
    clock.now += 0.02
    file.append([b"three\n"])
    file.close()
    assert (tmp_path / "audit.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_the_path_is_looked_at_once_a_second_and_not_for_each_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    looks = 0
    file = AuditFile(tmp_path / "audit.jsonl", clock)
    really = file._still_there

    def still_there() -> bool:
        nonlocal looks
        looks += 1
        return really()

    monkeypatch.setattr(file, "_still_there", still_there)
    for _ in range(31):
        file.append([b"line\n"])
        clock.now += 0.1
    file.close()
    assert looks in {2, 3}  # in three seconds, give or take the last digit of a float


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    """Rotation that makes the new file itself."""
    clock = Clock()
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, clock)
    file.append([b"one\n"])
    path.rename(tmp_path / "audit.1")
    path.write_bytes(b"")
    clock.now += CHECK_EVERY
    file.append([b"two\n"])
    file.close()
    assert path.read_bytes() == b"two\n"


def test_a_deleted_file_is_made_anew(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, clock)
    file.append([b"one\n"])
    path.unlink()
    clock.now += CHECK_EVERY
    file.append([b"two\n"])
    file.close()
    assert path.read_bytes() == b"two\n"


def test_a_truncated_file_goes_on_from_its_beginning(tmp_path: Path) -> None:
    """logrotate's copytruncate."""
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path)
    file.append([b"one\n"])
    os.truncate(path, 0)
    file.append([b"two\n"])
    file.close()
    assert path.read_bytes() == b"two\n"


@pytest.mark.parametrize(
    ("content", "last"),
    [
        (b"", None),
        (b'{"seq":1}\n{"seq":2}\n', b'{"seq":2}'),
        (b'{"seq":1}\n{"seq":2}', b'{"seq":2}'),
        (b'{"seq":1}\n{"se', b'{"seq":1}'),
        (b'{"seq":1}\n{"se\n\n', b'{"seq":1}'),
        (b"x" * TAIL + b'\n{"seq":1}\n', b'{"seq":1}'),
        (b'{"seq":1}\n' + b"x" * TAIL, None),
        (b'"' + b'{"seq":1}\n' * (TAIL // 10 + 1), b'{"seq":1}'),
    ],
)
def test_the_last_whole_line_is_found_behind_torn_ones(
    tmp_path: Path, content: bytes, last: bytes | None
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(content)
    file = AuditFile(path)
    file.open()
    assert file.last_whole_line() == last
    file.close()


def test_what_is_no_regular_file_has_no_last_line() -> None:
    file = AuditFile(Path("/dev/full"))
    file.open()
    assert file.last_whole_line() is None
    file.close()


def test_a_file_replaced_while_it_is_looked_at_has_no_last_line(tmp_path: Path) -> None:
    """The path's file is another than the open one: its lines are none of ours."""
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"seq":1}\n')
    file = AuditFile(path)
    file.open()
    path.rename(tmp_path / "audit.1")
    path.write_bytes(b'{"seq":9}\n')
    assert file.last_whole_line() is None
    file.close()


TEAR = """
    import resource, signal, sys
    from pathlib import Path
    from authz.audit.file import AuditFile

    def room(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = AuditFile(Path(sys.argv[1]))
    room(int(sys.argv[2]))
    whole, error = file.append([b'{"seq":1}\\n', b'{"seq":2}\\n', b'{"seq":3}\\n'])
    room(resource.RLIM_INFINITY)
    print(whole, type(error).__name__, file.append([b'{"again":1}\\n']))
"""


@pytest.mark.parametrize(
    ("room", "whole", "content"),
    [
        (25, 2, b'{"seq":1}\n{"seq":2}\n{"seq\n{"again":1}\n'),
        (20, 2, b'{"seq":1}\n{"seq":2}\n{"again":1}\n'),
        # The second lacks only its line end: it is whole, and the next write ends it.
        (19, 2, b'{"seq":1}\n{"seq":2}\n{"again":1}\n'),
        (18, 1, b'{"seq":1}\n{"seq":2\n{"again":1}\n'),
    ],
)
def test_after_a_write_that_tore_the_next_line_begins_afresh(
    tmp_path: Path, room: int, whole: int, content: bytes
) -> None:
    """A limit on the file's size tears a write just as a full disk does. In a process of its own,
    since the limit is the whole process's."""
    path = tmp_path / "audit.jsonl"
    outcome = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TEAR), path, str(room)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.stdout.strip() == f"{whole} OSError (1, None)"
    assert path.read_bytes() == content
