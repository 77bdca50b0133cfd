"""The Lua script alone, on a real cluster: what one call of it does."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from authz.revocation.entry import Entry
from authz.revocation.feed.position import FIELDS, Push, Tip
from authz.revocation.record import blacklist_key, feed_key, not_before_key, tip_key
from authz.revocation.redis.writer import MAX_ENTRIES, REVOKE
from support.cluster import Node, ValkeyCluster
from support.waiting import wait_until

BUCKET = 3
FEED = feed_key(BUCKET)
TIP = tip_key(BUCKET)
TOKEN_KEY = blacklist_key(BUCKET, "U", "T")
USER_KEY = not_before_key(BUCKET, "U")
DAY = 86_400_000


@pytest.fixture
def master(cluster: ValkeyCluster) -> Node:
    return cluster.master_of(BUCKET)


def in_ms(seconds: float) -> int:
    return round((time.time() + seconds) * 1000)


@pytest.fixture
def heard(cluster: ValkeyCluster, master: Node) -> Iterator["Heard"]:
    """A subscriber at another node: PUBLISH reaches those of the whole cluster."""
    elsewhere = next(node for node in cluster.masters if node is not master)
    heard = Heard(elsewhere)
    yield heard
    heard.close()


class Heard:
    """What is pushed on the bucket's channel."""

    def __init__(self, node: Node) -> None:
        self._subscription = node.client.pubsub(  # type: ignore[no-untyped-call]
            ignore_subscribe_messages=True
        )
        self._subscription.subscribe(FEED)
        wait_until(lambda: node.client.pubsub_numsub(FEED)[0][1] == 1, "subscribed")
        self._messages: list[dict[str, Any]] = []

    def push_of(self, last_id: str) -> dict[str, Any]:
        """The push that ends with this entry. What an earlier test published may still come in."""

        def arrived() -> bool:
            message = self._subscription.get_message()
            if message:
                self._messages.append(json.loads(message["data"]))
            return any(one["entries"][-1]["id"] == last_id for one in self._messages)

        wait_until(arrived, "published")
        return self._messages[-1]

    def count_of(self, epoch: str) -> int:
        return sum(one["epoch"] == epoch for one in self._messages)

    def close(self) -> None:
        self._subscription.close()


def revoke(node: Node, *entries: Entry, keep: int = DAY) -> Any:
    """What the script returns: for each entry whether it was written, and the cut-off in force."""
    keys = [FEED, TIP, *(key for entry in entries for key in entry.keys(BUCKET))]
    arguments = [text for entry in entries for text in entry.arguments()]
    return node.command("EVAL", REVOKE.source, len(keys), *keys, keep, 16, *arguments)


def a_token(expires: int, note: str = "note", token: str = "T") -> Entry:
    return Entry("token", "U", token, 0, expires, note)


def a_user(cut: int, expires: int, note: str = "note") -> Entry:
    return Entry("user", "U", "", cut, expires, note)


def revoke_token(node: Node, expires: int, note: str = "note", keep: int = DAY) -> Any:
    (result,) = revoke(node, a_token(expires, note), keep=keep)
    return result


def revoke_user(node: Node, cut: int, expires: int, note: str = "note") -> Any:
    (result,) = revoke(node, a_user(cut, expires, note))
    return result


def tip(node: Node) -> Tip:
    return Tip.of_reply(node.command("HMGET", TIP, *FIELDS))


def numbers(node: Node) -> list[int]:
    """`seq` of each entry of the stream; 0 where it has none."""
    return [int(fields.get(b"seq", 0)) for _, fields in entries(node)]


def entries(node: Node, oldest: int = 0) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Id and fields of each, from `oldest` (milliseconds since 1970) on."""
    found: Any = node.client.xrange(FEED, min=oldest)
    assert isinstance(found, list)
    return found


def test_one_call_writes_key_stream_and_tip_and_publishes(master: Node, heard: Heard) -> None:
    expires = in_ms(100)
    assert revoke_token(master, expires) == [1, b"0"]
    assert master.client.get(TOKEN_KEY) == b"note"
    assert master.client.pexpiretime(TOKEN_KEY) == expires
    expected = {
        b"seq": b"1", b"kind": b"token", b"user": b"U", b"token": b"T", b"before": b"",
        b"expires": b"%d" % expires, b"note": b"note",
    }  # fmt: skip
    ((entry_id, fields),) = entries(master)
    assert fields == expected
    now = tip(master)
    assert now == Tip(now.epoch, 1, entry_id.decode(), first=1)
    assert len(now.epoch) == 16
    assert master.client.hlen(TIP) == len(FIELDS) + 1  # and `buckets`
    assert heard.push_of(entry_id.decode()) == {
        "epoch": now.epoch, "prev": "", "entries": [{
            "id": entry_id.decode(), "seq": "1", "kind": "token", "user": "U", "token": "T",
            "before": "", "expires": str(expires),
        }],
    }  # fmt: skip


def test_several_entries_of_one_call_are_written_together_and_pushed_once(
    master: Node, heard: Heard
) -> None:
    """Each has its own answer, those that were there already among them."""
    now, expires = in_ms(0), in_ms(100)
    revoke(master, a_token(expires, token="T1"))
    first = tip(master)
    heard.push_of(first.id)
    epoch = tip(master).epoch
    before = heard.count_of(epoch)
    results = revoke(
        master,
        a_token(expires, token="T1"),
        a_token(expires, token="T2"),
        a_user(now, expires),
        a_token(expires, token="T3"),
    )
    assert results == [[0, b"0"], [1, b"0"], [1, b"%d" % now], [1, b"0"]]
    assert numbers(master) == [1, 2, 3, 4]
    last = tip(master)
    assert (last.epoch, last.seq, last.first) == (first.epoch, 4, 1)
    push = heard.push_of(last.id)
    assert heard.count_of(epoch) == before + 1
    assert push["prev"] == first.id
    said = Push.of_message(push)
    assert (said.first, said.last) == (2, Tip(first.epoch, 4, last.id))
    assert [(e.kind, e.token, e.before, e.expires) for e in said.entries] == [
        ("token", "T2", 0, expires),
        ("user", "", now, expires),
        ("token", "T3", 0, expires),
    ]


def test_the_same_token_twice_in_one_call_is_one_revocation(master: Node) -> None:
    expires = in_ms(100)
    assert revoke(master, a_token(expires), a_token(expires)) == [[1, b"0"], [0, b"0"]]
    assert numbers(master) == [1]


def test_entries_are_numbered_without_a_gap(master: Node) -> None:
    """Whatever is repeated in between, and up to the largest call there may be."""
    expires = in_ms(100)
    for call in range(3):
        tokens = [a_token(expires, token=f"T{call}-{n}") for n in range(MAX_ENTRIES)]
        revoke(master, *tokens)
        revoke(master, *tokens)
    found = entries(master)
    assert numbers(master) == [*range(1, 3 * MAX_ENTRIES + 1)]
    assert tip(master).id == found[-1][0].decode()
    assert tip(master).seq == len(found)


def test_each_push_names_the_entry_before_it(master: Node, heard: Heard) -> None:
    prev = ""
    for n in range(3):
        revoke(master, a_token(in_ms(100), token=f"T{n}"))
        push = heard.push_of(tip(master).id)
        assert push["prev"] == prev
        prev = push["entries"][-1]["id"]


def test_where_nothing_is_new_nothing_is_pushed_and_the_tip_stays(
    master: Node, heard: Heard
) -> None:
    expires = in_ms(100)
    revoke(master, a_token(expires))
    before = master.client.hgetall(TIP)
    revoke(master, a_token(expires))
    assert master.client.hgetall(TIP) == before
    revoke(master, a_token(expires, token="T2"))
    heard.push_of(tip(master).id)
    assert heard.count_of(tip(master).epoch) == 2


def test_without_a_tip_a_new_epoch_begins(master: Node) -> None:
    """Someone emptied the store: whoever followed it must see that its history is gone."""
    revoke_token(master, in_ms(100))
    first = tip(master)
    master.client.delete(TIP, FEED, TOKEN_KEY)
    revoke_token(master, in_ms(100))
    second = tip(master)
    assert first.epoch != second.epoch
    assert (second.seq, second.first) == (1, 1)


@pytest.mark.parametrize("field", ["epoch", "seq", "id"])
def test_a_tip_that_lacks_a_field_is_no_tip(master: Node, field: str) -> None:
    revoke_token(master, in_ms(100))
    epoch = tip(master).epoch
    master.client.hdel(TIP, field)
    revoke(master, a_token(in_ms(100), token="T2"))
    assert tip(master).epoch != epoch
    assert tip(master).seq == 1


def test_a_stream_from_before_entries_were_numbered_is_gone_on_with(
    master: Node, heard: Heard
) -> None:
    """Its old entries have no number, so it doesn't begin with `first`: it isn't whole."""
    master.client.xadd(FEED, {"kind": "token", "user": "U", "token": "old", "before": ""})
    revoke(master, a_token(in_ms(100), token="T1"))
    revoke(master, a_token(in_ms(100), token="T2"))
    assert numbers(master) == [0, 1, 2]
    assert (tip(master).seq, tip(master).first) == (2, 0)
    assert heard.push_of(tip(master).id)["entries"][0]["seq"] == "2"


@pytest.mark.parametrize("left", [0, 2])
def test_a_stream_that_somebody_cut_never_looks_whole_again(master: Node, left: int) -> None:
    """Not before all that was cut off has expired."""
    for number in range(5):
        revoke(master, a_token(in_ms(100), token=f"T{number}"))
    master.command("XTRIM", FEED, "MAXLEN", left)
    revoke(master, a_token(in_ms(100), token="later"))
    assert (tip(master).seq, tip(master).first) == (6, 1)
    assert numbers(master)[0] == 6 - left


def test_what_replaces_a_lost_entry_has_another_id_also_where_the_clock_is_behind(
    master: Node,
) -> None:
    """A failover lost the last entry, and the new primary's clock is behind. Redis would give the
    next entry the id that the lost one had, and who knows that one would miss this one.
    """
    revoke(master, a_token(in_ms(100), token="T1"))
    ahead = in_ms(60)
    master.client.hset(TIP, "id", f"{ahead}-7")
    ids = set()
    for token in ("T2", "T3"):
        kept = {name: master.client.dump(name) for name in (FEED, TIP)}
        revoke(master, a_token(in_ms(100), token=token))
        ids.add(tip(master).id)
        for name, copy in kept.items():
            assert isinstance(copy, bytes)
            master.client.restore(name, 0, copy, replace=True)
    assert len(ids) == 2
    assert {one.partition("-")[0] for one in ids} == {str(ahead)}


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
    assert revoke_token(master, expires + later * 1000) == [0, b"0"]
    assert master.client.pexpiretime(TOKEN_KEY) == max(expires, expires + later * 1000)


def test_to_prolong_a_tokens_revocation_is_an_entry_of_its_own(master: Node, heard: Heard) -> None:
    """Or those who know it by the hour in which it may be forgotten would forget it too soon."""
    revoke_token(master, in_ms(100), "first")
    expires = in_ms(200)
    assert revoke_token(master, expires, "second") == [0, b"0"]
    assert master.client.get(TOKEN_KEY) == b"first"
    assert numbers(master) == [1, 2]
    push = heard.push_of(tip(master).id)
    assert [(e["token"], e["expires"]) for e in push["entries"]] == [("T", str(expires))]


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
    """By whole nodes of the stream (`~`), so a few old entries may stay; young ones always do.
    The tip says which is the oldest that is left.
    """
    pipeline = master.client.pipeline(transaction=False)
    for number in range(1, 1001):
        pipeline.xadd(FEED, {"seq": number}, id=f"{in_ms(-2000) + number}-0")
    for number in range(1001, 1011):
        pipeline.xadd(FEED, {"seq": number}, id=f"{in_ms(-100) + number}-0")
    pipeline.hset(TIP, mapping={"epoch": "E", "seq": 1010, "id": "1-0", "first": 1})
    pipeline.execute()
    revoke_token(master, in_ms(100), keep=1_000_000)
    left = numbers(master)
    assert 11 <= len(left) < 211
    assert left == [*range(left[0], 1012)]
    assert tip(master).first == left[0] > 1
    assert tip(master).epoch == "E"


def test_a_token_that_expires_in_the_far_future_is_written(master: Node) -> None:
    """2**53 seconds, the latest `exp` that a token may name."""
    expires = (2**53 + 60) * 1000
    assert revoke_token(master, expires) == [1, b"0"]
    assert master.client.get(TOKEN_KEY) == b"note"
    assert master.client.pexpiretime(TOKEN_KEY) > in_ms(1e9)
