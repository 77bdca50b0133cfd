"""`authz revoke`, run as a person runs it, against a real server."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from authz.cli.main import main
from authz.revocation.record import bucket_of, token_digest, user_digest
from support.cluster import ValkeyCluster
from support.jwe import encrypt, private_jwk
from support.jwks import ISSUER, b64, claims, ec_key, jwks, rsa_key, sign
from support.ports import LOOPBACK, free_port
from support.sidecar import KID, default_issuer
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
    """`authz revoke` with these arguments, in a folder whose `authz.yaml` names the server."""
    server.client.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)
    configure(tmp_path, url=server.url)

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        argv = ["authz", "revoke", "--config", "authz.yaml", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert captured.err.count("\n") == (ended.value.code != 0), captured.err
        return Done(ended.value.code, captured.out, captured.err)

    return run


def configure(folder: Path, **store: Any) -> None:
    settings = {"issuers": [default_issuer(folder)], "store": store}
    (folder / "authz.yaml").write_text(yaml.safe_dump(settings))


def token(**overrides: Any) -> str:
    return sign(claims(**overrides), rsa_key(), kid=KID)


def keys(server: ValkeyServer) -> list[str]:
    found: list[bytes] = server.command("KEYS", "*")
    return sorted(key.decode() for key in found if not key.endswith((b":feed", b":tip")))


def key_of(subject: str, jti: str) -> str:
    bucket = bucket_of(ISSUER, subject, 16)
    user = user_digest(ISSUER, subject)
    return f"jwt:{{{bucket}}}:blacklist:{user}:{token_digest(ISSUER, jti, b'')}"


# The three forms


@pytest.mark.parametrize("stdin", [False, True])
def test_a_token_by_itself(run: Run, server: ValkeyServer, stdin: bool) -> None:
    text = token(sub="alice", jti="j1")
    if stdin:
        done = run("--token", "-", stdin=f"{text}\n".encode())
    else:
        done = run("--token", text, "--reason", "stolen", "--by", "bob")
    assert done == Done(0, "revoked: the token; confirmed by 0 replica(s)\n", "")
    assert keys(server) == [key_of("alice", "j1")]
    note = json.loads(server.command("GET", key_of("alice", "j1")))
    assert abs(note.pop("at") - time.time()) < 60
    if not stdin:
        assert note == {"reason": "stolen", "by": "bob"}
    assert run("--token", text).out.startswith("was revoked already: the token")


def test_a_token_whose_key_is_out_of_reach_and_one_without_a_jti(
    run: Run, server: ValkeyServer
) -> None:
    """The signature isn't looked at; the digest is of what is signed, not of the signature."""
    text = token(jti=...)
    assert run("--token", text).code == 0
    (key,) = keys(server)
    assert key.endswith(token_digest(ISSUER, None, text.rpartition(".")[0].encode()))
    other = sign(claims(), ec_key(), kid="unheard of")
    assert run("--token", other).code == 0


@pytest.mark.parametrize("iso", [False, True])
def test_a_token_by_its_names(run: Run, server: ValkeyServer, iso: bool) -> None:
    expires = int(time.time()) + 100
    text = datetime.fromtimestamp(expires, UTC).isoformat() if iso else str(expires)
    done = run("--issuer", ISSUER, "--jti", "j1", "--expires-at", text)
    assert done.code == 0
    assert len(keys(server)) == 16  # nobody can tell whose it is
    done = run("--issuer", ISSUER, "--jti", "j2", "--expires-at", text, "--user", "alice")
    assert done.code == 0
    assert key_of("alice", "j2") in keys(server)
    assert len(keys(server)) == 17
    assert server.command("PEXPIRETIME", key_of("alice", "j2")) == (expires + 60) * 1000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1767225600", 1767225600),
        ("1767225600.25", 1767225600.25),
        ("2026-01-01", 1767225600),
        ("2026-01-01T00:00:00", 1767225600),
        ("2026-01-01T00:00:00Z", 1767225600),
        ("2026-01-01T01:00:00+01:00", 1767225600),
        ("2026-01-01 00:00:00.250", 1767225600.25),
        ("20260101T000000Z", 1767225600),
    ],
)
def test_a_time_is_a_number_or_iso_8601_and_without_a_zone_it_is_utc(
    run: Run, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    monkeypatch.setattr("authz.cli.revoke.time.time", lambda: 1767225700.0)
    monkeypatch.setattr(
        "authz.cli.revocations.MAX_LIFETIME", 1e9
    )  # or Redis drops what is long past
    assert run("--issuer", ISSUER, "--user", "alice", "--before", text).code == 0
    (key,) = keys(server)
    value: bytes = server.command("GET", key)
    assert int(value.split(b" ")[0]) == round(seconds * 1000)


def test_all_tokens_of_a_user_as_of_now(run: Run, server: ValkeyServer) -> None:
    before = time.time()
    done = run("--issuer", ISSUER, "--user", "alice")
    assert done == Done(0, "revoked: tokens of 'alice'; confirmed by 0 replica(s)\n", "")
    (key,) = keys(server)
    assert key == f"jwt:{{{bucket_of(ISSUER, 'alice', 16)}}}:not-before:" + user_digest(
        ISSUER, "alice"
    )
    value: bytes = server.command("GET", key)
    assert before * 1000 <= int(value.split(b" ")[0]) <= time.time() * 1000 + 1
    earlier = run("--issuer", ISSUER, "--user", "alice", "--before", str(before - 10))
    assert earlier.out.startswith("was revoked already: tokens of 'alice'")


def test_a_replica_of_a_cluster_confirms_it(
    run: Run, cluster: ValkeyCluster, tmp_path: Path
) -> None:
    configure(tmp_path, url=cluster.url)
    assert run("--token", token()).out == "revoked: the token; confirmed by 1 replica(s)\n"
    done = run("--issuer", ISSUER, "--jti", "j", "--expires-at", str(time.time() + 100))
    assert done.out == "revoked: the token; confirmed by 1 replica(s)\n"


# What can't be


def test_an_expired_token_needs_no_revocation(run: Run, server: ValkeyServer) -> None:
    done = run("--token", token(iat=1000, exp=2000))
    assert done == Done(0, "nothing to revoke: the token has expired\n", "")
    done = run("--issuer", ISSUER, "--jti", "j", "--expires-at", "2020-01-01")
    assert done.out == "nothing to revoke: the token has expired\n"
    assert keys(server) == []


def test_within_anybodys_leeway_an_expired_token_is_revoked_all_the_same(
    run: Run, server: ValkeyServer
) -> None:
    now = int(time.time())
    assert run("--token", token(iat=now - 100, exp=now - 50)).out.startswith("revoked: ")
    assert len(keys(server)) == 1


NOW = str(int(time.time()) + 100)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "give --token, or --issuer --jti --expires-at"),
        (("--token", "a.b.c", "--user", "alice"), "give --token, or"),
        (("--token", "a.b.c", "--issuer", ISSUER), "give --token, or"),
        (("--issuer", ISSUER), "give --token, or"),
        (("--issuer", ISSUER, "--jti", "j"), "give --token, or"),
        (("--issuer", ISSUER, "--expires-at", NOW), "give --token, or"),
        (("--issuer", ISSUER, "--user", "u", "--jti", "j", "--before", NOW), "give --token, or"),
        (("--user", "alice"), "give --token, or"),
        (("--jti", "j", "--expires-at", NOW), "give --token, or"),
        (("--token", "garbage"), "--token: no token that could be accepted: token_malformed"),
        (("--token", ""), "token_malformed"),
        (("--token", "a.b.c"), "token_malformed"),
        (("--token", "\udcff.b.c"), "token_malformed"),
        (("--token", "a" * 8193), "token_too_large"),
        (("--token", f"{b64(b'[]')}.{b64(b'{}')}."), "token_malformed"),
        (("--token", token(iss="https://else")), "the issuer is none of those under `issuers`"),
        (("--token", token(iss=...)), "the issuer is none of those under `issuers`"),
        (("--token", token(iss=["x"])), "the issuer is none of those under `issuers`"),
        (("--token", token(sub=...)), "subject_missing"),
        (("--token", token(exp=...)), "claim_invalid: exp"),
        (("--token", token(iat=...)), "claim_invalid: iat"),
        (("--token", token(exp="soon")), "claim_invalid: exp"),
        (("--issuer", "https://else", "--user", "alice"), "the issuer is none of those"),
        (("--issuer", "https://else", "--jti", "j", "--expires-at", NOW), "the issuer is none"),
        (("--issuer", "\udcff", "--user", "alice"), "the issuer is none of those"),
        (("--issuer", ISSUER, "--user", ""), "--user: no token that is accepted can have ''"),
        (("--issuer", ISSUER, "--user", " alice"), "--user: no token that is accepted can have"),
        (("--issuer", ISSUER, "--user", "\udcff"), "--user: no token that is accepted can have"),
        (("--issuer", ISSUER, "--jti", "", "--expires-at", NOW), "--jti: no token that is"),
        (("--issuer", ISSUER, "--jti", "\udcff", "--expires-at", NOW), "--jti: no token that is"),
        (("--issuer", ISSUER, "--jti", "j", "--user", "", "--expires-at", NOW), "--user: no"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "soon"), "--expires-at: 'soon' is"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", ""), "--expires-at: '' is neither"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "\udcff"), "--expires-at"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "nan"), "--expires-at: 'nan' is not"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "inf"), "--expires-at: 'inf' is not"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "1e300"), "between 1970 and 9999"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "1767225600000"), "numbers are sec"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "-1"), "between 1970 and 9999"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "2026-13-01"), "neither seconds"),
        (("--issuer", ISSUER, "--jti", "j", "--expires-at", "0001-01-01"), "1970"),
        (("--issuer", ISSUER, "--user", "u", "--before", "yesterday"), "--before: 'yesterday'"),
        (("--issuer", ISSUER, "--user", "u", "--before", "nan"), "--before: 'nan' is not"),
        (("--issuer", ISSUER, "--user", "u", "--before", "2199-01-01"), "--before: lies in the f"),
        (("--unknown",), "No such option"),
        (("extra",), "unexpected extra argument"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line_and_writes_nothing(
    run: Run, server: ValkeyServer, arguments: tuple[str, ...], problem: str
) -> None:
    done = run(*arguments)
    assert done.code == 2, done
    assert problem in done.err
    assert done.err.startswith("authz: ")
    assert done.out == ""
    assert keys(server) == []


def test_bytes_that_are_no_text_are_no_token(run: Run) -> None:
    done = run("--token", "-", stdin=b"\xff\xfe.\x00")
    assert done.code == 2
    assert "token_malformed" in done.err


def test_the_token_is_not_repeated_in_an_error(run: Run) -> None:
    text = token(iss="https://else")
    done = run("--token", text)
    assert not any(part in done.err for part in text.split("."))


def test_an_expiry_beyond_all_bounds_is_no_crash(run: Run) -> None:
    """The largest that JSON holds exactly. Nobody would accept it, but it may be revoked."""
    assert run("--token", token(exp=2**53)).code in {0, 2}
    assert "claim_invalid: exp" in run("--token", token(exp=2**53 + 1)).err


# The store


def test_memory_can_only_be_reached_by_its_own_sidecar(run: Run, tmp_path: Path) -> None:
    configure(tmp_path, url="memory://")
    done = run("--token", token())
    assert done.code == 1
    assert "store.url is memory://" in done.err


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_store_out_of_reach_fails_within_the_write_timeout(
    run: Run, tmp_path: Path, scheme: str
) -> None:
    configure(tmp_path, url=f"{scheme}://:hunter2@{LOOPBACK}:{free_port()}", write_timeout="500ms")
    started = time.monotonic()
    done = run("--token", token())
    assert time.monotonic() - started < 0.5 + 1.5
    assert done.code == 1
    assert "not acknowledged" in done.err
    assert "Connect call failed" in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_a_store_that_hangs_fails_within_the_write_timeout(
    run: Run, tmp_path: Path, scheme: str
) -> None:
    """Although one attempt alone may take longer."""
    with ValkeyServer(tmp_path / "hangs") as server:
        server.freeze()
        url = server.url.replace("redis:", f"{scheme}:")
        configure(tmp_path, url=url, write_timeout="400ms", connect_timeout="20s")
        started = time.monotonic()
        done = run("--token", token())
        assert time.monotonic() - started < 0.4 + 1.5
        assert done.code == 1
        assert "not acknowledged" in done.err
        server.thaw()


def test_a_store_that_refuses_says_why(run: Run, server: ValkeyServer, tmp_path: Path) -> None:
    server.command("ACL", "SETUSER", "reader", "reset", "on", ">hunter2", "~*", "+@all", "-set")
    configure(tmp_path, url=server.url_for("reader", "hunter2"))
    done = run("--token", token())
    assert done.code == 1
    assert "the store refused" in done.err
    assert "hunter2" not in done.err
    configure(tmp_path, url=server.url_for("reader", "hunter3"), write_timeout="300ms")
    done = run("--token", token())
    assert done.code == 1
    assert "invalid username-password pair" in done.err
    assert "hunter3" not in done.err


def test_it_helps_with_examples(run: Run) -> None:
    done = run("--help")
    assert done.code == 0
    assert "authz revoke --config authz.yaml --token - < stolen.jwt" in done.out


# Encrypted tokens


def test_an_encrypted_token_is_revoked_by_what_is_in_it(
    run: Run, server: ValkeyServer, tmp_path: Path
) -> None:
    key = ec_key("enc")
    wrapped = encrypt(token(sub="alice", jti="j1"), key, kid="enc")
    done = run("--token", wrapped)
    assert done.code == 2
    assert "it is encrypted, and no issuer in the settings has decryption.key_file" in done.err

    issuer = {**default_issuer(tmp_path), "decryption": {"key_file": str(tmp_path / "enc.json")}}
    settings = {"issuers": [issuer], "store": {"url": server.url}}
    (tmp_path / "authz.yaml").write_text(yaml.safe_dump(settings))
    done = run("--token", wrapped)
    assert done.code == 2
    assert "it is encrypted, and issuers.0.decryption.key_file: " in done.err

    (tmp_path / "enc.json").write_text(jwks(private_jwk(key, "enc")))
    assert run("--token", wrapped).code == 0
    assert keys(server) == [key_of("alice", "j1")]
    assert "decryption_failed" in run("--token", encrypt("x", ec_key("other"), kid="enc")).err
