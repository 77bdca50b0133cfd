"""How late the loop is."""

import asyncio
import math
import time

import pytest
from structlog.testing import capture_logs

from authz.observe import events, heartbeat
from authz.observe.heartbeat import Heartbeat
from support.waiting import eventually


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)


async def test_it_beats_while_the_loop_turns(quick: None) -> None:
    beating = Heartbeat()
    beating.start()
    try:
        await eventually(lambda: beating.lag.cumulative()[-1][1] >= 3, "three beats")
        assert not beating.hung
    finally:
        await beating.aclose()


async def test_a_loop_that_stood_still_shows_as_lag_and_in_the_log(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BLOCKED_OVER", 0.1)
    beating = Heartbeat()
    beating.start()
    with capture_logs() as logged:
        try:
            await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251  the fault that is to be seen
            await eventually(lambda: beating.lag.total > 0.1, "a late beat")
        finally:
            await beating.aclose()
    within = dict(beating.lag.cumulative())
    assert within[math.inf] > within[0.1]
    assert logged[0]["event"] == events.LOOP_BLOCKED


async def test_without_a_beat_for_long_the_loop_counts_as_hung(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beating = Heartbeat()
    assert not beating.hung
    monkeypatch.setattr(beating, "_beat_at", time.monotonic() - heartbeat.HUNG_AFTER - 0.01)
    assert beating.hung
