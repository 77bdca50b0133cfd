"""A Valkey Cluster on loopback: three masters, each with a replica, quick to fail over."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from redis.crc import key_slot
from redis.exceptions import RedisError

from support.certificates import Certificates
from support.ports import LOOPBACK, free_port
from support.valkey import ValkeyServer
from support.waiting import wait_until

SHARDS = 3
SLOTS = 16_384

NODE_TIMEOUT = 1.0
"""Seconds without an answer after which a node counts as failed. A failover takes two to three
times as long. Less than this makes a busy two-core machine fail over by itself."""


class Node(ValkeyServer):
    """One server of the cluster. `shard` is where it started; `name` is for messages."""

    def __init__(self, folder: Path, *, shard: int, name: str, **server: Any) -> None:
        self.shard = shard
        self.name = name
        self.bus_port = free_port()
        options: Mapping[str, str] = server.pop("options", None) or {}
        super().__init__(
            folder,
            options={
                "cluster-enabled": "yes",
                "cluster-port": str(self.bus_port),
                "cluster-node-timeout": str(round(NODE_TIMEOUT * 1000)),
                "cluster-replica-validity-factor": "0",  # a replica may always be promoted
                "cluster-allow-replica-migration": "no",  # shards keep their two nodes
                "repl-diskless-sync-delay": "0",
                "repl-ping-replica-period": "1",
                "repl-timeout": "5",
                **options,
            },
            **server,
        )
        if self.proxy:  # nodes talk to each other without TLS, clients are sent to the proxy
            with self._configuration.open("a") as configuration:
                configuration.write(f"cluster-announce-client-port {self.proxy.port}\n")

    @property
    def id(self) -> str:
        return str(self.command("CLUSTER", "MYID").decode())

    @property
    def up(self) -> bool:
        """Running, and not frozen."""
        return self.process.running and not self.process.frozen

    @property
    def is_master(self) -> bool:
        return bool(self.role()[0] == b"master")

    def role(self) -> list[Any]:
        """The reply to ROLE."""
        reply: list[Any] = self.command("ROLE")
        return reply

    def cluster_info(self) -> dict[str, str]:
        reply: bytes = self.command("CLUSTER", "INFO")
        return dict(line.split(":", 1) for line in reply.decode().split("\r\n") if line)

    def __repr__(self) -> str:
        return f"<{self.name} :{self.port}>"


class ValkeyCluster:
    """Three masters and three replicas. Every method blocks; in an async test whose own loop must
    go on meanwhile, call the waiting ones through `asyncio.to_thread`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 1,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        appendonly: bool = True,
        options: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        """`replicas` for each master. The rest as in ValkeyServer. By `appendonly` a node that was
        killed comes back with all it had acknowledged; without, it comes back empty.
        """
        self.password = password
        self._moved: dict[int, Node] = {}
        self.nodes = [
            Node(
                folder / f"shard{shard}-{copy}",
                shard=shard,
                name=f"shard{shard}-{copy}",
                password=password,
                users=users,
                tls=tls,
                client_certificates=client_certificates,
                appendonly=appendonly,
                options=options,
                binary=binary,
            )
            for copy in range(1 + replicas)
            for shard in range(SHARDS)
        ]

    @property
    def url(self) -> str:
        """For `store.url`: every node, with the password."""
        return self.url_for(None, self.password)

    def url_for(self, user: str | None, password: str | None) -> str:
        """`url` with other credentials."""
        userinfo = f"{quote(user or '')}:{quote(password)}@" if password else ""
        scheme = "rediss+cluster" if self.nodes[0].proxy else "redis+cluster"
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes)
        return f"{scheme}://{userinfo}{hosts}"

    # Life of the cluster

    def start(self) -> Self:
        try:
            for node in self.nodes:  # all at once, then wait for each
                node.process.start()
            for node in self.nodes:
                node.process.wait_ready(node.answers)
                if node.proxy:
                    node.proxy.start()
            self._form()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def reset(self) -> None:
        """As good as new: everything healed, no key, no script, no counts. Quick when nothing was
        broken.
        """
        self.heal()
        self.flush()
        for node in self.nodes:
            node.command("SCRIPT FLUSH")
            node.reset_counts()

    def heal(self) -> None:
        """Thaw, restart, bring moved slots home, and wait until all is well."""
        for node in self.nodes:
            if node.process.frozen:
                node.thaw()
            if not node.process.running:
                node.process.start()
            if node.proxy:
                node.proxy.restore()
        for node in self.nodes:
            node.process.wait_ready(node.answers)
            node.client.client_unpause()
        if self._moved:
            self.wait_ok()
            for slot, home in list(self._moved.items()):
                self.finish_move(slot, self.master_of_shard(home.shard))
            self._moved.clear()
        self.wait_ok()

    def restart(self, node: Node) -> None:
        """Start a killed node again, with what it had on disk. Returns when it answers."""
        node.restart()

    def kill(self, node: Node) -> None:
        """kill -9. Returns when it is gone; the cluster finds out after NODE_TIMEOUT."""
        node.kill()

    def freeze(self, node: Node) -> None:
        node.freeze()

    def thaw(self, node: Node) -> None:
        node.thaw()

    # Who is who

    def master_of(self, where: int | str) -> Node:
        """The node that serves a bucket (int) or a key (str), as most running nodes see it."""
        slot = slot_of(where)
        votes: Counter[str] = Counter()
        for node in self.nodes:
            if node.up:
                votes.update(owner for owner, slots in _owners(node) if slot in slots)
        if votes:
            wanted = votes.most_common(1)[0][0]
            for node in self.nodes:
                if node.up and node.id == wanted:
                    return node
        raise LookupError(f"no running node serves slot {slot}")

    def replica_of(self, where: int | str) -> Node:
        """A running replica of the master of a bucket or key."""
        master = self.master_of(where)
        for node in self.nodes:
            if node is not master and node.shard == master.shard and node.up:
                return node
        raise LookupError(f"{master!r} has no running replica")

    def master_of_shard(self, shard: int) -> Node:
        """Of the nodes that started in this shard, the one that is the master now."""
        for node in self.nodes:
            if node.shard == shard and node.up and node.is_master:
                return node
        raise LookupError(f"shard {shard} has no running master")

    @property
    def masters(self) -> list[Node]:
        return [self.master_of_shard(shard) for shard in range(SHARDS)]

    # Waiting

    def wait_ok(self, *, timeout: float = 30.0) -> None:
        """Until every running node sees all slots served and every replica is linked and level."""
        try:
            wait_until(self._is_ok, "the cluster in order", timeout=timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.describe()}") from None

    def wait_failover(self, old: Node, *, timeout: float = 20.0) -> Node:
        """Until another node of `old`'s shard is its master and every running node agrees on the
        slots. Returns the new master.
        """
        found: list[Node] = []

        def promoted() -> bool:
            found[:] = [
                node
                for node in self.nodes
                if node.shard == old.shard and node is not old and node.up and node.is_master
            ]
            return bool(found) and all(
                node.cluster_info()["cluster_state"] == "ok"
                and any(owner == found[0].id for owner, slots in _owners(node) if slots)
                for node in self.nodes
                if node.up and node is not old
            )

        wait_until(promoted, f"a failover of {old!r}", timeout=timeout)
        return found[0]

    def describe(self) -> str:
        """Each node's view, for an error."""
        views = []
        for node in self.nodes:
            try:
                view = b"\n".join(_cluster_nodes(node)).decode() if node.up else "down"
            except (RedisError, OSError) as error:
                view = str(error)
            views.append(f"{node!r}:\n{view}")
        return "\n".join(views)

    # Data

    def flush(self) -> None:
        """Delete every key, on replicas too."""
        for master in self.masters:
            master.client.flushall()
            if len(self.nodes) > SHARDS:
                master.client.wait(1, 5000)

    def keys(self) -> list[bytes]:
        """All keys, sorted."""
        return sorted(key for master in self.masters for key in master.client.scan_iter())

    def command_counts(self) -> Counter[str]:
        """Of all running nodes together; see ValkeyServer.command_counts."""
        counts: Counter[str] = Counter()
        for node in self.nodes:
            if node.up:
                counts += node.command_counts()
        return counts

    def reset_counts(self) -> None:
        for node in self.nodes:
            if node.up:
                node.reset_counts()

    # Slots

    def move_slot(self, where: int | str, to: Node, *, finish: bool = True) -> int:
        """Move the slot of a bucket or key, with its keys, to the master `to`; returns the slot.

        With `finish=False` it stays in the state in which a client gets ASK: the old master
        is MIGRATING, the new one IMPORTING and has the keys. `finish_move` ends that; `heal` (and
        so the next test's `reset`) brings it home.
        """
        slot = slot_of(where)
        source = self.master_of(slot_name(slot))
        self._moved.setdefault(slot, source)
        self._hand_over(slot, source, to)
        if finish:
            self.finish_move(slot, to)
        return slot

    def half_move_keys(self, where: int | str, to: Node, keys: Iterable[str]) -> None:
        """As `move_slot` with `finish=False`, of which only these keys have been moved so far."""
        slot = slot_of(where)
        source = self.master_of(slot_name(slot))
        self._moved.setdefault(slot, source)
        self._open_slot(slot, source, to)
        self._migrate(keys, source, to)

    def finish_move(self, slot: int, to: Node) -> None:
        """Give the slot to `to` for good. Clients that ask the old master get MOVED."""
        source = self.master_of(slot_name(slot))
        if source is to:  # half on its way out: a node takes no keys into a slot it is leaving
            to.command("CLUSTER", "SETSLOT", slot, "STABLE")
            for other in self.masters:
                if other is not to:
                    self._migrate_keys(slot, other, to)
        else:
            self._hand_over(slot, source, to)
        to_id = to.id
        # The new owner first: it must know before the old one forgets.
        for node in (to, *(master for master in self.masters if master is not to)):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", to_id)
            node.command("CLUSTER", "SETSLOT", slot, "STABLE")
        wait_until(
            lambda: all(
                any(owner == to_id for owner, slots in _owners(node) if slot in slots)
                for node in self.nodes
                if node.up
            ),
            f"all agree that {to!r} has slot {slot}",
        )

    def _hand_over(self, slot: int, source: Node, to: Node) -> None:
        self._open_slot(slot, source, to)
        self._migrate_keys(slot, source, to)

    def _open_slot(self, slot: int, source: Node, to: Node) -> None:
        source_id, to_id = source.id, to.id
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", to_id)

    def _migrate_keys(self, slot: int, source: Node, target: Node) -> None:
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self._migrate(keys, source, target)

    def _migrate(self, keys: Iterable[str | bytes], source: Node, target: Node) -> None:
        auth = ("AUTH", self.password) if self.password else ()
        source.command(
            "MIGRATE", LOOPBACK, target.server_port, "", 0, 5000, "REPLACE", *auth, "KEYS", *keys
        )

    # Forming

    def _form(self) -> None:
        masters, replicas = self.nodes[:SHARDS], self.nodes[SHARDS:]
        first = masters[0]
        for epoch, node in enumerate(self.nodes, start=1):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        bounds = [round(SLOTS * shard / SHARDS) for shard in range(SHARDS + 1)]
        for master in masters:
            low, high = bounds[master.shard], bounds[master.shard + 1] - 1
            master.command("CLUSTER", "ADDSLOTSRANGE", low, high)
        for node in self.nodes[1:]:
            first.command("CLUSTER", "MEET", LOOPBACK, node.server_port, node.bus_port)
        wait_until(lambda: all(self._knows_all(node) for node in self.nodes), "all nodes have met")
        for replica in replicas:
            replica.command("CLUSTER", "REPLICATE", masters[replica.shard].id)
        self.wait_ok()

    def _knows_all(self, node: Node) -> bool:
        lines = _cluster_nodes(node)
        return len(lines) == len(self.nodes) and not any(b"handshake" in line for line in lines)

    def _is_ok(self) -> bool:
        with contextlib.suppress(RedisError, OSError, LookupError):
            masters = self.masters
            return all(self._node_is_ok(node, masters) for node in self.nodes if node.up)
        return False

    def _node_is_ok(self, node: Node, masters: Iterable[Node]) -> bool:
        info = node.cluster_info()
        if info["cluster_state"] != "ok" or info["cluster_slots_ok"] != str(SLOTS):
            return False
        lines = _cluster_nodes(node)
        up = sum(1 for other in self.nodes if other.up)
        if sum(b" connected" in line and b"fail" not in line for line in lines) < up:
            return False
        if sum(b"master" in line.split()[2] for line in lines if b"fail" not in line) != SHARDS:
            return False
        role = node.role()
        if role[0] == b"master":
            running_replicas = sum(
                1
                for other in self.nodes
                if other.shard == node.shard and other is not node and other.up
            )
            return node in masters and len(role[2]) == running_replicas
        return bool(role[3] == b"connected")


def slot_of(where: int | str) -> int:
    """The hash slot of a bucket (`{bucket}` is its keys' tag) or of a key."""
    return key_slot((f"{{{where}}}" if isinstance(where, int) else where).encode())


def slot_name(slot: int) -> str:
    """A key that falls into this slot."""
    return next(name for name in map(str, range(10_000_000)) if slot_of(name) == slot)


def _cluster_nodes(node: Node) -> list[bytes]:
    reply: bytes = node.command("CLUSTER", "NODES")
    return reply.splitlines()


def _owners(node: Node) -> list[tuple[str, set[int]]]:
    """Master id and its slots, as this node sees it (CLUSTER NODES)."""
    owners = []
    for line in _cluster_nodes(node):
        fields = line.decode().split()
        if "master" not in fields[2]:
            continue
        slots: set[int] = set()
        for text in fields[8:]:
            if not text.startswith("["):  # a slot on the move
                low, _, high = text.partition("-")
                slots.update(range(int(low), int(high or low) + 1))
        owners.append((fields[0], slots))
    return owners
