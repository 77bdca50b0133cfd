"""The token with which Vault is asked: got, renewed, got anew; for a real OpenBao."""

import asyncio
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from keys.vault.conftest import StartKeys
from structlog.testing import capture_logs

from authz.keys.issuing.followed import FollowedKeys
from authz.keys.signer import SigningUnavailableError, sign_token
from authz.keys.vault import client
from authz.keys.vault.login import Lease
from authz.observe import events
from support.certificates import Certificates
from support.jwks import ec_key, sign
from support.openbao import OpenBao
from support.waiting import eventually

SERVICE_ACCOUNT_JWT = sign(
    {
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": "shop",
        "kubernetes.io/serviceaccount/service-account.name": "tokens",
        "kubernetes.io/serviceaccount/service-account.uid": "1",
        "sub": "system:serviceaccount:shop:tokens",
    },
    ec_key(),
)
"""As a pod finds it in its file system."""


@pytest.fixture
def key(openbao: OpenBao) -> str:
    openbao.transit("token", "ecdsa-p256")
    return "token"


def write(path: str, content: str) -> None:
    Path(path).write_text(content)


async def signs(keys: FollowedKeys) -> bool:
    try:
        return bool(await sign_token({}, await keys.current()))
    except SigningUnavailableError:
        return False


def token_data(openbao: OpenBao, keys: FollowedKeys) -> Any:
    lease = keys._store._vault._lease  # type: ignore[attr-defined]
    return openbao.root.auth.token.lookup(lease.token)["data"]


async def test_a_token_of_a_file_is_renewed_before_half_its_time_is_over(
    openbao: OpenBao, key: str, start_keys: StartKeys, tmp_path: Path
) -> None:
    file = openbao.token(tmp_path, ttl="2s")
    made_at = time.monotonic()
    keys = await start_keys({"address": openbao.address, "key": key, "token_file": str(file)})
    await eventually(lambda: token_data(openbao, keys).get("last_renewal"), "renewed")
    assert time.monotonic() - made_at < 1.5
    await eventually(lambda: time.monotonic() - made_at > 2.2, "its first time is over")
    assert await signs(keys)
    assert token_data(openbao, keys)["creation_ttl"] == 2


async def test_an_approle_logs_in_again_when_its_token_can_not_be_renewed_further(
    openbao: OpenBao, key: str, start_keys: StartKeys, tmp_path: Path
) -> None:
    openbao.policy("role", 'path "transit/*" { capabilities = ["read", "update"] }')
    role = openbao.approle(tmp_path, "role", token_ttl="1s", token_max_ttl="1s")
    began = time.monotonic()
    with capture_logs() as logs:
        keys = await start_keys({"address": openbao.address, "key": key, "approle": role})
        while time.monotonic() - began < 1.6:
            assert await signs(keys)
            await asyncio.sleep(0.02)
    logins = [line for line in logs if line["event"] == events.VAULT_LOGGED_IN]
    assert 2 <= len(logins) <= 6


async def test_a_token_that_is_renewed_for_a_moment_only_is_replaced_before_it_ends(
    openbao: OpenBao,
    key: str,
    start_keys: StartKeys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Near its longest time (`token_max_ttl`) Vault renews a token for what is left."""

    def nearly_over(token: str, answer: object) -> Lease:
        assert answer
        return Lease(token, 60.0, renewable=True)

    openbao.policy("role", 'path "transit/*" { capabilities = ["read", "update"] }')
    role = openbao.approle(tmp_path, "role", token_ttl="1h")
    keys = await start_keys({"address": openbao.address, "key": key, "approle": role})
    vault = keys._store._vault  # type: ignore[attr-defined]
    first = vault._lease
    vault._renew_at = 0.0
    await vault.tend()
    assert vault._lease.token == first.token
    monkeypatch.setattr(client, "lease_of_renewal", nearly_over)
    vault._renew_at = 0.0
    await vault.tend()
    assert vault._lease.token != first.token
    assert vault._lease.seconds == 3600


async def test_a_token_that_somebody_revokes_is_replaced_by_another(
    openbao: OpenBao,
    key: str,
    start_keys: StartKeys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "LOG_IN_AGAIN", 0.0)
    openbao.policy("role", 'path "transit/*" { capabilities = ["read", "update"] }')
    role = openbao.approle(tmp_path, "role")
    keys = await start_keys({"address": openbao.address, "key": key, "approle": role})
    openbao.root.auth.token.revoke(token_data(openbao, keys)["id"])
    assert await signs(keys)


async def test_a_file_with_another_token_is_read_when_the_old_one_is_refused(
    openbao: OpenBao,
    key: str,
    start_keys: StartKeys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Vault's agent does, which replaces the file by itself."""
    monkeypatch.setattr(client, "LOG_IN_AGAIN", 0.0)
    file = openbao.token(tmp_path)
    keys = await start_keys({"address": openbao.address, "key": key, "token_file": str(file)})
    assert await signs(keys)
    openbao.root.auth.token.revoke(file.read_text().strip())
    assert not await signs(keys)
    openbao.token(tmp_path)
    assert await signs(keys)


async def test_what_the_policy_refuses_does_not_cause_one_log_in_after_another(
    openbao: OpenBao, key: str, start_keys: StartKeys, tmp_path: Path
) -> None:
    openbao.policy("reads", 'path "transit/keys/*" { capabilities = ["read"] }')
    role = openbao.approle(tmp_path, "reads")
    with capture_logs() as logs:
        keys = await start_keys({"address": openbao.address, "key": key, "approle": role})
        for _ in range(5):
            with pytest.raises(SigningUnavailableError, match="permission denied on transit/sign"):
                await sign_token({}, await keys.current())
    assert [line["event"] for line in logs].count(events.VAULT_LOGGED_IN) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"vault\.approle\.secret_id_file: .*: No such file"),
        ("", "is empty"),
        ("wrong", "auth/approle/login refuses the log-in"),
    ],
)
async def test_credentials_that_can_not_be_used_are_named(
    openbao: OpenBao,
    key: str,
    start_keys: StartKeys,
    tmp_path: Path,
    content: str | None,
    problem: str,
) -> None:
    role = openbao.approle(tmp_path, "root")
    if content is None:
        role["secret_id_file"] += "-missing"
    else:
        write(role["secret_id_file"], content)
    keys = await start_keys({"address": openbao.address, "key": key, "approle": role})
    with pytest.raises(SigningUnavailableError, match=problem):
        await keys.current()


class Reviewer(BaseHTTPRequestHandler):
    """The one call of Kubernetes that Vault makes: TokenReview."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = (
            b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":'
            b'{"authenticated":true,"user":{"username":"system:serviceaccount:shop:tokens",'
            b'"uid":"1"}}}'
        )
        self.send_response(201)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


async def test_a_pod_logs_in_with_its_service_account(
    openbao: OpenBao,
    key: str,
    start_keys: StartKeys,
    tmp_path: Path,
    certificates: Certificates,
) -> None:
    """Kubernetes itself, which says whether the pod's token is good, is played by this test."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reviewer)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        root = openbao.root
        root.sys.enable_auth_method("kubernetes")
        reviewer = {
            "kubernetes_host": f"http://127.0.0.1:{server.server_port}",
            "disable_local_ca_jwt": True,
            "kubernetes_ca_cert": certificates.ca.read_text(),
            "token_reviewer_jwt": SERVICE_ACCOUNT_JWT,
        }
        root.write_data("auth/kubernetes/config", data=reviewer)
        openbao.policy("role", 'path "transit/*" { capabilities = ["read", "update"] }')
        root.auth.kubernetes.create_role(
            "tokens", ["tokens"], ["shop"], policies=["role"], ttl="1h"
        )
        pod = str(tmp_path / "token")
        write(pod, SERVICE_ACCOUNT_JWT)
        kubernetes = {"role": "tokens", "token_file": pod}
        vault = {"address": openbao.address, "key": key, "kubernetes": kubernetes}
        assert await signs(await start_keys(vault))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
