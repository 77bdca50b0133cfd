"""The cluster that other tests rely on does what they rely on."""

import socket
from pathlib import Path

import pytest
from conftest import StartCluster
from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import AskError, MovedError, RedisError
from redis.retry import Retry

from support.certificates import Certificates
from support.cluster import SHARDS, ValkeyCluster, slot_of
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.valkey import ValkeyServer
from support.waiting import wait_until


def test_it_has_three_masters_with_a_replica_each(cluster: ValkeyCluster) -> None:
    assert len(cluster.nodes) == 2 * SHARDS
    assert len({node.port for node in cluster.masters}) == SHARDS
    for bucket in range(16):
        master, replica = cluster.master_of(bucket), cluster.replica_of(bucket)
        assert master.is_master
        assert not replica.is_master
        assert master.shard == replica.shard


def test_a_bucket_is_where_a_cluster_client_finds_it(cluster: ValkeyCluster) -> None:
    client = RedisCluster(host=LOOPBACK, port=cluster.nodes[0].port)
    try:
        for bucket in range(16):
            client.set(f"jwt:{{{bucket}}}:x", bucket)
            assert cluster.master_of(bucket).client.get(f"jwt:{{{bucket}}}:x")
    finally:
        client.close()
    assert len(cluster.keys()) == 16
    cluster.flush()
    assert cluster.keys() == []


def test_commands_are_counted_where_they_ran(cluster: ValkeyCluster) -> None:
    cluster.master_of(3).client.mget("{3}a", "{3}b")
    assert cluster.command_counts() == {"mget": 1}
    assert cluster.master_of(3).command_counts() == {"mget": 1}
    cluster.reset_counts()
    assert not cluster.command_counts()


def test_a_killed_master_is_replaced_and_nothing_acknowledged_is_lost(
    cluster: ValkeyCluster,
) -> None:
    old = cluster.master_of(5)
    old.client.set("{5}kept", "1")
    old.client.wait(1, 5000)
    cluster.kill(old)
    new = cluster.wait_failover(old)
    assert cluster.master_of(5) is new
    assert new.client.get("{5}kept") == b"1"
    cluster.restart(old)
    cluster.wait_ok()
    assert not old.is_master
    assert cluster.replica_of(5) is old
    with pytest.raises(MovedError, match=str(new.port)):
        old.client.set("{5}kept", "2")


def test_it_comes_back_with_its_keys_after_every_node_was_killed(cluster: ValkeyCluster) -> None:
    cluster.master_of(7).client.set("{7}kept", "1")
    for node in cluster.nodes:
        cluster.kill(node)
    cluster.heal()
    assert cluster.keys() == [b"{7}kept"]


def test_a_frozen_node_keeps_its_connections_and_does_not_answer(cluster: ValkeyCluster) -> None:
    node = cluster.master_of(1)
    with socket.create_connection((LOOPBACK, node.port)) as line:
        line.sendall(b"PING\r\n")
        assert line.recv(100) == b"+PONG\r\n"
        cluster.freeze(node)
        line.settimeout(0.2)
        line.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            line.recv(100)
        cluster.thaw(node)
        line.settimeout(10)
        assert line.recv(100) == b"+PONG\r\n"


def test_a_moved_slot_redirects_and_comes_home_on_reset(cluster: ValkeyCluster) -> None:
    source = cluster.master_of(2)
    target = next(node for node in cluster.masters if node is not source)
    source.client.set("{2}x", "1")
    slot = cluster.move_slot(2, target, finish=False)
    assert slot == slot_of("{2}anything")
    with pytest.raises(AskError):
        source.client.get("{2}x")
    cluster.finish_move(slot, target)
    with pytest.raises(MovedError):
        source.client.get("{2}x")
    assert target.client.get("{2}x") == b"1"
    cluster.reset()
    assert cluster.master_of(2) is source


def test_a_half_moved_slot_comes_home_on_reset(cluster: ValkeyCluster) -> None:
    source = cluster.master_of(4)
    target = next(node for node in cluster.masters if node is not source)
    source.client.set("{4}x", "1")
    cluster.move_slot(4, target, finish=False)
    cluster.heal()
    assert source.client.get("{4}x") == b"1"


def test_a_cluster_with_tls_and_a_password_sends_clients_to_its_tls_ports(
    start_cluster: StartCluster, certificates: Certificates
) -> None:
    cluster = start_cluster(password="secret", tls=certificates, client_certificates=True)
    assert cluster.url.startswith("rediss+cluster://:secret@127.0.0.1:")
    client = RedisCluster(
        host=LOOPBACK,
        port=cluster.nodes[0].port,
        password="secret",
        ssl=True,
        ssl_ca_certs=str(certificates.ca),
        ssl_certfile=str(certificates.client),
        ssl_keyfile=str(certificates.client_key),
    )
    try:
        for bucket in range(16):
            assert client.set(f"{{{bucket}}}", "1")
    finally:
        client.close()
    other = next(node for node in cluster.masters if node is not cluster.master_of(0))
    with pytest.raises(MovedError) as moved:
        other.client.get("{0}")
    assert moved.value.port == cluster.master_of(0).port


def test_a_single_server_has_acl_users_and_tls(tmp_path: Path, certificates: Certificates) -> None:
    with ValkeyServer(
        tmp_path / "valkey", users={"authz": "on >pw ~jwt:* +get"}, tls=certificates
    ) as server:
        url = server.url_for("authz", "pw")
        client = Redis.from_url(url, ssl_ca_certs=str(certificates.ca))
        assert client.get("jwt:x") is None
        with pytest.raises(RedisError, match="No permissions"):
            client.get("other")
        client.close()
        stranger = Redis.from_url(url, ssl_ca_certs=str(certificates.other_ca))
        with pytest.raises(RedisError, match="certificate"):
            stranger.get("jwt:x")
        stranger.close()


def test_a_proxys_line_can_be_blocked_one_way_cut_and_restored(valkey: ValkeyServer) -> None:
    with TcpProxy(valkey.port) as proxy:
        once = Retry(NoBackoff(), 0)
        client = Redis(host=LOOPBACK, port=proxy.port, socket_timeout=0.3, retry=once)
        assert client.ping()
        proxy.block("to_client")
        with pytest.raises(RedisError, match="Timeout"):
            client.set("arrived", "1")
        assert valkey.client.get("arrived") == b"1"
        proxy.cut()
        with pytest.raises(RedisError, match="refused"):
            client.ping()
        proxy.restore()
        wait_until(client.ping, "the line is back")
        client.close()
