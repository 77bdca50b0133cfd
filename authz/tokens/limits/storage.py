"""The counters of the library `limits`, in the same Redis as everything else."""

from typing import Any

from limits.aio.storage import RedisClusterStorage, RedisStorage, Storage
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from authz.revocation.redis.client import connector, node_options
from authz.settings import StoreSettings, store_url_parts

PREFIX = "jwt:limits"
"""Of the keys, which carry a hash tag of their own: counters are spread over the whole cluster."""


def open_storage(settings: StoreSettings) -> Storage | None:
    """The shared counters; None for `memory://`. It connects when it is first used.

    SettingsError: a password or certificate that can't be read.
    """
    scheme, nodes, _ = store_url_parts(settings)
    if scheme == "memory":
        return None
    if not scheme.endswith("+cluster"):
        client = connector(settings)(nodes[0])
        pool: Any = client.connection_pool
        return RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=PREFIX, connection_pool=pool
        )
    hosts = ",".join(f"{host}:{port}" for host, port in nodes)
    options: dict[str, Any] = {
        **node_options(settings),
        # Once more after the map was read again. What fails then falls to the local counters.
        "retry": Retry(NoBackoff(), 1),
        "require_full_coverage": False,
    }
    return RedisClusterStorage(
        f"async+redis+cluster://{hosts}", implementation="redispy", key_prefix=PREFIX, **options
    )


async def close_storage(storage: Storage | None) -> None:
    """Let go of its connections. The library has no way of its own for that."""
    if not isinstance(storage, RedisStorage):
        return
    client: Any = storage.bridge.get_connection()  # type: ignore[attr-defined]
    if isinstance(storage, RedisClusterStorage):
        await client.aclose()
    else:
        await client.aclose(close_connection_pool=True)
