"""`authz audit reconcile`: was what these files let through revoked?"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from authz.audit.fields import Reconciled
from authz.audit.ledger import Ledger
from authz.audit.pending import LetThrough
from authz.audit.reconciler import conclude
from authz.cli.errors import CommandError
from authz.cli.options import config_option
from authz.observe.logs import configure_logs
from authz.revocation.memory import MemoryStore
from authz.revocation.open import open_store
from authz.revocation.record import TokenRef, Unavailable
from authz.revocation.redis.store import RedisStore
from authz.revocation.store import Trace
from authz.settings import LogSettings, Settings, load_settings

PATIENCE = 5.0
"""Seconds in which a store that doesn't answer is asked again: a failover takes one or two."""

PAUSE = 0.5
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class _Findings:
    records: Sequence[Reconciled]
    unanswered: Sequence[LetThrough]
    """Tokens that the store said nothing about."""
    cause: str
    skipped: int
    """Lines that are no records."""

    def summary(self) -> dict[str, Any]:
        return {
            "tokens": len(self.records) + len(self.unanswered),
            "requests": sum(one.requests for one in self.records)
            + sum(token.times.total for token in self.unanswered),
            "revoked": sum(one.was_revoked for one in self.records),
            "requests_after": sum(one.requests_after for one in self.records),
            "unknown": sum(one.evidence == "expired" for one in self.records),
            "unanswered": len(self.unanswered),
            "skipped_lines": self.skipped,
        }


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document, with every token.")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
def reconcile(config: Path | None, as_json: bool, files: tuple[Path, ...]) -> int:
    """Ask the store about every token that the audit FILES say was let through.

    What a sidecar does by itself after an outage, for files of several sidecars, or of one that is
    gone. Only prints, and writes nothing. Each token with which requests went through after it had
    been revoked is named. Where the store has forgotten a token, what a sidecar put on record about
    it counts. Exit code 0: there is none, 1: there are, or the store doesn't answer.

    \b
    Example:
      authz audit reconcile --config authz.yaml /var/log/authz/audit.jsonl
    """
    settings = load_settings(config)
    configure_logs(LogSettings(level="error", format="console"))
    ledger = Ledger()
    for path in files:
        try:
            with path.open("rb") as lines:
                for line in lines:
                    ledger.read(line)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
    findings = asyncio.run(_reconcile(settings, ledger))
    if as_json:
        tokens = [asdict(record) for record in findings.records]
        print(json.dumps({"tokens": tokens, "summary": findings.summary()}, indent=2))
    else:
        _print(findings)
    found = any(record.requests_after for record in findings.records)
    return 1 if found or findings.unanswered else 0


async def _reconcile(settings: Settings, ledger: Ledger) -> _Findings:
    by_bucket: dict[int, list[LetThrough]] = {}
    for token in ledger.tokens():
        by_bucket.setdefault(token.ref.bucket, []).append(token)
    store = open_store(settings)
    if isinstance(store, MemoryStore):
        raise CommandError(
            "store.url is memory://, which only the sidecar itself can reach; use redis://"
        )
    records: list[Reconciled] = []
    unanswered: list[LetThrough] = []
    cause = ""
    deadline = time.monotonic() + PATIENCE
    try:
        await store.connect()
        for bucket, tokens in sorted(by_bucket.items()):
            traces = await _trace(store, bucket, [token.ref for token in tokens], deadline)
            if isinstance(traces, Unavailable):
                unanswered += tokens
                cause = traces.cause
                continue
            records += [
                conclude(token, _better(trace, ledger.finding(token.ref)))
                for token, trace in zip(tokens, traces, strict=True)
            ]
    finally:
        await store.aclose()
    records.sort(key=lambda record: record.first_at)
    return _Findings(records, unanswered, cause, ledger.skipped)


async def _trace(
    store: RedisStore, bucket: int, refs: Sequence[TokenRef], deadline: float
) -> Sequence[Trace] | Unavailable:
    while True:
        traces = await store.trace(bucket, refs, time.time())
        if not isinstance(traces, Unavailable) or time.monotonic() >= deadline:
            return traces
        await asyncio.sleep(PAUSE)
        await store.connect()


def _better(trace: Trace, recorded: Trace | None) -> Trace:
    """What a sidecar put on record may be more than the store remembers today."""
    if recorded is None or trace.revoked:
        return trace
    return recorded if recorded.revoked or trace.evidence == "expired" else trace


def _print(findings: _Findings) -> None:
    for record in findings.records:
        if record.requests_after:
            print(_line(record))
    told = findings.summary()
    print(
        f"{told['requests']} request(s) with {told['tokens']} token(s) were let through; "
        f"{told['revoked']} token(s) are revoked, and {told['requests_after']} request(s) went "
        "through after that"
    )
    if told["unknown"]:
        print(
            f"{told['unknown']} token(s) expired long ago: whether they were revoked is forgotten"
        )
    if findings.unanswered:
        print(f"{len(findings.unanswered)} token(s) could not be asked about: {findings.cause}")
    if findings.skipped:
        print(f"{findings.skipped} line(s) are no records; authz audit verify says which")


def _line(record: Reconciled) -> str:
    """Texts are quoted and escaped: they come from a file and from whoever revoked."""
    when = f"at {record.revoked_at}" if record.revoked_at else "nobody knows when"
    by = f" by {json.dumps(record.revoked_by)}" if record.revoked_by else ""
    why = f" ({json.dumps(record.revoked_reason)})" if record.revoked_reason else ""
    return (
        f"{json.dumps(record.subject)} of {json.dumps(record.issuer)}, token "
        f"{json.dumps(record.token_id)}: revoked {when}{by}{why}; {record.requests_after} of "
        f"{record.requests} request(s) went through after that, the last at {record.last_at}"
    )
