"""`authz config`: every setting and where it came from; and no secret, however it got there."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from authz.cli.main import main

SECRET = "hunter2"
ISSUER = {
    "issuer": "https://issuer.example",
    "audiences": ["api"],
    "algorithms": ["RS256"],
    "keys": {"jwks_file": "jwks.json"},
}


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> dict[str, tuple[str, str]]:
        """Setting to value and origin."""
        rows = (re.split(r"\s{2,}", line.strip()) for line in self.out.splitlines())
        return {name: (value, origin) for name, value, origin in rows}


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`authz config` on a file with these settings (or this text) and these variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)

    def run(content: dict[str, Any] | str | bytes | None, **env: str) -> Done:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        arguments = ["authz", "config"]
        if content is not None:
            if isinstance(content, dict):
                content = yaml.safe_dump({"issuers": [ISSUER], **content})
            data = content.encode() if isinstance(content, str) else content
            Path("authz.yaml").write_bytes(data)
            arguments += ["--config", "authz.yaml"]
        monkeypatch.setattr(sys, "argv", arguments)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert captured.err.count("\n") == (ended.value.code != 0), captured.err
        assert SECRET not in captured.out + captured.err
        return Done(ended.value.code, captured.out, captured.err)

    return run


# Origins


def test_a_value_comes_from_the_environment_the_file_or_the_default(run: Run) -> None:
    done = run(
        {"store": {"timeout": "30ms", "buckets": 8}, "leeway": "2s"},
        AUTHZ_STORE__TIMEOUT="40ms",
        AUTHZ_LISTEN='["127.0.0.1:1"]',
        authz_fail_mode="closed",
    )
    assert done.code == 0
    assert done.rows["store.timeout"] == ("40ms", "AUTHZ_STORE__TIMEOUT")
    assert done.rows["store.buckets"] == ("8", "file")
    assert done.rows["store.write_timeout"] == ("5s", "default")
    assert done.rows["leeway"] == ("2s", "file")
    assert done.rows["listen"] == ("['127.0.0.1:1']", "AUTHZ_LISTEN")
    assert done.rows["fail_mode"] == ("closed", "authz_fail_mode")
    assert done.rows["issuers.0.issuer"] == ("https://issuer.example", "file")
    assert done.rows["issuers.0.max_lifetime"] == ("1d", "default")
    assert done.rows["audit.path"] == ("/var/log/authz/audit.jsonl", "default")


def test_a_variable_may_hold_a_whole_section(run: Run) -> None:
    done = run({"store": {"timeout": "30ms"}}, AUTHZ_STORE='{"timeout": "40ms"}')
    assert done.rows["store.timeout"] == ("40ms", "AUTHZ_STORE")


def test_without_a_file_the_environment_is_enough(run: Run) -> None:
    issuers = yaml.safe_dump([ISSUER], default_flow_style=True).replace("\n", " ")
    import json

    done = run(None, AUTHZ_ISSUERS=json.dumps(yaml.safe_load(issuers)))
    assert done.rows["issuers.0.issuer"] == ("https://issuer.example", "AUTHZ_ISSUERS")


def test_the_file_may_be_named_by_the_environment(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"issuers": [ISSUER], "leeway": "3s"}))
    assert run(None, AUTHZ_CONFIG="other.yaml").rows["leeway"] == ("3s", "file")


def test_every_setting_is_shown_once(run: Run) -> None:
    from authz.settings import Settings

    done = run({})
    assert {name.split(".")[0] for name in done.rows} == Settings.model_fields.keys()
    assert len(done.rows) == len(done.out.splitlines())


# Secrets that are shown masked


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@h:1", "redis://[redacted]@h:1"),
        (f"redis://me:{SECRET}@h/3", "redis://[redacted]@h:6379/3"),
        (f"redis://:x@{SECRET}@h:1", "redis://[redacted]@h:1"),
        (f"rediss+cluster://me:{SECRET}@a:1,b:2", "rediss+cluster://[redacted]@a:1,b:2"),
        (f"redis://:{SECRET}@[::1]:1", "redis://[redacted]@[::1]:1"),
        ("redis://h:1", "redis://h:1"),
        ("memory://", "memory://"),
    ],
)
def test_the_stores_url_is_shown_without_its_password(run: Run, url: str, shown: str) -> None:
    assert run({"store": {"url": url}}).rows["store.url"] == (shown, "file")
    assert run({}, AUTHZ_STORE__URL=url).rows["store.url"] == (shown, "AUTHZ_STORE__URL")


def test_the_url_of_another_regions_store_is_shown_without_its_password(run: Run) -> None:
    rows = run({"relay": {"url": f"redis://user:{SECRET}@a:1", "password_file": "/x"}}).rows
    assert rows["relay.url"] == ("redis://[redacted]@a:1", "file")
    assert rows["relay.password_file"] == ("/x", "file")


def test_the_stores_password_is_masked(run: Run) -> None:
    assert run({"store": {"password": SECRET}}).rows["store.password"] == ("**********", "file")
    masked = run({}, AUTHZ_STORE__PASSWORD=SECRET).rows["store.password"]
    assert masked == ("**********", "AUTHZ_STORE__PASSWORD")


def test_a_password_in_a_key_sources_url_is_masked(run: Run) -> None:
    for password in (SECRET, f"{SECRET}@x", f"x@{SECRET}"):
        keys = {"jwks_url": f"https://me:{password}@keys.example/jwks.json"}
        done = run({"issuers": [{**ISSUER, "keys": keys}]})
        shown, _ = done.rows["issuers.0.keys.jwks_url"]
        assert shown == "https://[redacted]@keys.example/jwks.json"


def test_a_secret_in_a_variable_of_ones_own_is_not_read(run: Run) -> None:
    issuer = {**ISSUER, "algorithms": ["HS256"], "keys": {"secret_env": "TOKEN_SECRET"}}
    done = run({"issuers": [issuer]}, TOKEN_SECRET=SECRET)
    assert done.rows["issuers.0.keys.secret_env"] == ("TOKEN_SECRET", "file")


# Secrets in what can't be read. `run` looks for them in everything that is printed.


@pytest.mark.parametrize(
    "url",
    [
        f"{SECRET}://h:1",
        f"http://:{SECRET}@h:1",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}@h:1,i:2",
        f"redis://:{SECRET}@h:99999999",
        f"redis://:{SECRET}@h:1/x",
        f"redis://:{SECRET}@h:1/{SECRET}",
        f"redis+cluster://:{SECRET}@h:1/3",
        f"redis://:{SECRET}@h:1?db=3",
        f"redis://:{SECRET}@h:1#x",
        f"redis://:{SECRET}@[::1",
        f"redis://:x/{SECRET}@h:1",
        f"redis://:x#{SECRET}@h:1",
        f"redis://:x?{SECRET}@h:1",
        f"redis://:7/{SECRET}@h:1",
        f"redis://me:7#{SECRET}@h:1",
        f"redis://me:7?{SECRET}@h:1",
        f"redis://me:7?a={SECRET}@h:1",
        f"redis:{SECRET}",
        f"redis://{SECRET}:99999",
        SECRET,
        "",
    ],
)
def test_no_part_of_a_url_that_is_refused_is_repeated(run: Run, url: str) -> None:
    """Not even of a password in which a `/`, `?` or `#` stands as it is."""
    if url.startswith((f"{SECRET}:", SECRET)):
        url = url.replace(SECRET, "nothing-secret")  # a scheme is named; it's no place for secrets
    for done in (run({"store": {"url": url}}), run({}, AUTHZ_STORE__URL=url)):
        assert done.code == 2, done
        assert done.err.startswith("authz: store.url: ")


@pytest.mark.parametrize(
    "line",
    [
        f"password: {SECRET}: x",
        f'password: "{SECRET}',
        f"password: '{SECRET}",
        f"password: *{SECRET}",
        f"password: !{SECRET}",
        f"password: !{SECRET} x",
        f"password: @{SECRET}",
        f"password: %{SECRET}",
        f"password: `{SECRET}",
        f"password: [{SECRET}",
        f"password: {{{SECRET}",
        f'password: "\\{SECRET}"',
        f"password: {SECRET}\n\tx: y",
        f"password:{SECRET}\n  url: memory://",
        f"password: &{SECRET} *{SECRET}x",
        f"? [{SECRET}]\n  : x",
        f"password: {SECRET}\n   url: x",
    ],
)
def test_no_line_that_is_no_yaml_is_repeated(run: Run, line: str) -> None:
    done = run(f"issuers: []\nstore:\n  {line}\n")
    assert done.code == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"store": {"password": [SECRET]}},
        {"store": {"password": {"x": SECRET}}},
        {"store": {"password": SECRET, "password_file": "x"}},
        {"store": {"timeout": "x", "password": SECRET}},
        {"store": SECRET},
        {"store": [SECRET]},
        {"store": {"url": [SECRET]}},
        {"store": {"username": [SECRET]}},
        {"store": {"tls": SECRET}},
        {"store": {"wait_replicas": SECRET}},
        {"store": {"buckets": SECRET}},
        {"audit": SECRET},
        {"fail_mode": SECRET},
        {"issuers": SECRET},
        {"issuers": [SECRET]},
        {"issuers": [{**ISSUER, "keys": SECRET}]},
        {"issuers": [{**ISSUER, "keys": {"secret": SECRET}}]},
        {"issuers": [{**ISSUER, "algorithms": [SECRET]}]},
        {"issuers": [{**ISSUER, "keys": {"jwks_url": f"https:/me:{SECRET}@h/x"}}]},
        {"issuers": [{**ISSUER, "keys": {"jwks_url": f"ftp://me:{SECRET}@h/x"}}]},
        {"issuers": [{**ISSUER, "issuer": f"x://{SECRET}", "keys": {"discovery": True}}]},
    ],
)
def test_no_value_that_is_refused_is_repeated(run: Run, settings: dict[str, Any]) -> None:
    assert run(settings).code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTHZ_STORE", SECRET),
        ("AUTHZ_STORE", f'{{"password": "{SECRET}"'),
        ("AUTHZ_STORE", f'{{"password": ["{SECRET}"]}}'),
        ("AUTHZ_STORE__PASSWORD__X", SECRET),
        ("AUTHZ_STORE__TLS", SECRET),
        ("AUTHZ_ISSUERS", f'[{{"secret": "{SECRET}"'),
        ("AUTHZ_STORE__PASSWRD", SECRET),
        ("AUTHZ_STORE_PASSWORD", SECRET),
        ("AUTHZ_PASSWORD", SECRET),
    ],
)
def test_no_variable_that_is_refused_is_repeated(run: Run, name: str, value: str) -> None:
    assert run({}, **{name: value}).code == 2


# What is not there


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("AUTHZ_STORE_TIMEOUT", "AUTHZ_STORE_TIMEOUT: unknown setting"),
        ("AUTHZ_STORE__TIMEOT", "store.timeot: unknown setting"),
        ("AUTHZ_CONFIG__X", "AUTHZ_CONFIG__X: unknown setting"),
        ("authz_nothing", "authz_nothing: unknown setting"),
        ("AUTHZ_", "AUTHZ_: unknown setting"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_it(run: Run, name: str, named: str) -> None:
    done = run({}, **{name: "1s"})
    assert done.code == 2
    assert named in done.err


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"stor": {}}, "stor: unknown setting"),
        ({"store": {"timeot": "1s"}}, "store.timeot: unknown setting"),
        ({"store": {"tls": {"ca": "x"}}}, "store.tls.ca: unknown setting"),
        ({"issuers": [{**ISSUER, "audience": "x"}]}, "issuers.0.audience: unknown setting"),
        ({"store": {"timeot": "1s"}, "leway": 1}, "(and 1 more)"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_it(
    run: Run, settings: dict[str, Any], named: str
) -> None:
    done = run(settings)
    assert done.code == 2
    assert named in done.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "issuers: Field required"),
        (b"\xff\xfe", "--config authz.yaml: not valid YAML"),
        (b"[1, 2]", "must be a mapping of settings"),
        (b"text", "must be a mapping of settings"),
        (b"1: x", "must be a mapping of settings"),
        (b"leeway: 2026-13-45", "--config authz.yaml: not valid YAML"),
        (b"a: [" * 2000, "--config authz.yaml: not valid YAML"),
        (b"a: b: c", "not valid YAML at line 1, column 5: mapping values are not allowed here"),
        (b"\x00", "--config authz.yaml: not valid YAML"),
        (b"a: !!python/object:os.system {}", "not valid YAML at line 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(
    run: Run, content: bytes, problem: str
) -> None:
    done = run(content)
    assert done.code == 2
    assert problem in done.err


def test_a_file_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    done = run(None, AUTHZ_CONFIG="missing.yaml")
    assert done.code == 2
    assert "missing.yaml: No such file or directory" in done.err
    (tmp_path / "folder").mkdir()
    assert run(None, AUTHZ_CONFIG="folder").code == 2
