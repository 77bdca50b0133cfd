"""Secrets are compared beside the loop, a few at a time, and remembered for a while."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from authz.tokens.clients import secret as secret_module
from authz.tokens.clients.client import Client
from authz.tokens.clients.secret import SecretHasher, new_secret
from support.token_service import SECRET, new_client

NOW = time.time()


@pytest.fixture
def hasher() -> Iterator[SecretHasher]:
    hasher = SecretHasher()
    yield hasher
    hasher.close()


@pytest.fixture(scope="module")
def client() -> Client:
    return new_client()


async def test_the_right_secret_is_right_and_another_is_wrong(
    hasher: SecretHasher, client: Client
) -> None:
    assert await hasher.compare(client, SECRET, NOW) == "right"
    for wrong in ("", SECRET[:-1], SECRET + "x", SECRET.upper(), "\ud800", "x" * 100_000):
        assert await hasher.compare(client, wrong, NOW) == "wrong", wrong[:50]


async def test_a_secret_that_was_right_is_not_hashed_again(
    hasher: SecretHasher, client: Client
) -> None:
    for _ in range(3):
        assert await hasher.compare(client, SECRET, NOW) == "right"
    assert hasher.hashes == 1


async def test_a_secret_in_use_stays_remembered_and_one_that_is_not_does_not(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a client that asks all the time is not held up by those who guess its secret."""
    monkeypatch.setattr(secret_module, "REMEMBERED_FOR", 0.5)
    hasher = SecretHasher()
    await hasher.compare(client, SECRET, NOW)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert hasher.remembers(client, SECRET, NOW)
        await asyncio.sleep(0.02)
    assert hasher.hashes == 1
    await asyncio.sleep(0.6)
    assert not hasher.remembers(client, SECRET, NOW)
    hasher.close()


async def test_all_who_come_with_the_same_secret_share_one_hash(
    hasher: SecretHasher, client: Client
) -> None:
    """Also where one of them goes away."""
    asked = [asyncio.ensure_future(hasher.compare(client, SECRET, NOW)) for _ in range(100)]
    await asyncio.sleep(0)
    asked[0].cancel()
    outcomes = await asyncio.gather(*asked[1:])
    assert set(outcomes) == {"right"}
    assert hasher.hashes == 1


async def test_a_wrong_secret_is_hashed_each_time(hasher: SecretHasher, client: Client) -> None:
    for _ in range(3):
        await hasher.compare(client, "wrong", NOW)
    assert hasher.hashes == 3


async def test_an_unknown_client_takes_as_long_as_a_known_one(
    hasher: SecretHasher, client: Client
) -> None:
    """One hash each: nobody finds out which clients there are."""
    assert await hasher.compare(None, SECRET, NOW) == "wrong"
    assert hasher.hashes == 1
    assert await hasher.compare(replace(client, secrets=()), SECRET, NOW) == "wrong"
    assert hasher.hashes == 2


async def test_a_secret_that_ran_out_is_wrong_although_it_is_remembered(
    hasher: SecretHasher, client: Client
) -> None:
    assert await hasher.compare(client, SECRET, NOW) == "right"
    (secret,) = client.secrets
    over = replace(client, secrets=(replace(secret, until=NOW - 1),))
    assert await hasher.compare(over, SECRET, NOW) == "wrong"


async def test_the_loop_goes_on_while_secrets_are_compared(
    hasher: SecretHasher, client: Client
) -> None:
    turns = 0
    comparing = asyncio.ensure_future(hasher.compare(client, "wrong", NOW))
    while not comparing.done():
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 1


async def test_too_many_at_a_time_are_sent_away(
    hasher: SecretHasher, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_module, "MAX_WAITING", 8)
    asked = [hasher.compare(client, f"wrong {n}", NOW) for n in range(13)]
    outcomes = await asyncio.gather(*asked)
    assert outcomes.count("busy") == 5
    assert outcomes.count("wrong") == 8


async def test_a_record_with_a_broken_hash_lets_nobody_in(hasher: SecretHasher) -> None:
    broken = new_client()
    (secret,) = broken.secrets
    broken = replace(broken, secrets=(replace(secret, hash="$argon2id$broken"),))
    assert await hasher.compare(broken, SECRET, NOW) == "wrong"


def test_secrets_have_256_bits() -> None:
    assert len(new_secret()) == 43
    assert new_secret() != new_secret()
