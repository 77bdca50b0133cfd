"""Forms a cluster of empty nodes, and mends one whose nodes moved or lost their data.

    python form.py [--user U --password-file F] [--ca-file F] HOST:PORT HOST:PORT ...

It looks at every node, does what `steps` says, and looks again until nothing is left to be done.
Exit code 0: all nodes are there, all slots are served, every primary has a replica. 1: not so
within the time; the last line says what is missing.

It never takes slots away from a node, resets one or deletes a key: a shard whose nodes are all gone
stays gone until a person decides, for what it held were revocations.
"""

import argparse
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import RedisError

SLOTS = 16_384
COPIES = 2
"""A primary and its replica. So of six nodes the first three begin as primaries."""
PAUSE = 0.5
"""Seconds for the nodes to tell each other, before the next look."""
BROKEN = frozenset({"fail", "noaddr", "handshake"})

Command = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """What one node says of another, or of itself: a line of CLUSTER NODES."""

    ip: str
    port: int
    bus: int
    flags: frozenset[str]
    primary: str
    """The id of the primary that it follows; empty for a primary."""
    slots: frozenset[int]


@dataclass(frozen=True, slots=True)
class View:
    """One node, as it sees itself and the rest."""

    name: str
    """As on the command line."""
    ip: str
    port: int
    id: str
    keys: int
    peers: Mapping[str, Peer] = field(default_factory=dict)

    @property
    def own(self) -> Peer:
        return self.peers[self.id]


@dataclass(frozen=True, slots=True)
class Step:
    """A command for a node."""

    node: str
    command: Command


def steps(views: Sequence[View], names: Sequence[str]) -> list[Step]:
    """What is to be done now, of which the rest may depend; empty when all is well or nothing can
    be done. `views` are of the nodes that answered, of `names`.
    """
    if not views:
        return []
    return (
        _introduce(views) or _share_slots(views, names) or _follow(views) or _forget(views, names)
    )


def missing(views: Sequence[View], names: Sequence[str]) -> str:
    """What is not as it should be; empty where all is."""
    away = sorted(set(names) - {view.name for view in views})
    if away:
        return f"no answer from {', '.join(away)}"
    for view in views:
        unserved = SLOTS - len(_served(view))
        if unserved:
            return f"{view.name} sees {unserved} slots that nobody serves"
    primaries = {view.id for view in views if view.own.slots}
    followed = {view.own.primary for view in views if not view.own.slots}
    alone = sorted(view.name for view in views if view.id in primaries - followed)
    if alone:
        return f"no replica follows {', '.join(alone)}"
    return ""


def _introduce(views: Sequence[View]) -> list[Step]:
    """The first node meets all that it doesn't know, or knows by an address of yesterday."""
    first = views[0]
    found: list[Step] = []
    for view in views[1:]:
        mutual = [(one.peers.get(other.id), other) for one, other in ((first, view), (view, first))]
        if any(
            peer is None or peer.ip != other.ip or peer.flags & BROKEN for peer, other in mutual
        ):
            found.append(Step(first.name, ("CLUSTER", "MEET", view.ip, view.port, view.own.bus)))
    return found


def _share_slots(views: Sequence[View], names: Sequence[str]) -> list[Step]:
    """Slots that nobody ever had, to those that begin as primaries. Not before all nodes are there:
    one that is away may have them.
    """
    if len(views) < len(names):
        return []
    claimed = {slot for view in views for peer in view.peers.values() for slot in peer.slots}
    if len(claimed) == SLOTS:
        return []
    primaries = sorted(views, key=lambda view: names.index(view.name))[: len(names) // COPIES]
    found: list[Step] = []
    for number, view in enumerate(primaries):
        share = range(SLOTS * number // len(primaries), SLOTS * (number + 1) // len(primaries))
        free = [slot for slot in share if slot not in claimed]
        if free and not view.own.primary:
            ranges = [end for first, last in _ranges(free) for end in (first, last)]
            found.append(Step(view.name, ("CLUSTER", "ADDSLOTSRANGE", *ranges)))
    return found


def _follow(views: Sequence[View]) -> list[Step]:
    """A node without slots follows the primary that has the fewest replicas. One with keys is left
    alone: they may be all that is left of something. A primary that has none, as after a failover,
    gets one of those that have two.
    """
    followers: dict[str, list[View]] = {view.id: [] for view in views if view.own.slots}
    for view in views:
        if view.own.primary in followers:
            followers[view.own.primary].append(view)
    if not followers:
        return []
    neediest = min(followers, key=lambda one: (len(followers[one]), one))
    idle = [view for view in views if not view.own.slots and not view.own.primary and not view.keys]
    richest = max(followers.values(), key=len)
    spare = richest[1:] if not followers[neediest] else []
    for view in [*idle, *spare]:
        if neediest in view.peers:
            return [Step(view.name, ("CLUSTER", "REPLICATE", neediest))]
    return []


def _forget(views: Sequence[View], names: Sequence[str]) -> list[Step]:
    """Nodes that failed, have no slots, and are none of ours any more: a pod that lost its volume
    came back as another. Only where all of ours answered.
    """
    if len(views) < len(names):
        return []
    ours = {view.id for view in views}
    return [
        Step(view.name, ("CLUSTER", "FORGET", one))
        for view in views
        for one, peer in view.peers.items()
        if one not in ours and "fail" in peer.flags and not peer.slots
    ]


def _served(view: View) -> set[int]:
    return {slot for peer in view.peers.values() if not peer.flags & BROKEN for slot in peer.slots}


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of numbers that follow each other."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


# ---- the nodes themselves


class Nodes:
    """Connections to the nodes, made anew for each look: they may have moved."""

    def __init__(self, names: Sequence[str], **access: Any) -> None:
        self._names = names
        self._access = access

    def look(self) -> list[View]:
        """Of the nodes that answer."""
        views = []
        for name in self._names:
            try:
                views.append(self._view(name))
            except (RedisError, OSError) as error:
                print(f"{name}: {error}", flush=True)
        return views

    def do(self, step: Step) -> None:
        """A step that fails is told, and comes again with the next look if it is still needed."""
        print(f"{step.node}: {' '.join(map(str, step.command[:6]))}", flush=True)
        try:
            with self._connect(step.node) as node:
                node.execute_command(*step.command)
        except (RedisError, OSError) as error:
            print(f"{step.node}: {error}", flush=True)

    def _connect(self, name: str) -> redis.Redis:
        host, _, port = name.rpartition(":")
        return redis.Redis(
            host=host, port=int(port), protocol=2, socket_timeout=3, socket_connect_timeout=3,
            decode_responses=True, **self._access,
        )  # fmt: skip

    def _view(self, name: str) -> View:
        host, _, port = name.rpartition(":")
        address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4]
        with self._connect(name) as node:
            # As two words, or the client would parse the reply.
            text: str = node.execute_command("CLUSTER", "NODES")
            keys = int(node.dbsize())
        peers = dict(_peer(line) for line in text.splitlines())
        myself = next(one for one, peer in peers.items() if "myself" in peer.flags)
        return View(name, str(address[0]), int(port), myself, keys, peers)


def _peer(line: str) -> tuple[str, Peer]:
    """`id ip:port@bus[,hostname] flags primary ping pong epoch link slot slot …`"""
    one, address, flags, primary, _, _, _, _, *slots = line.split()
    client, _, bus = address.partition(",")[0].partition("@")
    ip, _, port = client.rpartition(":")
    owned: set[int] = set()
    for text in slots:
        if not text.startswith("["):  # a slot that is being moved
            first, _, last = text.partition("-")
            owned.update(range(int(first), int(last or first) + 1))
    named = frozenset(flags.split(","))
    return one, Peer(ip, int(port or 0), int(bus or 0), named, primary.strip("-"), frozenset(owned))


def main() -> int:
    parser = argparse.ArgumentParser(description="Forms a Valkey Cluster, or mends it.")
    parser.add_argument("nodes", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--user")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--ca-file", type=Path)
    parser.add_argument("--within", type=float, default=120.0, metavar="SECONDS")
    options = parser.parse_args()
    access: dict[str, Any] = {}
    if options.password_file:
        access = {"username": options.user, "password": options.password_file.read_text().strip()}
    if options.ca_file:
        access |= {"ssl": True, "ssl_ca_certs": str(options.ca_file)}
    nodes = Nodes(options.nodes, **access)
    deadline = time.monotonic() + options.within
    told = ""
    while True:
        views = nodes.look()
        todo = steps(views, options.nodes)
        lack = missing(views, options.nodes)
        if not todo and not lack:
            print(f"{len(views)} nodes, in order", flush=True)
            return 0
        if time.monotonic() > deadline:
            print(f"not in order: {lack or todo[0]}", file=sys.stderr)
            return 1
        if not todo and lack != told:
            told = lack
            print(f"waiting: {lack}", flush=True)
        for step in todo:
            nodes.do(step)
        time.sleep(PAUSE)


if __name__ == "__main__":
    sys.exit(main())
