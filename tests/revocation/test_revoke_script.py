"""The Lua script alone, on a real cluster: what one call of it does."""

import json
import time
from importlib import resources
from typing import Any

import pytest

from authz.revocation.record import blacklist_key, feed_key, not_before_key
from support.cluster import Node, ValkeyCluster
from support.waiting import wait_until

SCRIPT = resources.files("authz.revocation").joinpath("revoke.lua").read_text()
BUCKET = 3
FEED = feed_key(BUCKET)
TOKEN_KEY = blacklist_key(BUCKET, "U", "T")
USER_KEY = not_before_key(BUCKET, "U")
DAY = 86_400_000


@pytest.fixture
def master(cluster: ValkeyCluster) -> Node:
    return cluster.master_of(BUCKET)


def in_ms(seconds: float) -> int:
    return round((time.time() + seconds) * 1000)


def revoke_token(node: Node, expires: int, note: str = "note", keep: int = DAY) -> Any:
    return node.command(
        "EVAL", SCRIPT, 2, TOKEN_KEY, FEED, "token", note, expires, "", "U", "T", keep
    )


def revoke_user(node: Node, cut: int, expires: int, note: str = "note") -> Any:
    return node.command("EVAL", SCRIPT, 2, USER_KEY, FEED, "user", note, expires, cut, "U", "", DAY)


def entries(node: Node, oldest: int = 0) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Id and fields of each, from `oldest` (milliseconds since 1970) on."""
    found: Any = node.client.xrange(FEED, min=oldest)
    assert isinstance(found, list)
    return found


def test_one_call_writes_the_key_and_the_stream_and_publishes(
    cluster: ValkeyCluster, master: Node
) -> None:
    """A subscriber hears of it on any node of the cluster."""
    elsewhere = next(node for node in cluster.masters if node is not master)
    subscription = elsewhere.client.pubsub(  # type: ignore[no-untyped-call]
        ignore_subscribe_messages=True
    )
    subscription.subscribe(FEED)
    wait_until(lambda: elsewhere.client.pubsub_numsub(FEED)[0][1] == 1, "subscribed")
    expires = in_ms(100)
    assert revoke_token(master, expires) == [1, b"0"]
    assert master.client.get(TOKEN_KEY) == b"note"
    assert master.client.pexpiretime(TOKEN_KEY) == expires
    expected = {
        b"kind": b"token", b"user": b"U", b"token": b"T", b"before": b"",
        b"expires": b"%d" % expires, b"note": b"note",
    }  # fmt: skip
    ((entry_id, fields),) = entries(master)
    assert fields == expected
    heard: list[dict[str, Any]] = []

    def published() -> bool:
        """What an earlier test published may still come in from the other nodes."""
        message = subscription.get_message()
        said = json.loads(message["data"]) if message else {}
        if said.get("id") == entry_id.decode():
            heard.append(said)
        return bool(heard)

    wait_until(published, "published")
    subscription.close()
    assert heard[0] == {
        "id": entry_id.decode(), "kind": "token", "user": "U", "token": "T", "before": "",
        "expires": str(expires),
    }  # fmt: skip


def test_repeating_it_keeps_the_first_note_and_adds_no_entry(master: Node) -> None:
    expires = in_ms(100)
    assert revoke_token(master, expires, "first") == [1, b"0"]
    assert revoke_token(master, expires, "second") == [0, b"0"]
    assert master.client.get(TOKEN_KEY) == b"first"
    assert len(entries(master)) == 1


def test_repeating_it_is_a_write_all_the_same(master: Node) -> None:
    """Or the WAIT after it would speak of nothing: the first one may not have been replicated."""
    expires = in_ms(100)
    revoke_token(master, expires)
    before = master.role()[1]
    revoke_token(master, expires)
    assert master.role()[1] > before


@pytest.mark.parametrize("later", [-50, 50])
def test_a_repeat_never_shortens_a_tokens_revocation(master: Node, later: int) -> None:
    revoke_token(master, in_ms(100))
    expires = master.client.pexpiretime(TOKEN_KEY)
    revoke_token(master, expires + later * 1000)
    assert master.client.pexpiretime(TOKEN_KEY) == max(expires, expires + later * 1000)


def test_a_cut_off_is_never_lowered(master: Node) -> None:
    now, later = in_ms(0), in_ms(1000)
    assert revoke_user(master, now, later, "first") == [1, b"%d" % now]
    assert revoke_user(master, now - 5000, later - 5000, "earlier") == [0, b"%d" % now]
    assert revoke_user(master, now, later, "same") == [0, b"%d" % now]
    assert master.client.get(USER_KEY) == b"%d first" % now
    assert master.client.pexpiretime(USER_KEY) == later
    assert len(entries(master)) == 1


def test_of_two_cut_offs_the_latest_counts(master: Node) -> None:
    now = in_ms(0)
    revoke_user(master, now - 5000, in_ms(50), "earlier")
    assert revoke_user(master, now, in_ms(100), "later") == [1, b"%d" % now]
    assert master.client.get(USER_KEY) == b"%d later" % now
    assert [fields[b"before"] for _, fields in entries(master)] == [
        b"%d" % (now - 5000),
        b"%d" % now,
    ]


def test_the_stream_is_trimmed_by_age(master: Node) -> None:
    """By whole nodes of the stream (`~`), so a few old entries may stay; young ones always do."""
    pipeline = master.client.pipeline(transaction=False)
    for number in range(1000):
        pipeline.xadd(FEED, {"n": number}, id=f"{in_ms(-2000) + number}-0")
    for number in range(10):
        pipeline.xadd(FEED, {"n": number}, id=f"{in_ms(-100) + number}-0")
    pipeline.execute()
    revoke_token(master, in_ms(100), keep=1_000_000)
    assert 11 <= master.client.xlen(FEED) < 211
    assert len(entries(master, in_ms(-1000))) == 11


def test_a_token_that_expires_in_the_far_future_is_written(master: Node) -> None:
    """2**53 seconds, the latest `exp` that a token may name."""
    expires = (2**53 + 60) * 1000
    assert revoke_token(master, expires) == [1, b"0"]
    assert master.client.get(TOKEN_KEY) == b"note"
    assert master.client.pexpiretime(TOKEN_KEY) > in_ms(1e9)
