"""What the tip says of its stream: written by each revocation, read by those who follow."""

import time

import pytest

from authz.revocation.entry import Entry
from authz.revocation.feed.position import FIELDS, Tip
from authz.revocation.record import feed_key, not_before_key, tip_key
from authz.revocation.store import StoreError
from support.revocations import BUCKETS, of_token, of_user, opened, token_ref
from support.valkey import ValkeyServer

BUCKET = 3


def tip_of(server: ValkeyServer) -> Tip:
    return Tip.of_reply(server.command("HMGET", tip_key(BUCKET), *FIELDS))


async def revoke(server: ValkeyServer, count: int, *, buckets: int = BUCKETS) -> None:
    async with opened(server.url, buckets=buckets) as told:
        for _ in range(count):
            await told.store.revoke_token(of_token(token_ref(bucket=BUCKET)))


async def test_it_says_over_how_many_buckets_users_were_spread(valkey: ValkeyServer) -> None:
    await revoke(valkey, 1, buckets=48)
    assert valkey.command("HGET", tip_key(BUCKET), "buckets") == b"48"


async def test_the_first_entry_is_that_of_the_epoch_until_age_trims_it(
    valkey: ValkeyServer,
) -> None:
    """Trimming by age takes whole nodes of a stream; here each has one entry."""
    valkey.client.config_set("stream-node-max-entries", 1)
    await revoke(valkey, 3)
    assert tip_of(valkey).first == 1
    # Entries of two days ago, in an epoch of their own, then one of today.
    rows = valkey.command("XRANGE", feed_key(BUCKET), "-", "+")
    valkey.client.delete(feed_key(BUCKET))
    for number, (entry_id, values) in enumerate(rows):
        old = f"{int(entry_id.split(b'-')[0]) - 2 * 86_400_000}-{number}"
        words = [word for pair in values.items() for word in pair]
        valkey.command("XADD", feed_key(BUCKET), old, *words)
    await revoke(valkey, 1)
    assert tip_of(valkey).first == 4
    assert valkey.client.xlen(feed_key(BUCKET)) == 1


async def test_a_cut_by_somebody_else_does_not_pass_for_age(valkey: ValkeyServer) -> None:
    """The tip goes on to name an entry that isn't there, so that readers look at the keys."""
    await revoke(valkey, 5)
    valkey.client.xtrim(feed_key(BUCKET), maxlen=2, approximate=False)
    await revoke(valkey, 1)
    assert tip_of(valkey).first == 1
    valkey.client.delete(feed_key(BUCKET))
    await revoke(valkey, 1)
    assert (tip_of(valkey).first, tip_of(valkey).seq) == (1, 7)


@pytest.mark.parametrize("missing", ["+xadd", "+time", "+hset", "&jwt:*"])
async def test_a_call_that_broke_off_leaves_no_key_that_hides_it(
    valkey: ValkeyServer, missing: str
) -> None:
    """A script that fails half-way isn't rolled back. Repeated with the right it lacked, it writes
    the entry that everybody waits for.
    """
    all_but = ["allcommands", "allkeys", "allchannels"]
    all_but += ["resetchannels"] if missing == "&jwt:*" else [missing.replace("+", "-")]
    valkey.command("ACL", "SETUSER", "x", "on", ">pw", *all_but)
    ref = token_ref(bucket=BUCKET)
    async with opened(valkey.url_for("x", "pw")) as told:
        with pytest.raises(StoreError):
            await told.store.revoke_token(of_token(ref))
        valkey.command("ACL", "SETUSER", "x", "allcommands", "allchannels")
        assert not (await told.store.revoke_token(of_token(ref))).repeated
    last = valkey.command("XREVRANGE", feed_key(BUCKET), "+", "-", "COUNT", 1)[0][1]
    assert last[b"token"].decode() == ref.token


async def test_of_two_cutoffs_in_one_call_the_later_stands(valkey: ValkeyServer) -> None:
    """In whichever order: the second sees what the first decided."""
    ref, now = token_ref(bucket=BUCKET), time.time()
    entries = [Entry.of_user(of_user(ref, at)) for at in (now - 5, now, now - 9)]
    async with opened(valkey.url) as told:
        written = await told.store._writer.write(BUCKET, entries)
    assert written.repeated == [False, False, True]
    assert valkey.client.xlen(feed_key(BUCKET)) == 2
    value = valkey.client.get(not_before_key(BUCKET, ref.user))
    assert value == f"{entries[1].before} {entries[1].note}".encode()
    assert valkey.client.pexpiretime(not_before_key(BUCKET, ref.user)) == entries[1].expires
