"""What becomes of signing while Vault is sealed, gone, frozen, or something else altogether."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from keys.origin import Answer, Origin
from keys.vault.conftest import StartKeys
from structlog.testing import capture_logs

from authz.keys.issuing.followed import FollowedKeys
from authz.keys.signer import SigningUnavailableError, sign_token
from authz.keys.vault import client
from authz.keys.vault.client import Vault
from authz.observe import events
from authz.settings import SettingsError, VaultSettings
from support.certificates import Certificates
from support.openbao import OpenBao
from support.proxy import TcpProxy
from support.waiting import eventually


@pytest.fixture
def key(openbao: OpenBao) -> str:
    openbao.transit("states", "ecdsa-p256")
    return "states"


def secret_of(token_file: str) -> str:
    return Path(token_file).read_text().strip()


def write(path: Path, content: str) -> None:
    path.write_text(content)


async def refusal(keys: FollowedKeys) -> SigningUnavailableError | None:
    """Why no token can be signed now."""
    try:
        await sign_token({}, await keys.current())
    except SigningUnavailableError as error:
        return error
    return None


async def well(keys: FollowedKeys) -> bool:
    return await refusal(keys) is None and not keys.status()["failing"]


async def test_while_vault_is_sealed_no_token_is_signed_and_everybody_knows(
    openbao: OpenBao, key: str, token_file: str, start_keys: StartKeys
) -> None:
    vault = {"address": openbao.address, "key": key, "token_file": token_file}
    keys = await start_keys(vault)
    published = keys.jwks()
    with capture_logs() as logs:
        openbao.seal()
        try:
            refused = await refusal(keys)
            assert refused is not None
            assert str(refused) == f"{openbao.address}: Vault is sealed; unseal it"
            assert refused.retry_after == 30
            await keys.refresh()
            assert keys.status()["error"] == "Vault is sealed; unseal it"
            assert keys.jwks() == published, "sidecars need the keys all the same"
            for _ in range(20):
                assert await refusal(keys) is not None
        finally:
            openbao.unseal()
        await eventually(lambda: well(keys), "signs again by itself")
    said = [line["event"] for line in logs]
    assert said.count(events.VAULT_DOWN) == said.count(events.VAULT_UP) == 1
    assert keys.figures.signatures["unavailable"] >= 21
    assert token_file not in str(logs)
    assert secret_of(token_file) not in str(logs)


async def test_a_service_that_starts_without_vault_signs_as_soon_as_it_is_there(
    openbao: OpenBao, key: str, token_file: str, start_keys: StartKeys
) -> None:
    with TcpProxy(openbao.port) as line:
        line.cut()
        address = f"http://127.0.0.1:{line.port}"
        keys = await start_keys({"address": address, "key": key, "token_file": token_file})
        refused = await refusal(keys)
        assert refused is not None
        assert "Vault can't be reached" in str(refused)
        line.restore()
        await eventually(lambda: well(keys), "signs")


async def test_a_connection_that_vault_has_closed_meanwhile_costs_no_token(
    openbao: OpenBao, key: str, token_file: str, start_keys: StartKeys
) -> None:
    with TcpProxy(openbao.port) as line:
        address = f"http://127.0.0.1:{line.port}"
        keys = await start_keys({"address": address, "key": key, "token_file": token_file})
        for _ in range(5):
            line.cut()
            line.restore()
            assert await refusal(keys) is None


async def test_a_request_whose_connection_breaks_is_sent_once_more(
    openbao: OpenBao, key: str, token_file: str
) -> None:
    """The other side may close a connection that was kept just when it is used again."""
    vault = Vault(
        VaultSettings.model_validate(
            {"address": openbao.address, "key": key, "token_file": token_file}
        )
    )
    broken = [requests.exceptions.ConnectionError("Remote end closed connection")]

    def ask(client: Any) -> Any:
        if broken:
            raise broken.pop()
        return client.secrets.transit.read_key(key)

    try:
        assert (await vault.call("transit/keys", ask))["data"]["name"] == key
    finally:
        await vault.aclose()


async def test_a_vault_that_hangs_holds_up_one_request_at_a_time_and_never_the_loop(
    openbao: OpenBao,
    key: str,
    token_file: str,
    start_keys: StartKeys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "REST", 2.0)
    vault = {"address": openbao.address, "key": key, "token_file": token_file, "timeout": 0.4}
    keys = await start_keys(vault)
    openbao.process.freeze()
    try:
        began = time.monotonic()
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        turning = asyncio.ensure_future(turn())
        refused = await asyncio.gather(*(refusal(keys) for _ in range(50)))
        took = time.monotonic() - began
        turning.cancel()
        assert all(one is not None and "no answer within 0.4 s" in str(one) for one in refused)
        assert took < 4, "fifty of them one after the other would take twenty seconds"
        assert turns > 5
        began = time.monotonic()
        assert await refusal(keys) is not None
        assert time.monotonic() - began < 0.3, "told at once"
    finally:
        openbao.process.thaw()
    await eventually(lambda: well(keys), "signs again")


async def test_another_server_in_its_place_is_found_out_and_gets_no_token_onwards(
    openbao: OpenBao, key: str, token_file: str, start_keys: StartKeys, origin: Origin
) -> None:
    """A redirect isn't followed: the token would go along."""
    path = "/v1/auth/token/lookup-self"
    with Origin() as elsewhere:
        there = (("location", f"{elsewhere.url}{path}"),)
        origin.pages[path] = Answer(status=307, headers=there)
        keys = await start_keys({"address": origin.url, "key": key, "token_file": token_file})
        assert await refusal(keys) is not None
        assert keys.status()["failing"]
        assert elsewhere.asked == []
    for body in (b"<html>hello</html>", b"[]", b'{"data": 7}'):
        origin.pages[path] = Answer(body)
        await keys.refresh()
        assert await refusal(keys) is not None


async def test_vault_is_reached_by_tls_with_a_certificate_that_is_checked(
    openbao: OpenBao,
    key: str,
    token_file: str,
    start_keys: StartKeys,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against `ca_file`, whatever the environment says."""
    with TcpProxy(openbao.port, tls=certificates.server_context()) as line:
        vault = {
            "address": f"https://127.0.0.1:{line.port}",
            "key": key,
            "token_file": token_file,
            "ca_file": str(certificates.ca),
        }
        assert await refusal(await start_keys(vault)) is None
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca))
        for ca in (str(certificates.other_ca), None):
            refused = await refusal(await start_keys({**vault, "ca_file": ca}))
            assert refused is not None
            assert "Vault's certificate can't be verified" in str(refused)


async def test_keys_may_be_in_a_namespace(
    openbao: OpenBao, start_keys: StartKeys, tmp_path: Path
) -> None:
    openbao.root.write_data("sys/namespaces/team")
    team = openbao.within("team")
    team.sys.enable_secrets_engine("transit")
    team.secrets.transit.create_key("named", key_type="ecdsa-p256")
    rules = 'path "transit/*" { capabilities = ["read", "update"] }'
    team.sys.create_or_update_policy("signs", rules)
    token = team.auth.token.create(policies=["signs"], ttl="1h")["auth"]["client_token"]
    write(tmp_path / "token", token)
    vault = {
        "address": openbao.address,
        "key": "named",
        "token_file": str(tmp_path / "token"),
        "namespace": "team",
    }
    assert await refusal(await start_keys(vault)) is None


def test_settings_name_one_engine_and_one_way_to_log_in(token_file: str) -> None:
    good = {"address": "http://vault:8200", "key": "k", "token_file": token_file}
    assert VaultSettings.model_validate(good).mounted_at == "transit"
    kv = {"address": "https://vault:8200/", "kv_path": "a/b", "token_file": token_file}
    assert VaultSettings.model_validate(kv).mounted_at == "secret"
    for change, problem in (
        ({"kv_path": "x"}, "exactly one of key"),
        ({"key": None}, "exactly one of key"),
        ({"token_file": None}, "exactly one of token_file"),
        ({"approle": {"role_id": "r"}}, "exactly one of token_file"),
        ({"address": "vault:8200"}, "not an http"),
        ({"address": "https://me:secret@vault:8200"}, "takes no user, password"),
        ({"address": "https://vault:8200/?x=1"}, "takes no user, password, query"),
        ({"key": "../sys/seal"}, "String should match pattern"),
    ):
        with pytest.raises(ValueError, match=problem):
            VaultSettings.model_validate({**good, **change})


async def test_a_ca_file_that_can_not_be_used_is_a_matter_of_settings(
    start_keys: StartKeys, tmp_path: Path
) -> None:
    (tmp_path / "ca").write_text("none")
    vault = {
        "address": "https://127.0.0.1:1",
        "key": "k",
        "token_file": "t",
        "ca_file": str(tmp_path / "ca"),
    }
    with pytest.raises(SettingsError, match=r"tokens\.signing\.vault\.ca_file: .*: holds no cert"):
        await start_keys(vault)
