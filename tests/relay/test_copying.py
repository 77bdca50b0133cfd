"""A relay at work between two real servers: what arrives, and that nothing comes back."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from relay.conftest import Regions, StartRelay

from authz.relay.cursor import cursor_key
from authz.revocation.record import Revoked, not_before_key, tip_key
from support.relay import RelayProcess, revocations, revoke, stream_lengths
from support.revocations import BUCKETS, of_token, of_user, opened, token_ref
from support.valkey import ValkeyServer
from support.waiting import eventually


async def test_what_was_and_what_is_revoked_arrives_with_note_and_expiry(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Key by key the same value and the same expiry, tokens and users."""
    async with opened(regions.east.url) as east:
        await revoke(east, 20)
        await east.store.revoke_token(of_token(token_ref(), userless=True))
        relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
        await eventually(relay.is_level, "level with what was there")
        await revoke(east, 5)
        await east.store.revoke_user(of_user(token_ref(), time.time(), reason="a \u2603 'reason'"))
        await eventually(lambda: relay.has_copied(20 + BUCKETS + 6), "level with what came")
    assert revocations(regions.west) == revocations(regions.east)
    assert stream_lengths(regions.west) == stream_lengths(regions.east)
    assert relay.entries("repeated") == relay.entries("unreadable") == 0
    assert relay.metric("authz_relay_backlog") == relay.metric("authz_relay_lag_seconds") == 0


async def test_a_push_is_copied_at_once(regions: Regions, start_relay: StartRelay) -> None:
    """Well before the comparison of every second."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(relay.is_level, "level")
    async with opened(regions.east.url) as east, opened(regions.west.url) as west:
        times = []
        for _ in range(10):
            ref = token_ref()
            await east.store.revoke_token(of_token(ref))
            started = time.monotonic()
            while not isinstance(await west.find(ref), Revoked):
                assert time.monotonic() - started < 5
                await asyncio.sleep(0.001)
            times.append(time.monotonic() - started)
    assert sorted(times)[5] < 0.3, times


async def test_both_ways_at_once_make_no_loop(regions: Regions, start_relay: StartRelay) -> None:
    """Each store gets what the other has, once: the streams have as many entries as there are
    revocations, and no more come.
    """
    there = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    back = await asyncio.to_thread(start_relay, regions.west.url, regions.east.url)
    ref = token_ref(bucket=3)
    async with opened(regions.east.url) as east, opened(regions.west.url) as west:
        await asyncio.gather(revoke(east, 48), revoke(west, 32))
        await asyncio.gather(  # the same one on both sides
            east.store.revoke_token(of_token(ref)), west.store.revoke_token(of_token(ref))
        )

        def all_are_there() -> bool:
            lengths = [sum(stream_lengths(server)) for server in regions]
            return lengths == [81, 81] and there.is_level() and back.is_level()

        await eventually(all_are_there, "both have all")
        repeated = [there.entries("repeated"), back.entries("repeated")]
        await asyncio.sleep(1.5)  # more than one further comparison: nothing is to happen
        assert all_are_there()
    assert revocations(regions.east).keys() == revocations(regions.west).keys()
    assert len(revocations(regions.east)) == 81
    assert there.entries("written") + back.entries("written") == 80
    # Each read back what it had sent, and the one that both had; a slow call is made again.
    assert repeated == [there.entries("repeated"), back.entries("repeated")]
    assert repeated[0] >= 32 + 1
    assert repeated[1] >= 48 + 1


async def test_of_a_users_cutoffs_the_latest_counts_in_both_regions(
    regions: Regions, start_relay: StartRelay
) -> None:
    ref, now = token_ref(bucket=5), time.time()
    async with opened(regions.east.url) as east, opened(regions.west.url) as west:
        await east.store.revoke_user(of_user(ref, now - 100, reason="early"))
        await west.store.revoke_user(of_user(ref, now, reason="late"))
        there = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
        back = await asyncio.to_thread(start_relay, regions.west.url, regions.east.url)
        await eventually(lambda: there.is_level() and back.is_level(), "level")
    values = [server.command("GET", not_before_key(5, ref.user)) for server in regions]
    assert values[0] == values[1]
    assert b"late" in values[0]
    assert [sum(stream_lengths(server)) for server in regions] == [2, 1]


async def test_what_has_expired_is_left_out(regions: Regions, start_relay: StartRelay) -> None:
    """The store keeps a revocation for 60 seconds beyond the token's end."""
    async with opened(regions.east.url) as east:
        await revoke(east, 3, lifetime=-59)
        await eventually(lambda: not revocations(regions.east), "expired")
        await revoke(east, 2)
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(lambda: relay.has_copied(2), "level")
    assert relay.entries("expired") == 3
    assert len(revocations(regions.west)) == sum(stream_lengths(regions.west)) == 2


async def test_it_goes_on_where_it_was_killed(regions: Regions, start_relay: StartRelay) -> None:
    """Kill -9, revocations meanwhile, and a new one copies just these."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    async with opened(regions.east.url) as east:
        await revoke(east, 40)
        await eventually(lambda: relay.has_copied(40), "level")
        relay.process.kill()
        await revoke(east, 10)
        again = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
        await eventually(lambda: again.has_copied(10), "level")
    assert again.entries("repeated") == again.metric("authz_relay_resyncs_total") == 0
    assert revocations(regions.west) == revocations(regions.east)


async def test_a_kill_in_the_middle_loses_nothing(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Killed again and again while it copies: at worst entries are written twice."""
    async with opened(regions.east.url) as east:
        await revoke(east, 3000)
    for _ in range(4):
        before = sum(stream_lengths(regions.west))
        relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
        await eventually(partial(has_more_than, min(before, 2999), regions.west), "copying")
        relay.process.kill()
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(relay.is_level, "level", timeout=20)
    assert revocations(regions.west) == revocations(regions.east)
    assert sum(stream_lengths(regions.west)) == 3000


def has_more_than(entries: int, server: ValkeyServer) -> bool:
    return sum(stream_lengths(server)) > entries


async def test_it_stops_in_order(regions: Regions, start_relay: StartRelay) -> None:
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(relay.is_level, "level")
    assert await asyncio.to_thread(relay.stop) == 0
    assert [one["event"] for one in relay.events()][-2:] == ["draining", "stopped"]


async def test_the_cursor_stands_in_the_target_in_the_buckets_slot(
    regions: Regions, start_relay: StartRelay
) -> None:
    """And the source is only read."""
    regions.east.reset_counts()
    relay = await asyncio.to_thread(
        start_relay, regions.east.url, regions.west.url, "--name", "from-east"
    )
    async with opened(regions.east.url) as east:
        await east.store.revoke_token(of_token(token_ref(bucket=7)))
        await eventually(lambda: relay.has_copied(1), "level")
    epoch, last = regions.east.command("HMGET", tip_key(7), "epoch", "id")
    key = cursor_key(7, "from-east")
    assert key == "jwt:{7}:relay:from-east"
    assert regions.west.client.hgetall(key) == {b"epoch": epoch, b"seq": b"1", b"id": last}
    assert not regions.east.command("EXISTS", key)


@pytest.mark.parametrize("source_has", [8, 32])
async def test_stores_with_different_numbers_of_buckets_are_refused(
    regions: Regions, tmp_path: Path, source_has: int
) -> None:
    """In one line that says both numbers, with nothing written."""
    async with opened(regions.east.url, buckets=source_has) as east:
        await east.store.revoke_token(of_token(token_ref(bucket=1)))
    relay = RelayProcess(tmp_path / "relay", regions.east.url, regions.west.url)
    relay.process.start()
    assert await asyncio.to_thread(relay.process.wait) == 2
    last = relay.process.log_text().splitlines()[-1]
    assert last.startswith("authz: store.buckets is 16, but the store to copy from was written ")
    assert f"with {source_has}" in last
    assert regions.west.command("DBSIZE") == 0


async def test_word_of_withdrawn_keys_goes_both_ways_and_comes_to_rest(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Sidecars of the other region fetch their keys, too. The higher number is in both at the end,
    and neither relay goes on telling the other.
    """

    def numbers(server: ValkeyServer) -> set[bytes | None]:
        return {server.command("HGET", tip_key(bucket), "keys") for bucket in range(BUCKETS)}

    async with opened(regions.east.url) as east, opened(regions.west.url) as west:
        now = int(time.time())
        await east.store.announcements.announce(now)
        await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
        await eventually(lambda: numbers(regions.west) == {b"%d000" % now}, "there")
        await asyncio.to_thread(start_relay, regions.west.url, regions.east.url)
        await west.store.announcements.announce(now + 1)
        await eventually(lambda: numbers(regions.east) == {b"%d000" % (now + 1)}, "and back")

        async def is_at_rest() -> bool:
            for server in regions:
                server.reset_counts()
            await eventually(
                lambda: all(server.command_counts()["hmget"] > 2 * BUCKETS for server in regions),
                "a comparison more on either side",
            )
            return not any(server.command_counts()["evalsha"] for server in regions)

        await eventually(is_at_rest, "nobody tells the other any more")
        assert numbers(regions.west) == numbers(regions.east) == {b"%d000" % (now + 1)}
