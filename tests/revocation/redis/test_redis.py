"""The store against real servers: a cluster of three masters and replicas, and single ones."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import StartCluster
from pydantic import SecretStr

from authz.revocation.open import open_store
from authz.revocation.record import Clear, Revoked, Unavailable
from authz.revocation.store import StoreError
from authz.settings import (
    MAX_LEEWAY,
    MAX_LIFETIME,
    Settings,
    SettingsError,
    StoreSettings,
    TlsSettings,
)
from support.certificates import Certificates
from support.cluster import ValkeyCluster
from support.revocations import (
    BUCKETS,
    find,
    new_subject,
    of_token,
    of_user,
    opened,
    token_ref,
)
from support.valkey import ValkeyServer
from support.waiting import eventually

# Keys


async def test_a_revoked_token_is_one_key_that_lives_as_long_as_the_token(
    cluster: ValkeyCluster,
) -> None:
    """And the longest leeway that a sidecar may have."""
    ref = token_ref(bucket=5)
    async with opened(cluster.url) as told:
        assert await told.find(ref) == Clear()
        acknowledged = await told.store.revoke_token(of_token(ref, reason="stolen"))
        assert (acknowledged.replicas, acknowledged.repeated) == (1, False)
        assert await told.find(ref) == Revoked(ref.expires_at + MAX_LEEWAY)
        assert (await told.store.revoke_token(of_token(ref))).repeated
    key = f"jwt:{{5}}:blacklist:{ref.user}:{ref.token}"
    assert cluster.keys() == [key.encode(), b"jwt:{5}:feed", b"jwt:{5}:tip"]
    client = cluster.master_of(5).client
    assert client.pexpiretime(key) == (ref.expires_at + 60) * 1000
    note = json.loads(client.get(key) or b"")
    assert note.keys() == {"reason", "by", "at"}
    assert (note["reason"], note["by"]) == ("stolen", "a test")
    assert cluster.replica_of(5).command("DBSIZE") == 3


async def test_a_users_cut_off_revokes_what_was_issued_before_it(cluster: ValkeyCluster) -> None:
    now = int(time.time())
    subject = new_subject()
    old, new = token_ref(subject, issued_at=now - 10), token_ref(subject, issued_at=now + 1)
    async with opened(cluster.url) as told:
        acknowledged = await told.store.revoke_user(of_user(old, now + 0.5))
        assert (acknowledged.replicas, acknowledged.repeated) == (1, False)
        assert await told.find(new) == Clear()
        assert await told.find(token_ref(issued_at=now - 10)) == Clear()
        cut = now + 0.5
        assert await told.find(old) == Revoked(cut + MAX_LIFETIME + MAX_LEEWAY, cut)
    key = f"jwt:{{{old.bucket}}}:not-before:{old.user}"
    client = cluster.master_of(old.bucket).client
    assert client.pexpiretime(key) == round((cut + 86_400 + 60) * 1000)
    value: bytes = cluster.master_of(old.bucket).command("GET", key)
    milliseconds, note = value.split(b" ", 1)
    assert int(milliseconds) == round(cut * 1000)
    assert json.loads(note)["reason"] == "password changed"


async def test_a_lower_cut_off_changes_nothing(cluster: ValkeyCluster) -> None:
    now = int(time.time())
    ref = token_ref(issued_at=now - 10)
    async with opened(cluster.url) as told:
        await told.store.revoke_user(of_user(ref, now))
        assert (await told.store.revoke_user(of_user(ref, now - 100))).repeated
        assert isinstance(await told.find(ref), Revoked)


async def test_a_token_revoked_without_its_user_is_found_whosever_it_is(
    cluster: ValkeyCluster,
) -> None:
    """Written to every bucket, and so to every master; idempotent as a whole."""
    refs = [token_ref(bucket=bucket) for bucket in range(BUCKETS)]
    async with opened(cluster.url) as told:
        for ref in (refs[0], refs[7]):
            acknowledged = await told.store.revoke_token(of_token(ref, userless=True))
            assert (acknowledged.replicas, acknowledged.repeated) == (1, False)
        assert (await told.store.revoke_token(of_token(refs[0], userless=True))).repeated
        for ref in refs:
            assert isinstance(await told.find(replace(ref, token=refs[7].token)), Revoked)
        assert await told.find(refs[3]) == Clear()
    assert len(cluster.keys()) == 4 * BUCKETS  # two tokens, the feed and its tip
    assert all(master.command("DBSIZE") for master in cluster.masters)


async def test_look_ups_reach_all_masters(cluster: ValkeyCluster) -> None:
    async with opened(cluster.url) as told:
        refs = [token_ref(bucket=bucket) for bucket in range(BUCKETS)]
        assert set(await asyncio.gather(*map(told.find, refs))) == {Clear()}
    assert cluster.command_counts() == {"mget": BUCKETS}
    assert all(master.command_counts()["mget"] for master in cluster.masters)


# Replicas


async def test_a_revocation_that_no_replica_confirms_is_not_acknowledged(
    cluster: ValkeyCluster,
) -> None:
    ref = token_ref(bucket=2)
    cluster.freeze(cluster.replica_of(2))
    async with opened(cluster.url, wait_replicas=1, wait_timeout=0.1, write_timeout=0.8) as told:
        started = time.monotonic()
        with pytest.raises(StoreError, match="0 of 1 replicas confirmed it") as failed:
            await told.store.revoke_token(of_token(ref))
        assert time.monotonic() - started < 0.8 + 0.5
        assert "Repeating it is safe" in str(failed.value)
        cluster.heal()
        acknowledged = await told.store.revoke_token(of_token(ref))
        assert (acknowledged.replicas, acknowledged.repeated) == (1, True)


async def test_auto_waits_for_a_replica_while_the_cluster_lists_one(
    cluster: ValkeyCluster,
) -> None:
    """One that was just killed is still listed: not acknowledged until the cluster gave it up."""
    ref = token_ref(bucket=2)
    cluster.kill(cluster.replica_of(2))
    async with opened(cluster.url, start=False, wait_timeout=0.1, write_timeout=20) as told:
        # (written by the first attempt, confirmed as good by a later one)
        acknowledged = await told.store.revoke_token(of_token(ref))
        assert (acknowledged.replicas, acknowledged.repeated) == (0, False)
        shard = told.store._nodes.topology.shard(2)
        assert shard is not None
        assert shard.replicas == ()


async def test_nobody_is_waited_for_where_none_is_wanted(cluster: ValkeyCluster) -> None:
    cluster.freeze(cluster.replica_of(2))
    async with opened(cluster.url, wait_replicas=0) as told:
        assert (await told.store.revoke_token(of_token(token_ref(bucket=2)))).replicas == 0


async def test_more_replicas_than_there_are_never_acknowledge(cluster: ValkeyCluster) -> None:
    async with opened(cluster.url, wait_replicas=2, wait_timeout=0.05, write_timeout=0.5) as told:
        with pytest.raises(StoreError, match="1 of 2 replicas"):
            await told.store.revoke_token(of_token(token_ref()))


# A single server


async def test_a_single_server_without_a_replica(valkey: ValkeyServer) -> None:
    ref = token_ref()
    async with opened(valkey.url) as told:
        assert await told.find(ref) == Clear()
        assert (await told.store.revoke_token(of_token(ref))).replicas == 0
        assert isinstance(await told.find(ref), Revoked)
        assert told.store.status()["kind"] == "single"


async def test_another_database(valkey: ValkeyServer) -> None:
    async with opened(f"{valkey.url}/3") as told:
        await told.store.revoke_token(of_token(token_ref()))
    assert valkey.command("DBSIZE") == 0
    assert valkey.client.info("keyspace").keys() == {"db3"}


async def test_a_single_primary_with_a_replica_that_is_demoted_and_promoted_back(
    tmp_path: Path,
) -> None:
    """READONLY meanwhile; the same store writes again afterwards, without a restart."""
    options = {"repl-diskless-sync-delay": "0"}
    with (
        ValkeyServer(tmp_path / "valkey", options=options) as valkey,
        ValkeyServer(tmp_path / "replica", options=options) as replica,
    ):
        replica.command("REPLICAOF", "127.0.0.1", valkey.port)
        await eventually(lambda: len(valkey.command("ROLE")[2]) == 1, "the replica is linked")
        async with opened(valkey.url, write_timeout=1.0) as told:
            first, second = token_ref(), token_ref()
            assert (await told.store.revoke_token(of_token(first))).replicas == 1
            replica.command("REPLICAOF", "NO", "ONE")
            valkey.command("REPLICAOF", "127.0.0.1", replica.port)
            await eventually(lambda: valkey.command("ROLE")[0] == b"slave", "demoted")
            with pytest.raises(StoreError, match=r"(?i)read ?only") as failed:
                await told.store.revoke_token(of_token(second))
            assert str(valkey.port) in str(failed.value)
            writing = asyncio.create_task(told.store.revoke_token(of_token(second)))
            valkey.command("REPLICAOF", "NO", "ONE")
            await writing
            assert isinstance(await told.find(second), Revoked)


# Names and passwords


async def test_tls_with_a_client_certificate_on_a_cluster(
    start_cluster: StartCluster, certificates: Certificates
) -> None:
    cluster = start_cluster(password="secret", tls=certificates, client_certificates=True)
    tls = TlsSettings(
        ca_file=certificates.ca, cert_file=certificates.client, key_file=certificates.client_key
    )
    refs = [token_ref(bucket=bucket) for bucket in range(BUCKETS)]
    async with opened(cluster.url, tls=tls) as told:
        await told.store.revoke_token(of_token(refs[4]))
        found = await asyncio.gather(*map(told.find, refs))
        assert [isinstance(one, Revoked) for one in found].index(True) == 4
        # A node that hangs can't say good-bye by TLS; closing must not wait for it (`opened`).
        for node in cluster.nodes:
            assert node.proxy
            node.proxy.block()


@pytest.mark.parametrize(
    ("ca", "client", "problem"),
    [
        ("other_ca", True, "certificate verify failed"),
        (None, True, "certificate verify failed"),
        ("ca", False, "certificate required|closed|reset|lost"),
    ],
)
async def test_tls_that_does_not_fit_is_unavailable_and_says_why(
    tmp_path: Path,
    certificates: Certificates,
    ca: str | None,
    client: bool,
    problem: str,
) -> None:
    with ValkeyServer(tmp_path / "valkey", tls=certificates, client_certificates=True) as server:
        tls = TlsSettings(
            ca_file=getattr(certificates, ca) if ca else None,
            cert_file=certificates.client if client else None,
            key_file=certificates.client_key if client else None,
        )
        async with opened(server.url, connected=False, tls=tls, write_timeout=0.3) as told:
            await eventually(lambda: told.store.status()["error"] != "not connected yet", "tried")
            assert await told.find(token_ref()) == Unavailable("connection")
            with pytest.raises(StoreError, match=problem):
                await told.store.revoke_token(of_token(token_ref()))
            assert told.store.status()["connected"] is False


async def test_plain_redis_to_a_tls_port_is_unavailable(
    tmp_path: Path, certificates: Certificates
) -> None:
    with ValkeyServer(tmp_path / "valkey", tls=certificates) as server:
        url = server.url.replace("rediss://", "redis://")
        async with opened(url, connected=False) as told:
            assert isinstance(await told.find(token_ref()), Unavailable)


@pytest.mark.parametrize(
    ("tls", "setting"),
    [
        ({"ca_file": "missing.pem"}, "store.tls.ca_file: .*missing.pem: No such file"),
        ({"ca_file": "garbage.pem"}, "store.tls.ca_file"),
        ({"cert_file": "missing.pem"}, "store.tls.cert_file and key_file"),
        ({"cert_file": "encrypted.pem"}, "store.tls.cert_file and key_file"),
    ],
)
async def test_a_certificate_that_cannot_be_read_stops_the_start(
    tmp_path: Path, tls: dict[str, str], setting: str
) -> None:
    """Also a key with a passphrase: nobody is asked for one on a terminal."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    (tmp_path / "garbage.pem").write_text("no certificate")
    (tmp_path / "encrypted.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    settings = TlsSettings(**{name: tmp_path / path for name, path in tls.items()})
    with pytest.raises(SettingsError, match=setting):
        async with opened("rediss://127.0.0.1:1", connected=False, tls=settings):
            pass


@pytest.fixture
def protected(tmp_path: Path) -> Any:
    users = {"authz": "on >p@s/s#w%rd ~* &* +@all", "default": "off"}
    with ValkeyServer(tmp_path / "protected", users={"authz": users["authz"]}) as server:
        yield server


@pytest.mark.parametrize("how", ["url", "settings", "file"])
async def test_an_acl_user_by_url_by_settings_or_by_file(
    protected: ValkeyServer, tmp_path: Path, how: str
) -> None:
    settings: dict[str, Any] = {}
    url = protected.url
    if how == "url":
        url = protected.url_for("authz", "p@s/s#w%rd").replace("p%40s/s", "p%40s%2Fs")
    else:
        settings["username"] = "authz"
        if how == "settings":
            settings["password"] = SecretStr("p@s/s#w%rd")
        else:
            settings["password_file"] = tmp_path / "password"
            settings["password_file"].write_text("p@s/s#w%rd\n")
    async with opened(url, **settings) as told:
        assert await told.find(token_ref()) == Clear()
    users = {one["user"] for one in protected.client.client_list()}
    assert users <= {"default", "authz"}


@pytest.mark.parametrize("content", [None, b"\xff"])
async def test_a_password_file_that_cannot_be_read_stops_the_start(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"store\.password_file"):
        async with opened("redis://127.0.0.1:1", connected=False, password_file=path):
            pass


@pytest.mark.parametrize("cluster_url", [True, False])
async def test_a_wrong_password_is_unavailable_and_says_so(
    protected: ValkeyServer, cluster_url: bool
) -> None:
    url = protected.url_for("authz", "hunter2")
    url = url.replace("redis://", "redis+cluster://") if cluster_url else url
    async with opened(url, connected=False, write_timeout=0.3) as told:
        await eventually(lambda: WRONG in str(told.store.status()["error"]), "the error")
        assert await told.find(token_ref()) == Unavailable("connection")
        with pytest.raises(StoreError, match=WRONG) as failed:
            await told.store.revoke_token(of_token(token_ref()))
    assert "hunter2" not in str(failed.value)


WRONG = "AuthenticationError: invalid username-password pair"


# Which store


async def test_open_store_gives_the_store_of_the_url(tmp_path: Path) -> None:
    issuer = {
        "issuer": "i",
        "audiences": ["a"],
        "algorithms": ["RS256"],
        "keys": {"jwks_file": "x"},
    }
    memory = open_store(Settings.model_validate({"issuers": [issuer]}))
    assert memory.status()["kind"] == "memory"
    assert await find(memory, token_ref()) == Clear()
    store = StoreSettings(url=SecretStr("redis+cluster://127.0.0.1:1"))
    redis = open_store(Settings.model_validate({"issuers": [issuer], "store": store}))
    assert redis.status() == {
        "kind": "cluster", "connected": False, "error": "not connected yet", "nodes": {},
    }  # fmt: skip
    await redis.aclose()


async def test_a_store_that_was_never_reached_answers_at_once() -> None:
    async with opened("redis+cluster://127.0.0.1:1", connected=False) as told:
        assert await told.find(token_ref()) == Unavailable("connection")
