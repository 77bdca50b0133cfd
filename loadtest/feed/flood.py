"""Revokes tokens at a high rate with as little of a processor as it can, so that more is left for
the checks beside it: one call of the script for each when it is due (Poisson), and no wait for the
answer before the next.

The specification has: `settings` (of the store), `template` (the claims of `sender.py`'s tokens),
`rate` (a second), `seconds` and `first` (the number of the first token). It ends when all are
written, or on SIGTERM, and then says on stdout how many were, as a JSON object.
"""

import gc
import json
import select
import signal
import socket
import sys
import time
from typing import Any

import hiredis
import redis
from redis.crc import key_slot

from authz.revocation.entry import Entry
from authz.revocation.record import feed_key, tip_key
from authz.revocation.redis.writer import REVOKE, STREAM_KEEPS
from authz.settings import Settings, store_url_parts
from loadtest.feed.revoker import Revocations
from loadtest.feed.scripts import specification
from loadtest.pacer import poisson

READ_BYTES = 65_536
GRACE = 5.0
"""Seconds for the last answers."""
TIMEOUT = 10.0
"""Seconds for anything before."""


class Node:
    """One primary: its connection, and what it has yet to answer."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0
        self.written = 0
        self.failed = 0
        self._reader = hiredis.Reader()

    @property
    def owes(self) -> bool:
        return self.written + self.failed < self.sent

    def send(self, packed: bytes) -> None:
        self.socket.sendall(packed)
        self.sent += 1

    def receive(self) -> None:
        """Count the answers that are here. ConnectionError: there will be no more."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("a node closed the connection")
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            good = isinstance(reply, list) and reply[0][0] == 1
            self.written += good
            self.failed += not good


class Flood:
    def __init__(self, what: dict[str, Any]) -> None:
        settings = Settings(**what["settings"])
        self._buckets = settings.store.buckets
        self._revocations = Revocations(what["template"], self._buckets)
        self._arrivals = poisson(what["rate"], what["seconds"])
        self._first = what["first"]
        self._sha = b""
        self._nodes: list[Node] = []
        self._by_bucket: dict[int, Node] = {}
        self.stopping = False
        _, seeds, _ = store_url_parts(settings.store)
        self._connect(*seeds[0])

    def _connect(self, host: str, port: int) -> None:
        with redis.Redis(host=host, port=port, socket_timeout=TIMEOUT) as client:
            slots: Any = client.execute_command("CLUSTER SLOTS")
        for first, last, (_, owner, *_), *_ in slots:
            address = host, int(owner)  # all of them are on this machine
            with redis.Redis(host=address[0], port=address[1], socket_timeout=TIMEOUT) as client:
                self._sha = str(client.script_load(REVOKE.source)).encode()
            node = Node(*address)
            self._nodes.append(node)
            for bucket in range(self._buckets):
                if first <= key_slot(feed_key(bucket).encode()) <= last:
                    self._by_bucket[bucket] = node

    def run(self) -> None:
        """Until all are written, or `stopping`."""
        start = time.monotonic()
        for number, arrival in enumerate(self._arrivals, self._first):
            node, packed = self._call(number)
            while (left := start + arrival - time.monotonic()) > 0 and not self.stopping:
                self._take(left)
            if self.stopping:
                break
            node.send(packed)
        end = time.monotonic() + GRACE
        while any(node.owes for node in self._nodes) and time.monotonic() < end:
            self._take(GRACE)

    def _take(self, seconds: float) -> None:
        """Answers, after waiting for one or for the time to pass."""
        for one in select.select([node.socket for node in self._nodes], [], [], seconds)[0]:
            next(node for node in self._nodes if node.socket is one).receive()

    def _call(self, number: int) -> tuple[Node, bytes]:
        revocation = self._revocations.of(number)
        bucket = revocation.bucket or 0
        entry = Entry.of_token(revocation)
        keys = (feed_key(bucket), tip_key(bucket), entry.key(bucket))
        arguments = (STREAM_KEEPS, self._buckets, *entry.arguments())
        # Its type hints say that a command has one word.
        command: Any = ("EVALSHA", self._sha, len(keys), *keys, *arguments)
        return self._by_bucket[bucket], hiredis.pack_command(command)

    def result(self) -> dict[str, int]:
        sent = sum(node.sent for node in self._nodes)
        written = sum(node.written for node in self._nodes)
        return {"written": written, "failed": sent - written}


def main() -> None:
    flood = Flood(specification())

    def stop(number: int, frame: object) -> None:
        del number, frame
        flood.stopping = True

    signal.signal(signal.SIGTERM, stop)
    gc.disable()  # nothing here makes cycles
    flood.run()
    json.dump(flood.result(), sys.stdout)


if __name__ == "__main__":
    main()
