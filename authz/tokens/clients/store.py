"""Where clients are kept: `jwt:{B}:client:<digest>`, one record each, read with every request.

So what is changed takes hold at once, in every process.
"""

import asyncio
import hashlib
from base64 import urlsafe_b64encode
from typing import Protocol

from redis.exceptions import RedisError

from authz.revocation.record import bucket_of
from authz.revocation.redis.lane import describe
from authz.revocation.redis.nodes import Nodes
from authz.revocation.redis.script import Script, ScriptRunner
from authz.revocation.redis.topology import node_name
from authz.revocation.store import StoreError
from authz.tokens.clients.client import BadClientError, Client

SCAN_COUNT = 1000
"""Keys that a node walks over at a time, while it does nothing else: about half a millisecond."""

SCAN_TIMEOUT = 30.0
"""Seconds for one node: a million keys take five."""

_SCRIPT = Script.of_files(("authz.tokens.clients", "client.lua"))


class ClientChangedError(Exception):
    """Somebody else has changed the client since it was read."""


class ClientStore(Protocol):
    """Finds clients."""

    async def get(self, client_id: str) -> Client | None:
        """None: there is no such client. StoreError: the store can't be asked, or what it holds
        is no client's record.
        """
        ...


class RedisClients:
    """Clients in the store that revocations are in."""

    def __init__(self, runner: ScriptRunner, nodes: Nodes, buckets: int) -> None:
        self._runner = runner
        self._nodes = nodes
        self._buckets = buckets

    async def get(self, client_id: str) -> Client | None:
        """As `ClientStore.get`."""
        bucket, key = self._place(client_id)
        (text,) = await self._runner.read(bucket, ["GET", key])
        return None if text is None else _load(text, client_id)

    async def add(self, client: Client) -> None:
        """ClientChangedError: there is one of this name. StoreError."""
        await self._write(client, "")

    async def replace(self, before: Client, after: Client) -> None:
        """ClientChangedError: it isn't as `before` any more. StoreError."""
        await self._write(after, before.dump())

    async def every(self) -> list[Client]:
        """All of them, by name. StoreError: a node can't be asked."""
        await self._nodes.refresh()
        if not self._nodes.topology.primaries():
            raise StoreError(f"the store is unreachable: {self._nodes.error}")
        found: dict[str, Client] = {}
        for address in self._nodes.topology.primaries():
            client = self._nodes.client(address)
            try:
                async with asyncio.timeout(SCAN_TIMEOUT):
                    async for key in client.scan_iter("jwt:{*}:client:*", count=SCAN_COUNT):
                        text = await client.get(key)
                        if text is not None:
                            one = _load(text)
                            found[one.id] = one
            except (RedisError, OSError, TimeoutError) as error:
                raise StoreError(f"{node_name(address)}: {describe(error)}") from None
        return [found[name] for name in sorted(found)]

    async def _write(self, client: Client, before: str) -> None:
        bucket, key = self._place(client.id)
        ran = await self._runner.run(bucket, _SCRIPT, [key], [before, client.dump()])
        if not ran.replies[-1]:
            raise ClientChangedError(client.id)

    def _place(self, client_id: str) -> tuple[int, str]:
        bucket = bucket_of("client", client_id, self._buckets)
        digest = hashlib.sha256(client_id.encode(errors="surrogatepass")).digest()
        name = urlsafe_b64encode(digest).rstrip(b"=").decode()
        return bucket, f"jwt:{{{bucket}}}:client:{name}"


def _load(text: bytes | str, expected: str | None = None) -> Client:
    try:
        client = Client.load(text)
    except BadClientError as error:
        raise StoreError(f"a client's record can't be read: {error}") from None
    if expected is not None and client.id != expected:
        raise StoreError("a client's record stands under another client's key")
    return client
