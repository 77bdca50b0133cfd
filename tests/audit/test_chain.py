"""The chain as the audit log writes it: across rotation, restart, tearing and interleaving."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from authz.audit import chain
from authz.audit.chain import GENESIS, Head, parse_head
from authz.audit.log import AuditLog
from authz.audit.verify import Verification
from authz.observe import events
from authz.settings import AuditSettings
from support.audit import ENTRY
from support.waiting import eventually


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[AuditLog]:
    """An audit log that has opened its file."""
    log = AuditLog(AuditSettings(path=path, timeout=5))
    log.start()
    try:
        await eventually(lambda: log.status()["head"] is not None, "the file to be opened")
        yield log
    finally:
        await log.aclose()


async def write(log: AuditLog, records: int = 1) -> None:
    for number in range(records):
        assert await log.record(replace(ENTRY, request_id=str(number)))


def links(path: Path) -> list[str]:
    return [json.loads(line)["prev"] for line in path.read_bytes().splitlines()]


def hashes(path: Path) -> list[str]:
    return [hashlib.sha256(line).hexdigest() for line in path.read_bytes().splitlines()]


def problems(*paths: Path, heads: tuple[str, ...] = ()) -> list[str]:
    verification = Verification(parse_head(head) for head in heads)
    for path in paths:
        verification.read(path)
    verification.finish()
    return [str(problem) for problem in verification.problems]


async def test_each_record_holds_the_hash_of_the_line_before_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await write(log)
        await asyncio.gather(*(log.record(ENTRY) for _ in range(20)))  # in few writes
    assert links(path) == [GENESIS, *hashes(path)[:-1]]


async def test_a_restart_links_to_the_last_line_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(3):
        async with opened(path) as log:
            await write(log, 2)
    assert links(path) == [GENESIS, *hashes(path)[:-1]]
    assert problems(path) == []


async def test_a_rename_keeps_the_chain(tmp_path: Path) -> None:
    path, older = tmp_path / "audit.jsonl", tmp_path / "audit.1"
    async with opened(path) as log:
        await write(log, 2)
        path.rename(older)
        log.reopen()
        await eventually(path.exists, "the new file")
        await write(log, 2)
    assert links(path) == [hashes(older)[-1], hashes(path)[0]]
    assert problems(older, path) == []


async def test_copytruncate_keeps_the_chain(tmp_path: Path) -> None:
    path, older = tmp_path / "audit.jsonl", tmp_path / "audit.1"
    async with opened(path) as log:
        await write(log, 2)
        older.write_bytes(path.read_bytes())
        os.truncate(path, 0)
        await write(log, 2)
    assert links(path)[0] == hashes(older)[-1]
    assert problems(older, path) == []


async def test_two_sidecars_that_interleave_in_one_file_have_a_chain_each(tmp_path: Path) -> None:
    """As during a restart where the new one starts before the old one has drained."""
    path = tmp_path / "audit.jsonl"
    async with opened(path) as old:
        await write(old, 2)
        async with opened(path) as new:
            await write(old)
            await write(new)
            await write(old)
            await write(new)
    found = hashes(path)
    assert links(path) == [GENESIS, found[0], found[1], found[1], found[2], found[3]]
    assert problems(path) == []


async def test_the_first_record_passes_over_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await write(log)
    last = path.read_bytes()
    path.write_bytes(last + last[:100])
    async with opened(path) as log:
        await write(log)
    assert json.loads(path.read_bytes().splitlines()[2])["prev"] == chain.digest(last)
    assert problems(path) == [f"{path}:2: is not a JSON object: torn, or overwritten"]


TEAR = """
    import asyncio, resource, signal, sys
    from pathlib import Path
    from authz.audit.log import AuditLog
    from authz.settings import AuditSettings
    from support.audit import ENTRY

    def room(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    async def main(path):
        log = AuditLog(AuditSettings(path=path, timeout=5))
        log.start()
        assert await log.record(ENTRY)
        size = path.stat().st_size
        room(size * 2 + 100 if sys.argv[2] == "torn" else size * 2 - 1)
        print(await asyncio.gather(*(log.record(ENTRY) for _ in range(3))), file=sys.stderr)
        room(resource.RLIM_INFINITY)
        print(await log.record(ENTRY), log.status()["head"], file=sys.stderr)
        await log.aclose()

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("where", ["torn", "line end"])
def test_a_full_disk_tears_a_line_and_not_the_chain(tmp_path: Path, where: str) -> None:
    """The next record links to the last whole one, also where that lacked only its line end."""
    path = tmp_path / "audit.jsonl"
    outcome = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TEAR), path, where],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first, second = outcome.stderr.splitlines()
    assert first == "[True, False, False]"
    written, head = second.split()
    assert written == "True"
    lines = path.read_bytes().splitlines()
    records = [line for line in lines if chain.parse(line) is not None]
    assert [json.loads(line)["seq"] for line in records] == [1, 2, 3]
    assert [json.loads(line)["prev"] for line in records][1:] == [
        chain.digest(line) for line in records[:-1]
    ]
    torn = [f"{path}:3: is not a JSON object: torn, or overwritten"] if where == "torn" else []
    assert problems(path, heads=(head,)) == torn


async def test_where_nothing_can_be_linked_to_the_chain_begins_anew() -> None:
    async with opened(Path("/dev/null")) as log:
        await write(log)
        assert parse_head(log.status()["head"]).seq == 1


async def test_the_head_is_in_the_status_and_logged_at_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with capture_logs() as logged:
        async with opened(path) as log:
            assert log.status()["head"] == f"{log.instance}:0:{GENESIS}"
            await write(log, 3)
            head = log.status()["head"]
    assert head == f"{log.instance}:3:{hashes(path)[-1]}"
    assert logged == [{"event": events.AUDIT_CLOSED, "head": head, "log_level": "info"}]


async def test_a_head_finds_what_was_cut_off_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await write(log, 4)
        head = log.status()["head"]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert problems(path) == []
    assert problems(path, heads=(head,)) == [
        f"{path}:2: records 3 to 4 of {log.instance} missing after this line"
    ]
    path.write_bytes(b"")
    assert problems(path, heads=(head,)) == [
        f"{path}:0: record 4 of {log.instance} is not in these files"
    ]


async def test_a_head_finds_a_last_line_that_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await write(log, 2)
        head = log.status()["head"]
    path.write_bytes(path.read_bytes().replace(b'"request_id":"1"', b'"request_id":"7"'))
    (problem,) = problems(path, heads=(head,))
    assert problem.startswith(f"{path}:2: record 2 of {log.instance} was changed")


async def test_the_head_of_a_sidecar_that_wrote_nothing_guards_the_line_it_found(
    tmp_path: Path,
) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await write(log, 2)
    async with opened(path) as idle:
        head = idle.status()["head"]
    assert problems(path, heads=(head,)) == []
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert problems(path, heads=(head,)) == [
        f"{path}:1: the line that {idle.instance} found at its start is missing"
    ]


async def test_an_older_head_is_met_in_passing(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with opened(path) as log:
        await write(log, 2)
        older = log.status()["head"]
        await write(log, 2)
        newer = log.status()["head"]
    assert problems(path, heads=(older, newer)) == []


def test_a_head_reads_back_whatever_the_host_is_called() -> None:
    head = Head("fe80::1:0123456789abcdef", 17, "a1" * 32)
    assert parse_head(str(head)) == head


@pytest.mark.parametrize(
    "text", ["", "web-1:17", f"17:{GENESIS}", f"web-1:x:{GENESIS}", "web-1:17:abc", f"::{GENESIS}"]
)
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="INSTANCE:SEQ:HASH"):
        parse_head(text)
