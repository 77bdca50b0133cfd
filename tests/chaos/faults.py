"""The faults, one function each. Victims and moments come from the stage's dice."""

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import httpx
from chaos.oracle import MAX_STALENESS
from chaos.stage import Fault, Stage
from chaos.traffic import revoke_many
from chaos.world import Lines, Seat

from authz.revocation.record import feed_key
from support.cluster import Node, ValkeyCluster
from support.ports import LOOPBACK, free_port
from support.process import ChildProcess
from support.proxy import Direction
from support.revocations import BUCKETS
from support.waiting import wait_until

PARTED = 5.0
"""Seconds between two regions: more than max_staleness and RELAY_LAG together."""
RELAYS_ADDRESS = 200
"""The last byte of the address by which a relay enters the other region."""

FROZEN = 10.0
"""Seconds: several failovers' worth, and far beyond every time-out."""
ONE_WAY = 4.0
"""Seconds for which a direction is lost: more than max_staleness, so that its end is seen."""
MOVING = 1.0
"""Seconds for which a slot stands on both sides; revocations for it wait."""
CLOCK_OFF = 3.0
"""Seconds, either way: within `leeway` (5 s), beyond max_staleness and negative_ttl."""
MANY = 10_000
"""Revocations that a restarted sidecar has to take in: a second or two of writing."""
SLOWED = 0.03
"""Seconds for each piece that comes from a node, so that taking these in lasts for a second."""


# ---- Nodes


def kill_a_master(stage: Stage) -> None:
    """kill -9. Its replica takes over; it comes back as the replica."""
    cluster = stage.cluster
    victim = cluster.master_of(stage.dice.randrange(BUCKETS))
    with stage.trouble():
        cluster.kill(victim)
        cluster.wait_failover(victim)

    stage.afterwards(lambda: _bring_back(cluster, victim))


def kill_a_replica(stage: Stage) -> None:
    """kill -9. Nobody asks it, so the cluster is in order at once for sidecars; it comes back."""
    cluster = stage.cluster
    victim = cluster.replica_of(stage.dice.randrange(BUCKETS))
    with stage.trouble():
        cluster.kill(victim)

    stage.afterwards(lambda: _bring_back(cluster, victim))


def _bring_back(cluster: ValkeyCluster, victim: Node) -> None:
    cluster.restart(victim)
    cluster.wait_ok()


def kill_all_nodes(stage: Stage) -> None:
    """kill -9 of all six, and back with what they had on disk."""
    cluster = stage.cluster
    with stage.trouble():
        with stage.trouble(blind=True):
            for node in stage.dice.sample(cluster.nodes, len(cluster.nodes)):
                cluster.kill(node)
            stage.hold(stage.dice.uniform(1, 3))
        for node in cluster.nodes:
            node.process.start()
        for node in cluster.nodes:
            node.process.wait_ready(node.answers)
        cluster.wait_ok()


def freeze_a_node(stage: Stage) -> None:
    """SIGSTOP for ten seconds: its connections stay, and it wakes with an old view of the world. A
    master twice out of three.
    """
    cluster = stage.cluster
    bucket = stage.dice.randrange(BUCKETS)
    find = stage.dice.choice([cluster.master_of, cluster.master_of, cluster.replica_of])
    victim = find(bucket)
    with stage.trouble():
        cluster.freeze(victim)
        stage.hold(FROZEN)
        cluster.thaw(victim)
        cluster.wait_ok()


def reshard(stage: Stage) -> None:
    """A bucket's slot goes to another master and back, each time with a while on both sides."""
    cluster = stage.cluster
    bucket = stage.dice.randrange(BUCKETS)
    home = cluster.master_of(bucket)
    away = stage.dice.choice([master for master in cluster.masters if master is not home])
    with stage.trouble():
        for target in (away, home):
            slot = cluster.move_slot(bucket, target, finish=False)
            stage.hold(MOVING)
            cluster.finish_move(slot, target)
        cluster.wait_ok()


# ---- The network


def cut(seconds: float) -> Callable[[Stage], None]:
    """One sidecar, or all, lose every connection and get no new one."""

    def strike(stage: Stage) -> None:
        seats = stage.some_seats()
        with stage.trouble(seats):
            for seat in seats:
                seat.lines.cut()
            with stage.trouble(seats, blind=True):
                stage.hold(seconds)
            for seat in seats:
                seat.lines.restore()

    return strike


def lose_a_node(stage: Stage) -> None:
    """Some sidecars can't reach one master, which is well, so that nobody takes its place."""
    seats = stage.some_seats()
    victim = stage.cluster.master_of(stage.dice.randrange(BUCKETS))
    with stage.trouble(seats):
        for seat in seats:
            seat.lines.cut(victim)
        stage.hold(ONE_WAY)
        for seat in seats:
            seat.lines.restore()


def fail_over_in_a_cut(stage: Stage) -> None:
    """A master dies while some sidecars are cut off, and they come back into another cluster."""
    seats = stage.some_seats()
    victim = stage.cluster.master_of(stage.dice.randrange(BUCKETS))
    with stage.trouble():
        for seat in seats:
            seat.lines.cut()
        stage.cluster.kill(victim)
        stage.cluster.wait_failover(victim)
        for seat in seats:
            seat.lines.restore()
    stage.afterwards(lambda: _bring_back(stage.cluster, victim))


def lose_a_direction(direction: Direction) -> Callable[[Stage], None]:
    """Connections stay and can be made; what is sent in this direction arrives after the end. Where
    that is the requests, pushes still come, but nobody can ask whether any is missing.
    """

    def strike(stage: Stage) -> None:
        seats = stage.some_seats()
        with stage.trouble(seats):
            for seat in seats:
                seat.lines.block(direction)
            with stage.trouble(seats, blind=True):
                stage.hold(ONE_WAY)
            for seat in seats:
                seat.lines.restore()

    return strike


# ---- The data


def flush_all(stage: Stage) -> None:
    """FLUSHALL on every master, while one sidecar may be away: the store has forgotten, and the
    sidecars must not.
    """
    away = stage.dice.choice([[], [stage.dice.choice(stage.world.home.seats)]])
    with stage.trouble():
        for seat in away:
            seat.lines.cut()
        before = time.monotonic()
        stage.cluster.flush()
        stage.ledger.lose(before)
        if away:
            stage.hold(stage.dice.uniform(0, ONE_WAY))
        for seat in away:
            seat.lines.restore()


def trim_the_stream(stage: Stage) -> None:
    """XTRIM MAXLEN 0 while a sidecar is away: what it missed can't be caught up by the stream."""
    seats = [stage.dice.choice(stage.world.home.seats)]
    with stage.trouble(seats):
        for seat in seats:
            seat.lines.cut()
        stage.hold(stage.dice.uniform(1, 3))
        for bucket in range(BUCKETS):
            stage.cluster.master_of(bucket).command("XTRIM", feed_key(bucket), "MAXLEN", 0)
        stage.world.trimmed = time.monotonic()
        for seat in seats:
            seat.lines.restore()


# ---- The sidecar


def restart_mid_sync(stage: Stage) -> None:
    """kill -9 of a sidecar, and again while it takes in what it missed, of which there is much."""
    asyncio.run(revoke_many(stage.cluster.url, MANY))
    seat = stage.dice.choice(stage.world.home.seats)
    with stage.trouble([seat]):
        seat.kill()
        seat.lines.slow(SLOWED)
        seat.begin()
        wait_until(lambda: _is_syncing(seat), f"{seat.name} takes in what it missed")
        stage.hold(stage.dice.uniform(0, SLOWED))
        seat.kill()
        seat.lines.restore()
        seat.start()


def _is_syncing(seat: Seat) -> bool:
    try:
        feed = seat.sidecar.status()["feed"]
    except httpx.HTTPError:  # not yet
        return False
    if feed["live"]:
        raise AssertionError(f"{seat.name} was in sync before it could be killed")
    return bool(feed["entries"]["synced"])


def restart_in_an_outage(stage: Stage) -> None:
    """A sidecar, or all, are ended while they are cut off, some by kill -9, and the next lives
    begin without a store. What both let through is to be looked at again.
    """
    seats = stage.some_seats()
    with stage.trouble(seats):
        for seat in seats:
            seat.lines.cut()
        with stage.trouble(seats, blind=True):
            stage.hold(MAX_STALENESS + 1)
            for seat in seats:
                stage.dice.choice([seat.kill, seat.stop])()
                seat.start()
            stage.hold(stage.dice.uniform(0, MAX_STALENESS + 1))
        for seat in seats:
            seat.lines.restore()


def clocks_off(stage: Stage) -> None:
    """Two sidecars live for a while with clocks that are three seconds off, one ahead and one
    behind, and are cut off in it, for what is done by the clock in an outage.
    """
    seats = stage.dice.sample(stage.world.home.seats, 2)
    off = dict(zip(seats, (-CLOCK_OFF, CLOCK_OFF), strict=True))
    with stage.trouble(seats):
        for seat in seats:
            seat.stop()
            seat.start(ahead=off[seat])
        for seat in seats:
            wait_until(seat.is_connected, f"{seat.name} is connected")
    stage.hold(ONE_WAY)
    with stage.trouble(seats):
        for seat in seats:
            seat.lines.cut()
        stage.hold(ONE_WAY)
        for seat in seats:
            _check_clock(seat, off[seat])
            seat.lines.restore()


def _check_clock(seat: Seat, ahead: float) -> None:
    """By the audit, to which something is written all the time while it is cut off."""
    off = datetime.fromisoformat(seat.audit()[-1]["time"]).timestamp() - time.time()
    if abs(off - ahead) > CLOCK_OFF / 2:
        raise AssertionError(f"{seat.name}'s clock is {off:.1f} s off, which should be {ahead}")


# ---- Regions


def join_two_regions(stage: Stage) -> None:
    """A second region with a sidecar of its own, and a relay each way. Each relay stands beside the
    cluster that it writes to and has a line to the other.
    """
    world = stage.world
    stage.ledger.lose(before=0.0)  # what was revoked before they were joined is another matter
    away = world.add_region(1)
    stage.at_the_end(lambda: world.drop_region(away))
    for source, target in ((world.home, away), (away, world.home)):
        lines = source.lines(RELAYS_ADDRESS)
        stage.relay_lines.append(lines)
        stage.at_the_end(lines.stop)
        _start_relay(stage, lines, target.cluster, away.folder / f"relay-from-{source.name}.log")
    world.related = time.monotonic()


def _start_relay(stage: Stage, lines: Lines, target: ValkeyCluster, log: Path) -> None:
    http = f"{LOOPBACK}:{free_port()}"
    relay = ChildProcess(
        [
            sys.executable, "-m", "authz", "relay", "--http-listen", http,
            "--from", lines.url, "--to", target.url,
        ],
        log=log,
    )  # fmt: skip
    stage.relays.append(relay)
    stage.at_the_end(relay.stop)

    def ready() -> bool:
        try:
            return httpx.get(f"http://{http}/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    relay.start(ready)


def part_the_regions(stage: Stage) -> None:
    """Cut off from each other and joined again, while revocations go on in both, and one of the
    relays dies meanwhile, to go on where it was. No sidecar is disturbed by it.
    """
    for lines in stage.relay_lines:
        lines.cut()
    stage.hold(PARTED)
    relay = stage.dice.choice(stage.relays)
    relay.kill()
    relay.start()
    for lines in stage.relay_lines:
        lines.restore()
    stage.world.related = stage.recovered = time.monotonic()


FAULTS = [
    Fault("kill a master", kill_a_master),
    Fault("kill a replica", kill_a_replica),
    Fault("kill all nodes", kill_all_nodes),
    Fault("freeze a node", freeze_a_node),
    Fault("cut 1 s", cut(1.0)),
    Fault("cut 30 s", cut(30.0), opens=True),
    Fault("lose a node", lose_a_node, opens=True),
    Fault("failover in a cut", fail_over_in_a_cut),
    Fault("lose requests", lose_a_direction("to_server"), opens=True),
    Fault("lose answers", lose_a_direction("to_client"), opens=True),
    Fault("reshard", reshard),
    Fault("flush all", flush_all, needs_feed=True),
    Fault("trim the stream", trim_the_stream, needs_feed=True),
    Fault("restart mid-sync", restart_mid_sync, needs_feed=True),
    Fault("restart in a cut", restart_in_an_outage, opens=True),
    Fault("clocks off", clocks_off, opens=True),
    Fault("part regions", part_the_regions, prepare=join_two_regions),
]
