"""What the tip says of a stream's beginning, on a real server: that is how a reader sees whether
what is missing there has expired, or was cut by somebody.
"""

import time
from typing import Any

import pytest

from authz.revocation.record import blacklist_key, feed_key, tip_key
from authz.revocation.redis.writer import REVOKE
from support.valkey import ValkeyServer
from support.waiting import wait_until

BUCKET = 3
FEED, TIP = feed_key(BUCKET), tip_key(BUCKET)
DAY = 86_400_000
MANY = 250
"""Entries. A stream is trimmed by whole nodes of 100."""


class Stream:
    """The bucket's, and who writes to it."""

    def __init__(self, server: ValkeyServer) -> None:
        self.client = server.client
        self._written = 0

    def revoke(self, count: int = 1, keep: int = DAY) -> None:
        """So many tokens, one call each. `keep`: milliseconds that the stream remembers."""
        expires = round((time.time() + 1000) * 1000)
        for _ in range(count):
            self._written += 1
            token = f"T-{self._written}"
            key = blacklist_key(BUCKET, "U", token)
            fields = ("token", "note", expires, "", "U", token)
            self.client.eval(REVOKE.source, 3, FEED, TIP, key, keep, 16, *fields)

    @property
    def first(self) -> int:
        """As the tip has it."""
        return int(self.client.hget(TIP, "first") or -1)

    @property
    def begins(self) -> int:
        """As the stream has it."""
        entries: Any = self.client.xrange(FEED, count=1)
        return int(entries[0][1][b"seq"])


@pytest.fixture
def stream(valkey: ValkeyServer) -> Stream:
    return Stream(valkey)


def test_a_stream_begins_with_its_first_entry(stream: Stream) -> None:
    stream.revoke(3)
    assert (stream.first, stream.begins) == (1, 1)


def test_trimming_by_age_moves_the_first_entry_on(stream: Stream) -> None:
    stream.revoke(MANY)

    def is_trimmed() -> bool:
        stream.revoke(keep=10)
        return stream.begins > 1

    wait_until(is_trimmed, "the first entries are old enough")
    assert stream.first == stream.begins


@pytest.mark.parametrize("left", [0, 2])
def test_what_somebody_cut_off_stays_missing(stream: Stream, left: int) -> None:
    """However much is written since: who reads the stream has to look at the keys."""
    stream.revoke(5)
    stream.client.xtrim(FEED, maxlen=left, approximate=False)
    stream.revoke(2)
    assert stream.begins == 6 - left
    assert stream.first == 1


def test_a_stream_that_was_deleted_is_missing_what_it_held(stream: Stream) -> None:
    stream.revoke(5)
    stream.client.delete(FEED)
    stream.revoke(2)
    assert (stream.begins, stream.first) == (6, 1)


def test_a_cut_is_forgotten_once_all_that_is_missing_has_expired(stream: Stream) -> None:
    stream.revoke(5)
    stream.client.xtrim(FEED, maxlen=2, approximate=False)
    stream.revoke()
    assert (stream.begins, stream.first) == (4, 1)

    def is_forgotten() -> bool:
        stream.revoke(keep=10)
        return stream.first == stream.begins

    wait_until(is_forgotten, "what was left is old enough")


def test_a_new_tip_on_an_old_stream_has_no_first_entry(stream: Stream) -> None:
    stream.revoke(3)
    stream.client.delete(TIP)
    stream.revoke(2)
    assert stream.first == 0
