"""`authz audit reconcile`: what audit files let through, asked of a real store afterwards."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from authz.audit import instant
from authz.audit.fields import FailOpen, Reconciled
from authz.audit.log import AuditLog
from authz.cli import reconcile as reconcile_module
from authz.cli.main import app
from authz.revocation.record import Note, TokenRef
from authz.settings import AuditSettings
from support.audit import ENTRY, RECONCILED
from support.ports import LOOPBACK, free_port
from support.revocations import of_token, opened, token_ref
from support.sidecar import default_issuer
from support.valkey import ValkeyServer


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_module, "PATIENCE", 0.3)
    monkeypatch.setattr(reconcile_module, "PAUSE", 0.1)


def of(ref: TokenRef, subject: str = "ann") -> FailOpen:
    return replace(
        ENTRY,
        subject=subject,
        token_id=f"of {subject}",
        token=ref.token,
        user=ref.user,
        bucket=ref.bucket,
        issued_at=ref.issued_at,
        expires_at=ref.expires_at,
    )


def written(path: Path, *entries: tuple[float, FailOpen | Reconciled]) -> Path:
    async def write() -> None:
        log = AuditLog(AuditSettings(path=path, timeout=5))
        log.start()
        for at, entry in entries:
            assert await log.record(entry, at=at)
        await log.aclose()

    asyncio.run(write())
    return path


def revoke(server: ValkeyServer, ref: TokenRef, at: float, note: Note | None = None) -> None:
    async def write() -> None:
        async with opened(server.url, start=False) as told:
            revocation = replace(of_token(ref), note=note or Note("stolen", "ops", at))
            await told.store.revoke_token(revocation)

    asyncio.run(write())


def run(folder: Path, url: str, *arguments: str | Path) -> Result:
    config = folder / "authz.yaml"
    config.write_text(yaml.safe_dump({"store": {"url": url}, "issuers": [default_issuer(folder)]}))
    words = ["audit", "reconcile", "--config", str(config), *map(str, arguments)]
    return CliRunner().invoke(app, words, standalone_mode=False)


def test_a_token_that_was_let_through_although_revoked_is_named(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Counted exactly, however many requests there are, over all files."""
    stolen, good, late = (token_ref(bucket=n) for n in (3, 4, 5))
    at = float(stolen.issued_at)
    revoke(valkey, stolen, at + 60.5)
    revoke(valkey, late, at + 300)
    older = written(
        tmp_path / "audit.1",
        *((at + n, of(stolen)) for n in range(100)),
        (at + 1, of(good, "bob")),
    )
    newer = written(tmp_path / "audit", (at + 200, of(stolen)), (at + 201, of(late, "carol")))
    result = run(tmp_path, valkey.url, older, newer)
    assert result.return_value == 1
    named, summary = result.output.splitlines()
    assert named == (
        '"ann" of "https://issuer.example", token "of ann": revoked at '
        f'{instant.rfc3339(round((at + 60.5) * 1000))} by "ops" ("stolen"); 40 of 101 request(s) '
        f"went through after that, the last at {instant.rfc3339(round((at + 200) * 1000))}"
    )
    assert summary == (
        "103 request(s) with 3 token(s) were let through; 2 token(s) are revoked, "
        "and 40 request(s) went through after that"
    )


def test_where_no_request_came_after_a_revocation_all_is_well(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    ref = token_ref()
    path = written(tmp_path / "audit", (ref.issued_at, of(ref)))
    before = path.read_bytes()
    result = run(tmp_path, valkey.url, path)
    assert result.return_value == 0
    assert result.output.startswith("1 request(s) with 1 token(s) were let through; 0 token(s)")
    assert path.read_bytes() == before  # it writes nothing


def test_json_tells_every_token(valkey: ValkeyServer, tmp_path: Path) -> None:
    stolen, good = token_ref(bucket=3), token_ref(bucket=4)
    at = float(stolen.issued_at)
    revoke(valkey, stolen, at)
    path = written(tmp_path / "audit", (at, of(stolen)), (at + 1, of(good, "bob")))
    path.write_bytes(path.read_bytes() + b"torn")
    told = json.loads(run(tmp_path, valkey.url, "--json", path).output)
    assert [(one["subject"], one["was_revoked"]) for one in told["tokens"]] == [
        ("ann", True),
        ("bob", False),
    ]
    assert told["summary"] == {
        "tokens": 2,
        "requests": 2,
        "revoked": 1,
        "requests_after": 1,
        "unknown": 0,
        "unanswered": 0,
        "skipped_lines": 1,
    }


def reconciled(ref: TokenRef, last_at: float, **changes: Any) -> Reconciled:
    return replace(
        RECONCILED,
        token=ref.token,
        user=ref.user,
        bucket=ref.bucket,
        issued_at=ref.issued_at,
        expires_at=ref.expires_at,
        last_at=instant.rfc3339(round(last_at * 1000)),
        **changes,
    )


def test_what_the_store_has_forgotten_the_files_may_know(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A token of long ago, which a sidecar looked at in time."""
    at = 1_700_000_000
    known, unknown = (token_ref(bucket=3, issued_at=at) for _ in range(2))
    found = reconciled(known, at + 9, revoked_at=instant.rfc3339((at + 5) * 1000))
    path = written(
        tmp_path / "audit",
        (at + 5, of(known)),
        (at + 9, of(known)),
        (at + 10, found),
        (at + 11, of(unknown, "bob")),
    )
    result = run(tmp_path, valkey.url, path)
    assert result.return_value == 1
    named, summary, forgotten = result.output.splitlines()
    assert "2 of 2 request(s) went through after that" in named
    assert "1 token(s) are revoked" in summary
    assert forgotten.startswith("1 token(s) expired long ago")


def test_a_store_that_does_not_answer_is_no_all_clear(tmp_path: Path) -> None:
    ref = token_ref()
    path = written(tmp_path / "audit", (ref.issued_at, of(ref)))
    result = run(tmp_path, f"redis://{LOOPBACK}:{free_port()}", path)
    assert result.return_value == 1
    assert "1 token(s) could not be asked about: connection" in result.output


def test_texts_of_others_can_not_write_to_the_terminal(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    ref = token_ref()
    revoke(valkey, ref, ref.issued_at, Note("\x1b[2Jgone", "\x07", ref.issued_at))
    path = written(tmp_path / "audit", (ref.issued_at, of(ref, "\x1b[31mred")))
    output = run(tmp_path, valkey.url, path).output
    assert "\x1b" not in output
    assert "\\u001b[31mred" in output


def test_a_store_in_memory_can_not_be_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "audit", (1.0, ENTRY))
    result = run(tmp_path, "memory://", path)
    assert "memory://" in str(result.exception)
