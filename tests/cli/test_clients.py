"""`authz clients`, run as a person runs it, against a real server."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from authz.cli.main import main
from authz.tokens.clients.client import Client
from authz.tokens.clients.secret import SecretHasher
from support.jwks import ec_key, jwk, jwks, pem
from support.ports import LOOPBACK, free_port
from support.valkey import ValkeyServer


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    server: ValkeyServer,
) -> Run:
    """`authz clients` with these arguments, in a folder whose `authz.yaml` names the server."""
    server.client.flushall()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "authz.yaml").write_text(yaml.safe_dump({"store": {"url": server.url}}))

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["authz", "clients", *arguments, "--config", "authz.yaml"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return run


def stored(server: ValkeyServer) -> Client:
    """The only client in the store."""
    (key,) = server.command("KEYS", "jwt:*client*")
    return Client.load(server.command("GET", key))


def fits(client: Client, secret: str) -> bool:
    hasher = SecretHasher()
    try:
        return asyncio.run(hasher.compare(client, secret, time.time())) == "right"
    finally:
        hasher.close()


def test_a_new_client_s_secret_is_shown_once_and_kept_hashed(
    run: Run, server: ValkeyServer
) -> None:
    done = run(
        "add", "billing", "--grant", "client_credentials", "--scope", "orders:read",
        "--audience", "api", "--lifetime", "5m",
    )  # fmt: skip
    secret = done.out.strip()
    assert done.code == 0, done.err
    assert len(secret) == 43
    client = stored(server)
    assert (client.scopes, client.audiences, client.lifetime) == (("orders:read",), ("api",), 300)
    assert fits(client, secret)
    assert secret.encode() not in server.command("GET", *server.command("KEYS", "*"))
    assert secret not in run("list").out


def test_a_client_is_not_added_twice(run: Run) -> None:
    """Or its secret would be replaced unasked."""
    assert run("add", "a", "--grant", "client_credentials").code == 0
    done = run("add", "a", "--grant", "client_credentials")
    assert done.code == 1
    assert "exists" in done.err


def test_a_login_service_s_keys_are_kept_without_private_parts(
    run: Run, server: ValkeyServer, tmp_path: Path
) -> None:
    private = {**jwk(ec_key(), "k-1", alg="ES256"), "d": "AAAA"}
    (tmp_path / "jwks.json").write_text(jwks(private))
    done = run("add", "login", "--grant", "token_exchange", "--may-exchange", "--jwks", "jwks.json")
    assert done.code == 0, done.err
    (key,) = stored(server).keys
    assert key["kid"] == "k-1"
    assert "d" not in key


@pytest.mark.parametrize(
    "arguments",
    [
        ("a b", "--grant", "client_credentials"),
        ("a", "--grant", "client_credentials", "--scope", "a b"),
        ("a", "--grant", "client_credentials", "--public"),
        ("a", "--grant", "refresh_token", "--public", "--may-introspect"),
        ("a", "--grant", "client_credentials", "--lifetime", "25h"),
        ("a", "--grant", "client_credentials", "--lifetime", "0s"),
        ("a", "--grant", "client_credentials", "--jwks", "jwks.json"),
        ("a", "--grant", "password"),
        ("a",),
    ],
)
def test_a_client_that_makes_no_sense_is_a_usage_error(
    run: Run, server: ValkeyServer, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "jwks.json").write_text(jwks(jwk(ec_key(), "k-1", alg="ES256")))
    done = run("add", *arguments)
    assert done.code == 2
    assert done.err.startswith("authz: ")
    assert done.err.count("\n") == 1
    assert server.client.keys() == []


def test_a_file_without_keys_is_said_so(run: Run, tmp_path: Path) -> None:
    for text in ("{}", '{"keys": []}', pem(ec_key()).decode()):
        (tmp_path / "bad.json").write_text(text)
        done = run("add", "a", "--grant", "token_exchange", "--may-exchange", "--jwks", "bad.json")
        assert done.code == 1, text
        assert "bad.json" in done.err


def test_the_list_says_what_each_may(run: Run) -> None:
    run("add", "b", "--grant", "client_credentials", "--scope", "read")
    run("add", "a", "--public", "--grant", "token_exchange", "--grant", "refresh_token")
    lines = run("list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b"]
    assert re.search(r" created=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$", lines[0])
    first, second = (json.loads(line) for line in run("list", "--json").out.splitlines())
    assert (first["public"], first["grants"]) == (True, ["token_exchange", "refresh_token"])
    assert (second["secrets"], second["scopes"]) == (1, ["read"])


def test_a_client_is_disabled_and_enabled(run: Run, server: ValkeyServer) -> None:
    run("add", "a", "--grant", "client_credentials")
    assert run("disable", "a").code == 0
    assert stored(server).disabled
    assert run("enable", "a").code == 0
    assert not stored(server).disabled


def test_a_rotated_secret_leaves_the_old_one_for_a_while(run: Run, server: ValkeyServer) -> None:
    first = run("add", "a", "--grant", "client_credentials").out.strip()
    second = run("rotate-secret", "a").out.strip()
    assert fits(stored(server), first)
    assert fits(stored(server), second)
    third = run("rotate-secret", "a", "--overlap", "0s").out.strip()
    assert not fits(stored(server), first)
    assert not fits(stored(server), second)
    assert fits(stored(server), third)


def test_what_is_not_there_can_not_be_changed(run: Run) -> None:
    for command in ("disable", "enable", "rotate-secret"):
        done = run(command, "nobody")
        assert done.code == 1
        assert "no client" in done.err
    run("add", "app", "--public", "--grant", "refresh_token")
    assert "public" in run("rotate-secret", "app").err


def test_without_a_store_one_line_says_so(run: Run, tmp_path: Path) -> None:
    for url, says in (
        ("memory://", "memory://"),
        (f"redis://{LOOPBACK}:{free_port()}", "Repeating it is safe"),
    ):
        store = {"url": url, "write_timeout": "200ms"}
        (tmp_path / "authz.yaml").write_text(yaml.safe_dump({"store": store}))
        done = run("add", "a", "--grant", "client_credentials")
        assert done.code == 1
        assert says in done.err
        assert done.err.count("\n") == 1
