"""The sidecar as a whole, in the test's own loop: how it starts, what it tells, how it stops."""

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from authz.observe.logs import configure_logs
from authz.settings import LogSettings, Settings, SettingsError
from authz.sidecar import Sidecar
from support.ports import LOOPBACK, accepts_connections, free_port
from support.sidecar import default_issuer
from support.valkey import ValkeyServer


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged, as JSON lines."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs(LogSettings(), stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def events_of(logged: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in logged.getvalue().splitlines()]


def settings_of(tmp_path: Path, **changes: Any) -> Settings:
    return Settings.model_validate(
        {
            "issuers": [default_issuer(tmp_path)],
            "listen": [f"{LOOPBACK}:{free_port()}"],
            "http_listen": f"{LOOPBACK}:{free_port()}",
            "audit": {"path": tmp_path / "audit.jsonl"},
            **changes,
        }
    )


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@asynccontextmanager
async def running(settings: Settings) -> Any:
    sidecar = Sidecar(settings)
    await sidecar.start()
    try:
        yield sidecar
    finally:
        async with asyncio.timeout(10):
            await sidecar.stop()


async def test_what_it_knows_is_json_without_secrets(
    tmp_path: Path, valkey: ValkeyServer, logged: io.StringIO
) -> None:
    store = {"url": valkey.url, "password": "hunter2"}
    async with running(settings_of(tmp_path, store=store)) as sidecar:
        status = json.loads(json.dumps(sidecar.status()))
        assert status["ready"] is True
        assert status["store"]["kind"] == "single"
        assert status["keys"]
        assert status["checks"] == {}
        assert "hunter2" not in json.dumps(status)
    assert sidecar.status()["ready"] is False
    assert "hunter2" not in logged.getvalue()


async def test_memory_and_no_audit_are_warned_of(tmp_path: Path, logged: io.StringIO) -> None:
    audit = {"path": None, "required": False}
    async with running(settings_of(tmp_path, audit=audit)):
        pass
    levels = {
        json.loads(line)["event"]: json.loads(line)["level"]
        for line in logged.getvalue().splitlines()
    }
    assert levels["store_in_memory"] == "warning"
    assert levels["audit_disabled"] == "warning"


async def test_it_tells_when_it_serves_and_when_it_stopped(
    tmp_path: Path, logged: io.StringIO
) -> None:
    settings = settings_of(tmp_path)
    ports = [port_of(settings.listen[0]), port_of(settings.http_listen)]
    async with running(settings):
        assert all(map(accepts_connections, ports))
        assert events_of(logged)[-1] == "serving"
    assert events_of(logged)[-3:] == ["draining", "audit_closed", "stopped"]
    assert not any(map(accepts_connections, ports))


async def test_stopping_leaves_no_task_and_no_file_open(
    tmp_path: Path, valkey: ValkeyServer, logged: io.StringIO
) -> None:
    before = asyncio.all_tasks()
    async with running(settings_of(tmp_path, store={"url": valkey.url})):
        valkey.freeze()
    valkey.thaw()
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before if "grpc" not in repr(task)}
    assert not left


async def test_a_store_out_of_reach_does_not_hold_up_the_start(
    tmp_path: Path, logged: io.StringIO
) -> None:
    store = {"url": f"redis+cluster://{LOOPBACK}:{free_port()}", "connect_timeout": "20s"}
    started = time.monotonic()
    async with running(settings_of(tmp_path, store=store)) as sidecar:
        assert time.monotonic() - started < 5
        assert sidecar.status()["store"]["connected"] is False


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
async def test_an_address_that_is_taken_is_named(
    tmp_path: Path, logged: io.StringIO, setting: str
) -> None:
    server = await asyncio.start_server(lambda *_: None, LOOPBACK, 0)
    address = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    value = [address] if setting == "listen" else address
    sidecar = Sidecar(settings_of(tmp_path, **{setting: value}))
    with pytest.raises(SettingsError, match=rf"^{setting}: {address}: "):
        await sidecar.start()
    await sidecar.stop()
    server.close()


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ({"url": "redis://h", "password_file": "/no/such"}, r"store\.password_file"),
        ({"url": "rediss://h", "tls": {"ca_file": "/no/such"}}, r"store\.tls\.ca_file"),
    ],
)
async def test_a_store_that_cannot_be_set_up_stops_the_start(
    tmp_path: Path, logged: io.StringIO, store: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsError, match=problem):
        Sidecar(settings_of(tmp_path, store=store))
