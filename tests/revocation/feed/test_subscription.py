"""How long a subscription's beginning may take, whatever the library makes of being cancelled."""

import asyncio

import pytest

from authz.revocation.feed.subscription import _within


async def test_a_beginning_that_swallows_its_cancellation_is_given_up_in_time() -> None:
    """As redis-py can while it connects: what is behind it must not wait for ever."""
    released = asyncio.Event()
    went_on = asyncio.Event()

    async def begin() -> None:
        try:
            await released.wait()
        except asyncio.CancelledError:
            went_on.set()
            await released.wait()

    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError, match="no answer within"):
            await _within(begin(), 0.05)
        await went_on.wait()
        released.set()


async def test_what_ends_in_time_ends_as_it_did() -> None:
    async def fail() -> None:
        raise ConnectionError("refused")

    await _within(asyncio.sleep(0), 5)
    with pytest.raises(ConnectionError, match="refused"):
        await _within(fail(), 5)
