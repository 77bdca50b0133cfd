"""What a relay does about stores that go away, lose data, or can't be reached."""

import asyncio
import time
from typing import Any

import pytest
from pydantic import SecretStr
from relay.conftest import Regions, StartRelay

from authz.relay.cursor import cursor_key
from authz.relay.relay import Relay
from authz.relay.side import Side, Target
from authz.revocation.record import feed_key, tip_key
from authz.settings import StoreSettings
from support.proxy import TcpProxy
from support.relay import revocations, revoke, stream_lengths
from support.revocations import BUCKETS, of_token, of_user, opened, token_ref
from support.waiting import eventually


async def test_a_target_that_was_down_gets_what_it_missed(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Killed while entries come; the relay says so, counts what waits, and goes on by itself."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    async with opened(regions.east.url) as east:
        await revoke(east, 20)
        await eventually(lambda: relay.has_copied(20), "level")
        regions.west.kill()
        await revoke(east, 30)
        await eventually(
            lambda: (
                relay.metric("authz_relay_up", side="to") == 0
                and relay.metric("authz_relay_backlog") == 30
            ),
            "it says so",
        )
        assert relay.metric("authz_relay_up", side="from") == 1
        lag = relay.metric("authz_relay_lag_seconds")
        assert lag > 0
        await eventually(lambda: relay.metric("authz_relay_lag_seconds") > lag + 0.5, "it grows")
        await asyncio.to_thread(regions.west.restart)
        await eventually(lambda: relay.has_copied(50), "level again", timeout=20)
    assert revocations(regions.west) == revocations(regions.east)
    assert relay.metric("authz_relay_up", side="to") == 1
    assert relay.metric("authz_relay_lag_seconds") == relay.metric("authz_relay_backlog") == 0
    assert relay.metric("authz_relay_resyncs_total") == BUCKETS  # those of the first start
    (down,) = [one for one in relay.logged("relay_side_down") if one["side"] == "to"]
    assert down["error"]
    assert [one["side"] for one in relay.logged("relay_side_up")] == ["to"]


async def test_a_frozen_source_shows_as_lag_and_is_caught_up_with(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Nobody can tell whether something was revoked there, so the target counts as behind."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(relay.is_level, "level")
    regions.east.freeze()
    await eventually(
        lambda: (
            relay.metric("authz_relay_up", side="from") == 0
            and relay.metric("authz_relay_lag_seconds") > 2.5
            and not relay.is_level()
        ),
        "it says so",
    )
    regions.east.thaw()
    async with opened(regions.east.url) as east:
        await revoke(east, 5)
    await eventually(lambda: relay.has_copied(5), "level again")
    assert relay.metric("authz_relay_lag_seconds") == 0


async def test_a_source_that_was_emptied_takes_nothing_back(
    regions: Regions, start_relay: StartRelay
) -> None:
    """FLUSHALL, then new revocations: the target keeps the old and gets the new."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    async with opened(regions.east.url) as east:
        await revoke(east, 32)
        await eventually(lambda: relay.has_copied(32), "level")
        regions.east.command("FLUSHALL")
        await eventually(
            lambda: relay.metric("authz_relay_resyncs_total") == 2 * BUCKETS, "noticed"
        )
        await eventually(relay.is_level, "level with nothing")
        await revoke(east, 48)
        await eventually(lambda: relay.has_copied(80), "level with the new")
    assert len(revocations(regions.west)) == 80
    assert sum(stream_lengths(regions.west)) == 80


async def test_a_source_that_was_emptied_while_the_relay_was_away(
    regions: Regions, start_relay: StartRelay
) -> None:
    """As many new entries as old: only the epoch tells that these are others."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    async with opened(regions.east.url) as east:
        await revoke(east, 32)
        await eventually(lambda: relay.has_copied(32), "level")
        await asyncio.to_thread(relay.stop)
        regions.east.command("FLUSHALL")
        await revoke(east, 32)
    again = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(lambda: again.has_copied(32), "level")
    causes = {one["cause"] for one in again.logged("relay_starting_over")}
    assert causes == {"the source's history was replaced"}
    assert len(revocations(regions.west)) == 64


@pytest.mark.parametrize("left", [0, 1])
async def test_a_stream_that_was_trimmed_behind_the_cursor_is_made_up_for_by_the_keys(
    regions: Regions, start_relay: StartRelay, left: int
) -> None:
    """Entries that nobody can read any more still have their keys: with notes and expiry."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    async with opened(regions.east.url) as east:
        await revoke(east, 32)
        await eventually(lambda: relay.has_copied(32), "level")
        await asyncio.to_thread(relay.stop)
        await revoke(east, 64)
        await east.store.revoke_user(of_user(token_ref(), time.time(), reason="log-out"))
        for bucket in range(BUCKETS):
            regions.east.client.xtrim(feed_key(bucket), maxlen=left, approximate=False)
        await revoke(east, 16)
    again = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(lambda: again.has_copied(64 + 1 + 16), "level")
    assert revocations(regions.west) == revocations(regions.east)
    assert again.metric("authz_relay_scans_total") >= 1
    (scan,) = again.logged("relay_scanning")
    assert scan["buckets"] == list(range(BUCKETS))


async def test_a_stream_and_tip_that_somebody_deleted_are_made_up_for_by_the_keys(
    regions: Regions, start_relay: StartRelay
) -> None:
    async with opened(regions.east.url) as east:
        await revoke(east, 64)
    for bucket in range(BUCKETS):
        regions.east.command("DEL", feed_key(bucket), tip_key(bucket))
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(lambda: relay.has_copied(64), "level")
    assert revocations(regions.west) == revocations(regions.east)
    await asyncio.to_thread(relay.stop)
    again = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(again.is_level, "level")
    assert again.metric("authz_relay_scans_total") == 0, "the cursor says that it was done"


async def test_entries_deleted_out_of_the_middle_are_found_by_their_keys(
    regions: Regions, start_relay: StartRelay
) -> None:
    async with opened(regions.east.url) as east:
        await revoke(east, 64)
    second = regions.east.command("XRANGE", feed_key(3), "-", "+", "COUNT", 2)[1][0]
    regions.east.command("XDEL", feed_key(3), second)
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    await eventually(relay.is_level, "level")
    assert revocations(regions.west) == revocations(regions.east)


async def test_a_target_that_lost_its_data_gets_all_again(
    regions: Regions, start_relay: StartRelay
) -> None:
    """The cursor goes with the data, and the running relay believes the cursor."""
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url)
    async with opened(regions.east.url) as east:
        await revoke(east, 48)
        await eventually(lambda: relay.has_copied(48), "level")
        regions.west.command("FLUSHALL")
        await eventually(lambda: relay.has_copied(96), "all again")
        assert revocations(regions.west) == revocations(regions.east)
        assert {one["bucket"] for one in relay.logged("relay_cursor_changed")} == set(
            range(BUCKETS)
        )


async def test_an_unreadable_cursor_and_strange_entries_stop_nothing(
    regions: Regions, start_relay: StartRelay
) -> None:
    """What can't be read is counted; a cursor that can't be read is none."""
    async with opened(regions.east.url) as east:
        await east.store.revoke_token(of_token(token_ref(bucket=2)))
        last = regions.east.command("XADD", feed_key(2), "*", "seq", 2, "kind", "nonsense")
        regions.east.command("HSET", tip_key(2), "seq", 2, "id", last)
        await east.store.revoke_token(of_token(token_ref(bucket=2)))
    regions.west.client.hset(
        cursor_key(2, "x"), mapping={"epoch": b"\xff", "seq": "minus one", "id": b"\xff"}
    )
    relay = await asyncio.to_thread(start_relay, regions.east.url, regions.west.url, "--name", "x")
    await eventually(lambda: relay.has_copied(2), "level")
    assert relay.entries("unreadable") == 1


async def test_two_regions_cut_apart_and_joined_become_alike(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Revoking goes on in both while they are apart; relays that read over the line and write at
    home bring both level once it is back.
    """
    with TcpProxy(regions.east.port) as to_east, TcpProxy(regions.west.port) as to_west:
        there = await asyncio.to_thread(
            start_relay, f"redis://127.0.0.1:{to_east.port}", regions.west.url
        )
        back = await asyncio.to_thread(
            start_relay, f"redis://127.0.0.1:{to_west.port}", regions.east.url
        )
        async with opened(regions.east.url) as east, opened(regions.west.url) as west:
            await revoke(east, 16)
            await eventually(lambda: sum(stream_lengths(regions.west)) == 16, "there")
            for line in (to_east, to_west):
                await asyncio.to_thread(line.cut)
            await asyncio.gather(revoke(east, 160), revoke(west, 80))
            await eventually(
                lambda: (
                    there.metric("authz_relay_up", side="from") == 0
                    and back.metric("authz_relay_up", side="from") == 0
                ),
                "both say so",
            )
            for line in (to_east, to_west):
                await asyncio.to_thread(line.restore)
            joined = time.monotonic()

            def alike() -> bool:
                return [sum(stream_lengths(server)) for server in regions] == [256, 256]

            await eventually(alike, "alike", timeout=15)
            assert time.monotonic() - joined < 6
        assert revocations(regions.east) == revocations(regions.west)
        await eventually(lambda: there.is_level() and back.is_level(), "level")


async def test_a_line_that_loses_one_direction_is_found_out(
    regions: Regions, start_relay: StartRelay
) -> None:
    """Connections stay up and nothing comes back on them."""
    with TcpProxy(regions.east.port) as line:
        relay = await asyncio.to_thread(
            start_relay, f"redis://127.0.0.1:{line.port}", regions.west.url
        )
        await eventually(relay.is_level, "level")
        await asyncio.to_thread(line.block, "to_client")
        async with opened(regions.east.url) as east:
            await revoke(east, 10)
        await eventually(lambda: relay.metric("authz_relay_up", side="from") == 0, "it says so")
        await asyncio.to_thread(line.restore)
        await eventually(lambda: relay.has_copied(10), "level again", timeout=15)


async def test_it_starts_without_either_store(regions: Regions, start_relay: StartRelay) -> None:
    """And copies once they are there."""
    async with opened(regions.east.url) as east:
        await revoke(east, 3)
    with TcpProxy(regions.east.port) as line, TcpProxy(regions.west.port) as other:
        for one in (line, other):
            await asyncio.to_thread(one.cut)
        relay = await asyncio.to_thread(
            start_relay, f"redis://127.0.0.1:{line.port}", f"redis://127.0.0.1:{other.port}"
        )
        await eventually(lambda: len(relay.logged("relay_side_down")) == 2, "it says so")
        assert relay.http("/healthz").status_code == 200
        for one in (line, other):
            await asyncio.to_thread(one.restore)
        await eventually(lambda: relay.has_copied(3), "level", timeout=15)


async def test_nothing_is_read_ahead_of_a_target_that_refuses(
    regions: Regions, start_relay: StartRelay
) -> None:
    """A full target takes nothing: no more than a page of each bucket is read, again and again."""
    async with opened(regions.east.url) as east:
        await revoke(east, 8000)
    regions.west.client.config_set("maxmemory-policy", "noeviction")
    regions.west.client.config_set("maxmemory", 1)
    relay = await asyncio.to_thread(
        start_relay,
        regions.east.url,
        regions.west.url,
        settings={"store": {"write_timeout": "200ms"}},
    )
    await eventually(lambda: relay.metric("authz_relay_up", side="to") == 0, "it says so")
    memory = relay.metric("process_resident_memory_bytes")
    await eventually(lambda: relay.metric("authz_relay_failures_total", side="to") > 10, "tries")
    assert relay.metric("authz_relay_backlog") == 8000
    assert relay.metric("process_resident_memory_bytes") < memory + 8_000_000
    assert relay.entries("written") == 0
    regions.west.client.config_set("maxmemory", 0)
    await eventually(lambda: relay.has_copied(8000), "level", timeout=20)


async def test_it_stops_in_time_while_the_target_is_down(
    regions: Regions, start_relay: StartRelay
) -> None:
    """What is being written gets `drain_timeout`; the next relay begins it anew."""
    relay = await asyncio.to_thread(
        start_relay, regions.east.url, regions.west.url, settings={"drain_timeout": "200ms"}
    )
    await eventually(relay.is_level, "level")
    regions.west.freeze()
    async with opened(regions.east.url) as east:
        await revoke(east, 5)
    await eventually(lambda: relay.status()["copying"] == 5, "it tries")
    started = time.monotonic()
    assert await asyncio.to_thread(relay.stop) == 0
    assert time.monotonic() - started < 2.5
    assert not relay.logged("relay_failed")


async def test_an_error_of_our_own_costs_no_more_than_a_retry(
    regions: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In copying a stream, and in walking over keys."""
    source = Side("from", StoreSettings(url=SecretStr(regions.east.url)))
    target = Target(StoreSettings(url=SecretStr(regions.west.url)), "x")
    relay = Relay(source, target, clock=time.time, monotonic=time.monotonic)
    failures = dict.fromkeys(("copy", "sweep"), 0)

    def fail_once(name: str) -> None:
        real = getattr(relay._copier, name)

        async def failing(*arguments: Any) -> Any:
            if not failures[name]:
                failures[name] += 1
                raise RuntimeError("a mistake of ours")
            return await real(*arguments)

        monkeypatch.setattr(relay._copier, name, failing)

    fail_once("copy")
    fail_once("sweep")
    async with opened(regions.east.url) as east:
        await revoke(east, 5)  # the other buckets have no stream, and so are looked for by keys
    relay.start()
    try:
        await eventually(lambda: relay.level, "level")
    finally:
        await relay.aclose(1.0)
    assert failures == {"copy": 1, "sweep": 1}
    assert revocations(regions.west) == revocations(regions.east)
