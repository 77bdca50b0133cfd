"""`authz keys` with --config: the keys of the token service, in a file and in Vault."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from authz.cli.main import main
from authz.keys.generate import generate_key
from authz.revocation.record import tip_key
from support.openbao import OpenBao
from support.ports import LOOPBACK, free_port
from support.revocations import BUCKETS
from support.valkey import ValkeyServer

KEY = generate_key("ec")


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]
Configure = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["authz", "keys", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "signing.json"
    path.write_text(json.dumps({"keys": [KEY]}))
    path.chmod(0o600)
    return path


@pytest.fixture
def configure(tmp_path: Path, file: Path) -> Configure:
    """Write settings whose `tokens.signing` is this, the key file unless told. Their path."""

    def configure(store: str = "memory://", **signing: Any) -> str:
        signing = signing or {"key_file": str(file)}
        settings = {
            "store": {"url": store, "write_timeout": "500ms"},
            "tokens": {
                "issuer": "https://issuer.example",
                "audiences": ["api"],
                "signing": {"algorithm": "ES256", "publish_ahead": "1m", **signing},
            },
        }
        path = tmp_path / "authz.yaml"
        path.write_text(yaml.safe_dump(settings))
        return str(path)

    return configure


def published(run: Run, config: str) -> list[str]:
    done = run("jwks", "--config", config)
    assert done.code == 0, done.err
    return [key["kid"] for key in json.loads(done.out)["keys"]]


def test_rotate_publishes_a_key_that_signs_later(run: Run, configure: Configure) -> None:
    config = configure()
    assert published(run, config) == [KEY["kid"]]
    done = run("rotate", "--config", config)
    old, new = published(run, config)
    assert done == Done(0, f"published {new}; it signs in 1m\n", "")
    assert old == KEY["kid"]
    again = run("rotate", "--config", config)
    assert again.code == 1
    assert f"key '{new}' is published already, and will sign by itself soon" in again.err


def test_withdraw_takes_a_key_out_and_tells_every_sidecar(
    run: Run, configure: Configure, valkey: ValkeyServer
) -> None:
    config = configure(valkey.url)
    done = run("withdraw", KEY["kid"], "--config", config)
    (new,) = published(run, config)
    said = f"withdrawn {KEY['kid']}\nsigns from now on: {new}\n"
    assert done == Done(0, said + "told all sidecars to fetch their keys\n", "")
    for bucket in range(BUCKETS):
        assert valkey.command("HGET", tip_key(bucket), "keys")


def test_sidecars_can_be_told_alone(
    run: Run, configure: Configure, file: Path, valkey: ValkeyServer
) -> None:
    """Where a withdrawal could not tell them, or the key was replaced by hand."""
    before = file.read_text()
    done = run("withdraw", "--announce", "--config", configure(valkey.url))
    assert done == Done(0, "told all sidecars to fetch their keys\n", "")
    assert file.read_text() == before
    assert valkey.command("HGET", tip_key(0), "keys")


def test_a_key_is_withdrawn_although_nobody_can_be_told(run: Run, configure: Configure) -> None:
    config = configure(f"redis://{LOOPBACK}:{free_port()}")
    done = run("withdraw", KEY["kid"], "--config", config)
    assert done.code == 1
    assert f"withdrawn {KEY['kid']}" in done.out
    assert "sidecars could not be told" in done.err
    assert "run `authz keys withdraw --announce`" in done.err
    assert KEY["kid"] not in published(run, config)


def test_without_a_store_that_others_reach_it_says_when_sidecars_will_know(
    run: Run, configure: Configure
) -> None:
    done = run("withdraw", KEY["kid"], "--config", configure())
    assert done.code == 0
    assert "sidecars can't be told; they fetch keys every issuers[].keys.refresh" in done.err


def test_vault_is_rotated_and_withdrawn_alike(
    run: Run, configure: Configure, openbao: OpenBao, valkey: ValkeyServer, tmp_path: Path
) -> None:
    openbao.transit("cli", "ecdsa-p256")
    token_file = str(openbao.token(tmp_path))
    vault = {"address": openbao.address, "key": "cli", "token_file": token_file}
    config = configure(valkey.url, vault=vault)
    (first,) = published(run, config)
    assert "it signs in 1m" in run("rotate", "--config", config).out
    assert published(run, config)[0] == first
    done = run("withdraw", first, "--config", config)
    assert done.code == 0, done.err
    (left,) = published(run, config)
    assert f"signs from now on: {left}" in done.out


def test_the_first_key_in_a_kv_store_is_made_by_rotate(
    run: Run, configure: Configure, openbao: OpenBao, tmp_path: Path
) -> None:
    token_file = str(openbao.token(tmp_path))
    vault = {"address": openbao.address, "kv_path": "cli/keys", "token_file": token_file}
    config = configure(vault=vault)
    missing = run("jwks", "--config", config)
    assert missing.code == 1
    assert "write the first key with `authz keys rotate --config`" in missing.err
    done = run("rotate", "--config", config)
    assert done.out == f"signs from now on: {published(run, config)[0]}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("withdraw", "--config"), 2, "give the KID to withdraw, or --announce"),
        (("withdraw", "x", "--announce", "--config"), 2, "give the KID to withdraw"),
        (("withdraw", "nobody", "--config"), 1, "holds no key 'nobody'; it has"),
        (("rotate", "--stage", "--config"), 2, "the settings say all else; or name a FILE"),
        (("rotate", "--keep", "3", "--config"), 2, "the settings say all else"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    run: Run, configure: Configure, arguments: tuple[str, ...], code: int, problem: str
) -> None:
    done = run(*arguments, configure())
    assert done.code == code
    assert problem in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["rotate", "jwks", "withdraw"])
def test_without_a_file_and_without_the_service_there_is_nothing_to_do(
    run: Run, tmp_path: Path, command: str
) -> None:
    config = tmp_path / "authz.yaml"
    config.write_text("store: {url: 'memory://'}\n")
    kid = ("x",) if command == "withdraw" else ()
    done = run(command, *kid, "--config", str(config))
    assert done.code == 2
    assert "tokens: is not set" in done.err


def test_a_variable_is_replaced_where_it_is_set(
    run: Run, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEYS", json.dumps({"keys": [KEY]}))
    config = configure(key_env="THE_KEYS")
    assert published(run, config) == [KEY["kid"]]
    for command in (("rotate",), ("withdraw", KEY["kid"])):
        done = run(*command, "--config", config)
        assert done.code == 1
        assert "can't be written from here; replace it where it is set" in done.err


def test_withdraw_helps_with_an_example(run: Run) -> None:
    done = run("withdraw", "--help")
    assert done.code == 0
    assert "Example:\n    authz keys withdraw " in done.out
