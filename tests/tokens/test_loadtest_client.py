"""The load test's client of the token service, whose faults would only give wrong figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokens.conftest import World

from authz.keys.generate import generate_key
from authz.keys.jwk import public_part
from authz.keys.keyfile import write_keys
from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE, Client
from loadtest.issuing.client import OPERATIONS, Load
from support.token_service import ISSUER, SECRET, new_client

COUNT = 6


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("login") / "login.json"
    write_keys(path, [generate_key("ec")], replace=False)
    return path


@pytest.fixture(scope="module")
def client(world: World, key: Path) -> Client:
    """As the load test adds it."""
    (jwk,) = json.loads(key.read_text())["keys"]
    client = new_client(
        "load", CLIENT_CREDENTIALS, TOKEN_EXCHANGE, REFRESH_TOKEN,
        may_exchange=True, keys=(public_part(jwk),),
    )  # fmt: skip
    world.server.add(client)
    return client


async def run(world: World, key: Path, client: Client, **changes: Any) -> dict[str, Any]:
    what = {
        "port": world.server.port,
        "pid": world.server.process.pid,
        "client": client.id,
        "secret": SECRET,
        "key": str(key),
        "issuer": ISSUER,
        "count": COUNT,
        "connections": 2,
        **changes,
    }
    return await Load(what).run()


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_each_operation_is_done_as_often_as_asked_and_nothing_else_is_counted(
    world: World, key: Path, client: Client, operation: str
) -> None:
    """What it obtains before isn't among the times."""
    before = world.valkey.client.info("commandstats")
    said = await run(world, key, client, operation=operation)
    assert (said["operations"], len(said["times_us"]), said["wrong"]) == (COUNT, COUNT, 0)
    assert 0 < said["server_seconds"] < 5
    if operation == "revoke":
        after = world.valkey.client.info("commandstats")
        assert after["cmdstat_publish"]["calls"] - _calls(before) >= COUNT


def _calls(stats: Any) -> int:
    calls: int = stats.get("cmdstat_publish", {"calls": 0})["calls"]
    return calls


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_is_refused_counts_as_wrong(
    world: World, key: Path, client: Client, operation: str
) -> None:
    """As when a client of another test stands in the store."""
    said = await run(world, key, client, operation=operation, secret="another")
    assert said["operations"] == COUNT
    assert said["wrong"] >= COUNT
