"""k8s/redis-cluster/form.py: what it does in which case, and on real nodes."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Node
from support.manifests import K8S
from support.ports import LOOPBACK
from support.waiting import wait_until

SCRIPT = K8S / "redis-cluster/form.py"
NODES = 6


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("form", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["form"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


form = _load()
NAMES = [f"node-{number}:6379" for number in range(NODES)]
THIRDS = [range(5461), range(5461, 10922), range(10922, 16384)]


def peer(number: int, *, flags: str = "", follows: str = "", slots: range = range(0)) -> Any:
    named = frozenset(flags.split(",")) if flags else frozenset()
    return form.Peer(f"10.0.0.{number}", 6379, 16379, named, follows, frozenset(slots))


def formed() -> dict[str, Any]:
    """All six, as each of them sees a cluster in order: id to peer."""
    peers = {f"id{n}": peer(n, slots=THIRDS[n]) for n in range(3)}
    return peers | {f"id{n}": peer(n, follows=f"id{n - 3}") for n in range(3, 6)}


def view(number: int, peers: dict[str, Any], *, keys: int = 0) -> Any:
    return form.View(NAMES[number], f"10.0.0.{number}", 6379, f"id{number}", keys, peers)


def views(peers: dict[str, Any]) -> list[Any]:
    return [view(number, peers) for number in range(NODES)]


def commands(seen: list[Any]) -> list[tuple[str, tuple[Any, ...]]]:
    return [(step.node, step.command) for step in form.steps(seen, NAMES)]


def test_nothing_is_done_to_a_cluster_in_order() -> None:
    assert commands(views(formed())) == []
    assert form.missing(views(formed()), NAMES) == ""


def test_strangers_are_introduced_first() -> None:
    alone = [view(number, {f"id{number}": peer(number)}) for number in range(NODES)]
    met = [("CLUSTER", "MEET", f"10.0.0.{number}", 6379, 16379) for number in range(1, NODES)]
    assert commands(alone) == [(NAMES[0], command) for command in met]


def test_all_slots_go_to_the_first_three() -> None:
    idle = {f"id{number}": peer(number) for number in range(NODES)}
    found = commands(views(idle))
    assert [node for node, _ in found] == NAMES[:3]
    assert [command[2:] for _, command in found] == [(t.start, t.stop - 1) for t in THIRDS]


def test_no_slot_is_given_away_while_a_node_is_missing() -> None:
    """It may have them."""
    idle = {f"id{number}": peer(number) for number in range(NODES)}
    assert not any("ADDSLOTSRANGE" in command for _, command in commands(views(idle)[:5]))


def test_slots_of_a_dead_shard_stay_with_it() -> None:
    """Even where both its nodes came back empty: what they held is gone, and a person decides."""
    peers = formed()
    peers["old"] = replace(peers.pop("id0"), flags=frozenset({"fail"}))
    peers["id0"], peers["id3"] = peer(0), peer(3)
    assert not any("ADDSLOTSRANGE" in command for _, command in commands(views(peers)))
    assert not any("FORGET" in command for _, command in commands(views(peers)))
    assert "slots that nobody serves" in form.missing(views(peers), NAMES)


def test_an_empty_node_follows_who_has_no_replica() -> None:
    peers = formed() | {"id4": peer(4)}
    assert commands(views(peers)) == [(NAMES[4], ("CLUSTER", "REPLICATE", "id1"))]
    assert NAMES[1] in form.missing(views(peers), NAMES)


def test_a_primary_that_took_over_gets_a_replica_of_those_that_have_two() -> None:
    """Where the one that came back empty had been given away before the failover."""
    peers = formed() | {"id3": peer(3, slots=THIRDS[0]), "id0": peer(0, follows="id1")}
    ((node, command),) = commands(views(peers))
    assert node in {NAMES[0], NAMES[4]}
    assert command == ("CLUSTER", "REPLICATE", "id3")


def test_a_primary_whose_replica_is_away_for_a_moment_takes_nobody_elses() -> None:
    assert commands(views(formed())[:5]) == []


def test_a_node_with_keys_is_left_alone() -> None:
    peers = formed() | {"id4": peer(4)}
    seen = [*views(peers)[:4], view(4, peers, keys=1), view(5, peers)]
    assert commands(seen) == []


def test_a_node_at_a_new_address_is_met_again() -> None:
    peers = formed()
    moved = replace(view(5, peers), ip="10.0.0.99")
    assert commands([*views(peers)[:5], moved]) == [
        (NAMES[0], ("CLUSTER", "MEET", "10.0.0.99", 6379, 16379))
    ]


def test_who_failed_and_is_none_of_ours_is_forgotten_by_all() -> None:
    peers = formed() | {"old": peer(9, flags="slave,fail", follows="id1")}
    expected = [(name, ("CLUSTER", "FORGET", "old")) for name in NAMES]
    assert commands(views(peers)) == expected
    assert commands(views(peers)[:5]) == []


# On real nodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    made = [Node(tmp_path / f"n{n}", shard=n % 3, name=f"n{n}", appendonly=True) for n in range(6)]
    try:
        for node in made:
            node.process.start()
        for node in made:
            node.process.wait_ready(node.answers)
        yield made
    finally:
        for node in made:
            node.stop()


def run(nodes: list[Node]) -> "subprocess.CompletedProcess[str]":
    hosts = [f"{LOOPBACK}:{node.port}" for node in nodes]
    return subprocess.run(
        [sys.executable, SCRIPT, "--within", "30", *hosts],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_forms_a_cluster_and_takes_a_node_back_that_lost_its_data(nodes: list[Node]) -> None:
    done = run(nodes)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: all(n.cluster_info()["cluster_state"] == "ok" for n in nodes), "in order")
    assert [node.is_master for node in nodes] == [True] * 3 + [False] * 3
    again = run(nodes)
    assert again.returncode == 0
    assert again.stdout == "6 nodes, in order\n"

    lost, before = nodes[0], nodes[0].id
    lost.kill()
    wait_until(lambda: sum(n.is_master for n in nodes[1:]) == 3, "a replica took over", timeout=20)
    for file in lost.folder.glob("nodes.conf"):
        file.unlink()
    shutil.rmtree(lost.folder / "appendonlydir")
    lost.restart()
    assert lost.id != before
    done = run(nodes)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: not lost.is_master, "it follows")
    for node in nodes:
        known = node.command("CLUSTER", "NODES").decode()
        assert before not in known
        assert len(known.splitlines()) == 6
