"""The relay as people run it: `python -m authz relay` in a process of its own."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from authz.revocation.entry import Entry
from authz.revocation.record import feed_key
from authz.revocation.redis.writer import MAX_ENTRIES
from support.ports import LOOPBACK, free_port
from support.process import ChildProcess
from support.revocations import BUCKETS, Opened, of_token, token_ref
from support.valkey import ValkeyServer


class RelayProcess:
    """One direction. `settings`: the YAML file's content, if it shall have one."""

    def __init__(
        self,
        folder: Path,
        source: str,
        target: str,
        *options: str,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.http_port = free_port()
        command = [sys.executable, "-m", "authz", "relay", "--from", source, "--to", target]
        if settings is not None:
            config = folder / "relay.yaml"
            config.write_text(yaml.safe_dump(settings))
            command += ["--config", str(config)]
        if "--once" not in options:
            command += ["--http-listen", f"{LOOPBACK}:{self.http_port}"]
        self.process = ChildProcess(
            [*command, *options],
            log=folder / "relay.log",
            env={"PYTHONWARNINGS": "error"},
        )

    def start(self) -> Self:
        self.process.start(self.is_ready)
        return self

    def is_ready(self) -> bool:
        """Whether `/readyz` says 200."""
        try:
            return self.http("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def http(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{LOOPBACK}:{self.http_port}{path}", timeout=5, trust_env=False)

    def status(self) -> Any:
        return self.http("/status").json()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 where there are none."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.http("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def is_level(self) -> bool:
        return bool(self.metric("authz_relay_level"))

    def has_copied(self, entries: int) -> bool:
        """Whether so many were written, and the target is level."""
        return self.entries("written") == entries and self.is_level()

    def entries(self, result: str) -> int:
        return round(self.metric("authz_relay_entries_total", result=result))

    def events(self) -> list[dict[str, Any]]:
        """What it logged."""
        lines = self.process.log_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events() if one["event"] == event]

    def stop(self) -> int:
        """SIGTERM. The exit code."""
        return self.process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.process.stop()


async def revoke(opened: Opened, count: int = 1, *, lifetime: float = 600) -> None:
    """So many tokens, of as many users, in all buckets in turn."""
    refs = [token_ref(bucket=number % BUCKETS, lifetime=lifetime) for number in range(count)]
    for bucket in range(BUCKETS):
        entries = [Entry.of_token(of_token(ref)) for ref in refs if ref.bucket == bucket]
        for at in range(0, len(entries), MAX_ENTRIES):
            await opened.store._writer.write(bucket, entries[at : at + MAX_ENTRIES])


def stream_lengths(server: ValkeyServer) -> list[int]:
    """Entries in the stream of each bucket."""
    return [server.command("XLEN", feed_key(bucket)) for bucket in range(BUCKETS)]


def revocations(server: ValkeyServer) -> dict[bytes, tuple[bytes, int]]:
    """Every revocation in a store: its key to its value and when it expires (milliseconds)."""
    keys: list[bytes] = server.command("KEYS", "jwt:*")
    return {
        key: (server.command("GET", key), server.command("PEXPIRETIME", key))
        for key in keys
        if b":blacklist:" in key or b":not-before:" in key
    }
