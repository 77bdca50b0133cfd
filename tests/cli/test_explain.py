"""`authz explain` says what the sidecar would do, and never less politely."""

import io
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from authz.cli.main import main
from support.grpc import headers_of, status_of
from support.jwe import encrypt, private_jwk
from support.jwks import ISSUER, claims, ec_key, jwks, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, Sidecar, default_issuer
from support.valkey import ValkeyServer

DECRYPTION = ec_key("enc")
"""The key that the sidecar opens encrypted tokens with, `enc`."""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def stages(self) -> dict[str, tuple[str, str]]:
        """Name to mark and finding."""
        rows = (
            re.fullmatch(r"(ok|no|\?)\s+(\S+(?: \S+)*?)\s{2,}(.*?)(?:\s+[\d.]+ ms)?\s*", line)
            for line in self.out.splitlines()
        )
        return {row[2]: (row[1], row[3]) for row in rows if row}


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`authz explain --config FILE` with these arguments."""
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)

    def run(config: Path, *arguments: str, stdin: bytes = b"") -> Done:
        argv = ["authz", "explain", "--config", str(config), *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, server: ValkeyServer) -> Iterator[Sidecar]:
    store = {"url": server.url, "timeout": "2s"}
    folder = tmp_path_factory.mktemp("sidecar")
    with Sidecar(folder, {"store": store, "issuers": [decrypting_issuer(folder)]}) as sidecar:
        yield sidecar


def decrypting_issuer(folder: Path) -> dict[str, Any]:
    (folder / "enc.json").write_text(jwks(private_jwk(DECRYPTION, "enc")))
    return {**default_issuer(folder), "decryption": {"key_file": str(folder / "enc.json")}}


def token(**overrides: Any) -> str:
    return sign(claims(**overrides), rsa_key(), kid=KID)


def configure(folder: Path, url: str, **settings: Any) -> Path:
    store = {"url": url, "connect_timeout": "300ms"}
    path = folder / "authz.yaml"
    path.write_text(
        yaml.safe_dump({"issuers": [decrypting_issuer(folder)], "store": store, **settings})
    )
    return path


def revoke(monkeypatch: pytest.MonkeyPatch, config: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["authz", "revoke", "--config", str(config), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


NOW = int(time.time())
TOKENS = {
    "good": (token(), 0, "ok"),
    "revoked": (token(sub="bob"), 1, "token_revoked"),
    "revoked by its names": (token(sub="bob", jti="by-names"), 1, "token_revoked"),
    "of a user who was logged out": (token(sub="carol"), 1, "token_revoked"),
    "expired": (token(iat=NOW - 700, exp=NOW - 600), 1, "token_expired"),
    "not yet valid": (token(nbf=NOW + 6000), 1, "token_not_yet_valid"),
    "for others": (token(aud="others"), 1, "audience_mismatch"),
    "of a stranger": (token(iss="https://else"), 1, "issuer_unknown"),
    "with a strange issuer": (token(iss=["x"]), 1, "issuer_unknown"),
    "without subject": (token(sub=...), 1, "subject_missing"),
    "living too long": (token(exp=NOW + 100_000), 1, "lifetime_too_long"),
    "unsigned": (sign(claims(), rsa_key(), kid=KID, alg="none"), 1, "algorithm_not_allowed"),
    "of another key": (sign(claims(), rsa_key("other"), kid=KID), 1, "signature_invalid"),
    "of an unknown key": (sign(claims(), rsa_key(), kid="else"), 1, "key_unknown"),
    "of an algorithm not allowed": (
        sign(claims(), ec_key(), kid=KID), 1, "algorithm_not_allowed",
    ),
    "with an extension": (
        sign(claims(), rsa_key(), kid=KID, headers={"crit": ["b64"]}), 1, "header_unsupported",
    ),
    "with markup": (token(sub="[red]alice[/]"), 0, "ok"),
    "garbage": ("garbage", 1, "token_malformed"),
    "nearly garbage": ("a.b.c", 1, "token_malformed"),
    "with control characters": (token(sub="a\nb"), 1, "claim_invalid"),
    "too large": (token(x="x" * 9000), 1, "token_too_large"),
    "encrypted": (encrypt(token(), DECRYPTION, kid="enc"), 0, "ok"),
    "encrypted, revoked before": (
        encrypt(token(sub="carol"), DECRYPTION, kid="enc"), 1, "token_revoked",
    ),
    "encrypted to a stranger": (
        encrypt(token(), ec_key("stranger"), kid="enc"), 1, "decryption_failed",
    ),
    "encrypted to an unknown key": (
        encrypt(token(), DECRYPTION, kid="else"), 1, "decryption_key_unknown",
    ),
    "encrypted and compressed": (
        encrypt(token(), DECRYPTION, kid="enc", headers={"zip": "DEF"}), 1, "header_unsupported",
    ),
    "encrypted twice": (
        encrypt(encrypt(token(), DECRYPTION, kid="enc"), DECRYPTION, kid="enc"),
        1, "token_malformed",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _revocations(sidecar: Sidecar) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        config = sidecar.config
        revoke(patch, config, "--token", TOKENS["revoked"][0])
        revoke(patch, config, "--issuer", ISSUER, "--user", "carol")
        revoke(
            patch, config,
            "--issuer", ISSUER, "--jti", "by-names", "--expires-at", str(time.time() + 500),
        )  # fmt: skip
        yield


@pytest.mark.parametrize("name", TOKENS)
def test_it_agrees_with_the_sidecar(run: Run, sidecar: Sidecar, name: str) -> None:
    text, code, reason = TOKENS[name]
    response = sidecar.client.check(token=text)
    assert (status_of(response) == 200) is (code == 0)
    if code:
        assert response.denied_response is not None
        assert f'"reason": "{reason}"' in response.denied_response.body
    done = run(sidecar.config, "--", text)
    assert (done.code, done.err) == (code, "")
    mark, verdict = done.stages["verdict"]
    assert (mark, verdict.split(":")[0]) == (("no", "deny") if code else ("ok", "allow"))
    assert verdict.split(":")[1].strip() == reason


@pytest.mark.parametrize("name", TOKENS)
def test_it_agrees_with_and_without_the_store(
    run: Run, sidecar: Sidecar, tmp_path: Path, name: str
) -> None:
    """Where the store can't be asked, it says so and what the fail mode makes of it."""
    text, _, reason = TOKENS[name]
    depends = reason in {"ok", "token_revoked"}
    url = f"redis://:hunter2@{LOOPBACK}:{free_port()}"
    done = run(configure(tmp_path, url), "--", text)
    assert done.code == (0 if depends else 1)
    assert "hunter2" not in done.out + done.err
    if depends:
        assert done.stages["revocation"][0] == "?"
        assert "the store can't be asked: ConnectionError" in done.out
        assert done.stages["verdict"] == (
            "?", "fail-open: store_unavailable: the store cannot be asked at the moment",
        )  # fmt: skip
        closed = run(configure(tmp_path, url, fail_mode="closed"), "--", text)
        assert closed.code == 1
        assert closed.stages["verdict"][1].startswith("deny: store_unavailable")
        route = run(configure(tmp_path, url), "--route", "authz.fail_mode=closed", "--", text)
        assert route.code == 1
    else:
        assert reason in done.stages["verdict"][1]
    memory = run(configure(tmp_path, "memory://"), "--", text)
    assert memory.code == (0 if depends else 1)


def test_each_stage_stands_in_a_row_with_its_time(run: Run, sidecar: Sidecar) -> None:
    done = run(sidecar.config, TOKENS["good"][0])
    assert list(done.stages) == [
        "form", "header", "issuer", "keys", "signature, claims", "revocation", "verdict",
    ]  # fmt: skip
    assert {mark for mark, _ in done.stages.values()} == {"ok"}
    assert len(re.findall(r"\d+\.\d\d ms", done.out)) == 6
    assert re.search(r"^  jwt:\{\d+\}:blacklist:[\w-]{43}:[\w-]{43}$", done.out, re.MULTILINE)
    assert re.search(r"^  jwt:\{\d+\}:not-before:[\w-]{43}$", done.out, re.MULTILINE)


def test_the_keys_it_prints_are_those_that_revoke(
    run: Run, sidecar: Sidecar, server: ValkeyServer
) -> None:
    text = TOKENS["revoked"][0]
    printed = re.findall(r"^  (jwt:\S+)$", run(sidecar.config, text).out, re.MULTILINE)
    assert [server.command("EXISTS", key) for key in printed] == [1, 0]
    carol = TOKENS["of a user who was logged out"][0]
    printed = re.findall(r"^  (jwt:\S+)$", run(sidecar.config, carol).out, re.MULTILINE)
    assert [server.command("EXISTS", key) for key in printed] == [0, 1]


def test_a_revoked_user_reads_since_when(run: Run, sidecar: Sidecar) -> None:
    mark, finding = run(sidecar.config, TOKENS["of a user who was logged out"][0]).stages[
        "revocation"
    ]
    assert mark == "no"
    instant = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
    assert re.fullmatch(rf"all of the user's tokens until {instant} were revoked", finding)


@pytest.mark.parametrize("name", TOKENS)
def test_the_token_is_not_repeated(run: Run, sidecar: Sidecar, name: str) -> None:
    """Neither its signature nor the whole of its claims: the output ends up in tickets."""
    text = TOKENS[name][0]
    if text.count(".") == 2 and len(text) > 20:
        done = run(sidecar.config, "--", text)
        for part in text.split("."):
            assert not part or part not in done.out + done.err


@pytest.mark.parametrize(
    ("route", "code", "reason"),
    [
        ("authz.scopes=read", 0, "ok"),
        ("authz.scopes=admin", 1, "insufficient_scope"),
        ("authz.audience=orders", 1, "route_audience_mismatch"),
        ("authz.scope=read", 1, "misconfigured_route"),
    ],
)
def test_a_routes_demands_count(
    run: Run, sidecar: Sidecar, route: str, code: int, reason: str
) -> None:
    done = run(sidecar.config, "--route", route, TOKENS["good"][0])
    assert done.code == code
    assert f": {reason}: " in done.stages["verdict"][1]


def test_the_token_may_come_on_standard_input(run: Run, sidecar: Sidecar) -> None:
    assert run(sidecar.config, "-", stdin=TOKENS["good"][0].encode() + b"\n").code == 0
    done = run(sidecar.config, "-", stdin=b"\xff\xfe\x00")
    assert done.code == 1
    assert "token_malformed" in done.out
    assert run(sidecar.config, "-").code == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "Missing argument 'TOKEN'"),
        (("--route", "authz.scopes", "x"), "--route 'authz.scopes': write KEY=VALUE"),
        (("a", "b"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_line(
    run: Run, sidecar: Sidecar, arguments: tuple[str, ...], problem: str
) -> None:
    done = run(sidecar.config, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert problem in done.err


def test_keys_that_cannot_be_read_are_an_error_of_the_settings(run: Run, tmp_path: Path) -> None:
    config = configure(tmp_path, "memory://")
    (tmp_path / "jwks.json").write_text("{")
    done = run(config, TOKENS["good"][0])
    assert done.code == 2
    assert "jwks_file" in done.err
    assert done.err.count("\n") == 1


def test_a_password_in_the_url_of_a_key_source_is_masked(run: Run, tmp_path: Path) -> None:
    config = configure(tmp_path, "memory://")
    settings = yaml.safe_load(config.read_text())
    url = f"http://me:hunter2@{LOOPBACK}:{free_port()}/jwks.json"
    settings["issuers"][0]["keys"] = {"jwks_url": url, "timeout": "300ms"}
    config.write_text(yaml.safe_dump(settings))
    done = run(config, TOKENS["good"][0])
    assert done.code == 1
    assert "keys_unavailable" in done.out
    assert "hunter2" not in done.out + done.err


def test_it_leaves_nothing_with_the_sidecar(sidecar: Sidecar, run: Run) -> None:
    """An explanation is not a check: no audit record, no headers to an upstream."""
    before = sidecar.audit()
    run(sidecar.config, TOKENS["good"][0])
    assert sidecar.audit() == before
    assert headers_of(sidecar.client.check(token=TOKENS["good"][0]))
