"""Clients in Redis: read as they are now, changed by one hand at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from authz.revocation.store import StoreError
from authz.tokens.clients.store import ClientChangedError, RedisClients
from support.cluster import ValkeyCluster
from support.revocations import BUCKETS, opened
from support.token_service import new_client
from support.valkey import ValkeyServer


@asynccontextmanager
async def clients_at(url: str, **settings: Any) -> AsyncIterator[RedisClients]:
    async with opened(url, **settings) as told:
        yield RedisClients(told.store.scripts, told.store.nodes, BUCKETS)


async def test_clients_are_found_listed_and_changed_on_a_cluster(cluster: ValkeyCluster) -> None:
    first, second = sorted((new_client(), new_client()), key=lambda one: one.id)
    async with clients_at(cluster.url) as clients:
        assert await clients.get(first.id) is None
        assert await clients.every() == []
        await clients.add(second)
        await clients.add(first)
        assert await clients.every() == [first, second]
        disabled = replace(first, disabled=True)
        await clients.replace(first, disabled)
        assert await clients.get(first.id) == disabled


async def test_of_two_changes_at_once_the_second_is_told(valkey: ValkeyServer) -> None:
    client = new_client()
    async with clients_at(valkey.url) as clients:
        await clients.add(client)
        await clients.replace(client, replace(client, lifetime=60.0))
        with pytest.raises(ClientChangedError):
            await clients.replace(client, replace(client, disabled=True))
        with pytest.raises(ClientChangedError):
            await clients.add(replace(client, lifetime=30.0))


async def test_repeating_a_write_is_no_conflict(valkey: ValkeyServer) -> None:
    """A call that was answered too late is made again."""
    client = new_client()
    async with clients_at(valkey.url) as clients:
        await clients.add(client)
        await clients.add(client)
        assert await clients.every() == [client]


async def test_what_is_no_record_is_an_error_and_not_an_unknown_client(
    valkey: ValkeyServer,
) -> None:
    client = new_client()
    async with clients_at(valkey.url) as clients:
        await clients.add(client)
        (key,) = valkey.client.keys("jwt:*client*")
        valkey.client.set(key, "{}")
        with pytest.raises(StoreError, match="record"):
            await clients.get(client.id)
        valkey.client.set(key, new_client().dump())
        with pytest.raises(StoreError, match="another client"):
            await clients.get(client.id)


async def test_a_store_that_is_gone_is_an_error(valkey: ValkeyServer) -> None:
    async with clients_at(valkey.url, write_timeout=0.3) as clients:
        valkey.kill()
        with pytest.raises(StoreError):
            await clients.get("any")
        with pytest.raises(StoreError):
            await clients.add(new_client())
        with pytest.raises(StoreError):
            await clients.every()
