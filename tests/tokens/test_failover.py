"""A master is killed while tokens are issued and refreshed at a constant rate."""

import asyncio
import time

from authz.revocation.store import StoreError
from authz.tokens.grant import Issued, RefreshRefused
from support.cluster import ValkeyCluster
from support.revocations import new_subject
from support.tokens import Service, a_note, serving
from support.waiting import eventually

USERS = 12
"""Four for each master."""
PACE = 0.05
"""Seconds between two calls for one user: 240 a second for all."""


class Tab:
    """One user, who logs in once and refreshes ever after."""

    def __init__(self, service: Service, bucket: int) -> None:
        self.subject = new_subject(bucket)
        self.acknowledged: list[Issued] = []
        self.errors: list[StoreError] = []
        self.refused: list[RefreshRefused] = []
        self._service = service

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._once()
            except StoreError as error:
                self.errors.append(error)
            await asyncio.sleep(PACE)

    async def _once(self) -> None:
        if not self.acknowledged:
            self.acknowledged.append(await self._service.log_in(self.subject))
            return
        result = await self._service.refresh(self.acknowledged[-1])
        if isinstance(result, Issued):
            self.acknowledged.append(result)
        else:
            self.refused.append(result)


async def test_nothing_acknowledged_is_lost_when_a_master_is_killed_under_load(
    cluster: ValkeyCluster,
) -> None:
    """No refresh token that was given out is unknown afterwards, none counts as used that wasn't,
    and each session knows its latest access token, so that it can be ended.
    """
    stop = asyncio.Event()
    async with serving(cluster.url) as service:
        tabs = [Tab(service, bucket) for bucket in range(USERS)]
        running = [asyncio.create_task(tab.run(stop)) for tab in tabs]
        await eventually(lambda: all(len(tab.acknowledged) > 3 for tab in tabs), "all refreshed")
        victim = cluster.master_of(0)
        await asyncio.to_thread(cluster.kill, victim)
        await asyncio.to_thread(cluster.wait_failover, victim)
        counts = [len(tab.acknowledged) for tab in tabs]
        await eventually(
            lambda: all(len(t.acknowledged) > n for t, n in zip(tabs, counts, strict=True)),
            "all go on",
        )
        stop.set()
        await asyncio.gather(*running)
        assert [tab.refused for tab in tabs if tab.refused] == []
        for tab in tabs:
            last = await service.refreshed(tab.acknowledged[-1])
            await service.issuer.end_session(tab.subject, last.sid or "", a_note(), time.time())
            assert not any(await service.is_good(last, *tab.acknowledged[-20:]))
