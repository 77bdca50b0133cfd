"""Calls of scripts that don't come through."""

import asyncio
import contextlib
import time
from typing import Any

import pytest

from authz.revocation.redis import script
from authz.revocation.store import StoreError
from support.revocations import of_token, opened, token_ref
from support.valkey import ValkeyServer


async def test_a_call_ends_in_its_time_also_where_its_cancellation_is_swallowed(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py does with a connection that breaks just then: it was tried for ever after."""
    attempts = 0

    async def swallowing(self: script.ScriptRunner, bucket: int, call: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
        raise script._RetryableError("the connection broke")

    async with opened(valkey.url, write_timeout=0.2) as told:
        monkeypatch.setattr(script.ScriptRunner, "_at_primary", swallowing)
        started = time.monotonic()
        with pytest.raises(StoreError, match="the connection broke"):
            async with asyncio.timeout(3):
                await told.store.revoke_token(of_token(token_ref()))
        assert time.monotonic() - started < 0.2 + 0.5
        assert attempts == 1
