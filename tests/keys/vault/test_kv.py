"""A private JWK Set in a KV engine, in a real OpenBao."""

import asyncio
import json
import time
from typing import Any

import pytest
from keys.vault.conftest import StartKeys, signing

from authz.keys.errors import KeySourceError
from authz.keys.generate import generate_key
from authz.keys.issuing.open import open_key_store
from authz.keys.signer import SigningUnavailableError, sign_token
from authz.keys.vault.kv import KvKeys
from support.openbao import OpenBao
from support.waiting import eventually

KEY = generate_key("ec")


@pytest.fixture
async def opened(openbao: OpenBao, token_file: str) -> Any:
    """A store at this path."""
    stores = []

    def open_at(path: str) -> KvKeys:
        vault = {"address": openbao.address, "kv_path": path, "token_file": token_file}
        store = open_key_store(signing(vault))
        assert isinstance(store, KvKeys)
        stores.append(store)
        return store

    yield open_at
    for store in stores:
        await store.aclose()


def put(openbao: OpenBao, path: str, **fields: Any) -> None:
    openbao.root.secrets.kv.v2.create_or_update_secret(path, fields)


def fields(openbao: OpenBao, path: str) -> Any:
    read = openbao.root.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
    return read["data"]["data"]


async def names(store: KvKeys) -> list[str]:
    return [key.times.name for key in await store.read()]


@pytest.mark.parametrize(
    "value", [json.dumps({"keys": [KEY]}), {"keys": [KEY]}], ids=["text", "json"]
)
async def test_keys_that_were_put_there_sign(
    openbao: OpenBao, token_file: str, start_keys: StartKeys, value: Any
) -> None:
    """As text, or as the JSON that `bao kv put … @file` makes of a file."""
    put(openbao, "team/put", jwks=value)
    vault = {"address": openbao.address, "kv_path": "team/put", "token_file": token_file}
    keys = await start_keys(vault)
    assert (await keys.current()).kid == KEY["kid"]
    assert (await sign_token({}, await keys.current())).count(".") == 2


async def test_the_first_key_is_made_where_there_is_none(openbao: OpenBao, opened: Any) -> None:
    store = opened("team/first")
    with pytest.raises(KeySourceError, match="there is no secret/data/team/first; write the first"):
        await store.read()
    made = await store.rotate(time.time(), ahead=60)
    assert await names(store) == [made]
    assert json.loads(fields(openbao, "team/first")["jwks"])["keys"][0]["alg"] == "ES256"


async def test_rotating_and_withdrawing_leave_the_other_fields_alone(
    openbao: OpenBao, opened: Any
) -> None:
    put(openbao, "team/fields", jwks={"keys": [KEY]}, owner="payments")
    store = opened("team/fields")
    made = await store.rotate(time.time(), ahead=60, newest=KEY["kid"])
    assert await names(store) == [KEY["kid"], made]
    assert await store.withdraw(KEY["kid"], time.time()) == [KEY["kid"]]
    assert await names(store) == [made]
    assert fields(openbao, "team/fields")["owner"] == "payments"


async def test_of_many_who_rotate_at_once_one_makes_the_key(openbao: OpenBao, opened: Any) -> None:
    put(openbao, "team/race", jwks={"keys": [KEY]})
    stores = [opened("team/race") for _ in range(5)]
    now = time.time()
    results = await asyncio.gather(
        *(store.rotate(now, ahead=60, newest=KEY["kid"]) for store in stores)
    )
    made = [result for result in results if result is not None]
    assert len(made) == 1
    assert await names(stores[0]) == [KEY["kid"], *made]


async def test_a_withdrawal_that_is_overtaken_begins_anew(openbao: OpenBao, opened: Any) -> None:
    """Two keys leak and two people act at once: neither undoes what the other did."""
    other = generate_key("ec")
    put(openbao, "team/both", jwks={"keys": [KEY, other]})
    one, two = opened("team/both"), opened("team/both")
    await asyncio.gather(
        one.withdraw(KEY["kid"], time.time()), two.withdraw(other["kid"], time.time())
    )
    left = await names(one)
    assert len(left) == 1
    assert not {KEY["kid"], other["kid"]} & set(left)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"other": "x"}, "has no field 'jwks' with a private JWK Set"),
        ({"jwks": "{"}, "is not JSON"),
        ({"jwks": {"keys": []}}, "holds no key"),
        ({"jwks": {"keys": [{**KEY, "d": None}]}}, "not a valid private key"),
        ({"jwks": {"keys": [KEY, KEY]}}, "stands for two keys"),
    ],
    ids=["no field", "no json", "no key", "no private part", "doubled"],
)
async def test_what_can_not_be_used_is_said_and_not_written_over(
    openbao: OpenBao, opened: Any, value: dict[str, Any], problem: str
) -> None:
    put(openbao, "team/bad", **value)
    store = opened("team/bad")
    with pytest.raises(KeySourceError, match=problem):
        await store.read()
    with pytest.raises(KeySourceError):
        await store.rotate(time.time(), ahead=60)
    assert fields(openbao, "team/bad") == value


async def test_signing_goes_on_with_the_keys_known_while_vault_is_sealed(
    openbao: OpenBao, token_file: str, start_keys: StartKeys
) -> None:
    """They are in this process; what changes in Vault meanwhile comes when it is back."""
    put(openbao, "team/sealed", jwks={"keys": [KEY]})
    vault = {"address": openbao.address, "kv_path": "team/sealed", "token_file": token_file}
    keys = await start_keys(vault)
    openbao.seal()
    try:
        await keys.refresh()
        assert keys.status()["error"] == "Vault is sealed; unseal it"
        assert (await keys.current()).kid == KEY["kid"]
        with pytest.raises(SigningUnavailableError, match="Vault is sealed"):
            await (await start_keys(vault)).current()
    finally:
        openbao.unseal()
    await eventually(lambda: not keys.status()["failing"], "the keys are read again")
