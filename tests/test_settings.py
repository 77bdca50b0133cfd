"""The bounds of every setting, the forms of its values, and what a model never shows."""

import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from authz.addresses import split_host_port
from authz.durations import format_duration, parse_duration
from authz.settings import (
    AuditSettings,
    IssuerlessSettings,
    IssuerSettings,
    KeySourceSettings,
    Settings,
    SettingsError,
    StoreSettings,
    load_settings,
    store_credentials,
    store_url_parts,
)

ISSUER: dict[str, Any] = {
    "issuer": "https://issuer.example",
    "audiences": ["api"],
    "algorithms": ["RS256"],
    "keys": {"jwks_file": "jwks.json"},
}


def load(**values: Any) -> Settings:
    return Settings(**{"issuers": [ISSUER], **values})


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("25ms", 0.025), ("1s", 1), ("1.5 s", 1.5), ("5m", 300), ("24h", 86_400), ("7d", 604_800),
     (" 5s ", 5), (3, 3), (0.5, 0.5)],
)  # fmt: skip
def test_a_duration_is_seconds_or_text_with_a_unit(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 sec", "1e3s", "5s5ms", "inf", "nan"])
def test_other_texts_are_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.integers(1, 10_000_000).map(lambda milliseconds: milliseconds / 1000))
def test_a_duration_reads_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, True, None, [], "1d"])
def test_no_strange_number_is_a_timeout(value: object) -> None:
    with pytest.raises(ValidationError):
        StoreSettings.model_validate({"timeout": value})


# Bounds


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("store.timeout", ["1ms", "10s"], ["0.9ms", "11s", 0]),
        ("store.connect_timeout", ["10ms", "30s"], ["9ms", "31s"]),
        ("store.write_timeout", ["10ms", "60s"], ["9ms", "61s"]),
        ("store.wait_timeout", ["1ms", "10s"], ["0s", "11s"]),
        ("store.wait_replicas", ["auto", 0, 5], [-1, 6, "all", 1.5]),
        ("store.buckets", [1, 1024], [0, 1025, 1.5, "many"]),
        ("cache.tokens", [1, 10_000_000], [0, 10_000_001]),
        ("cache.revocations", [1], [0]),
        ("cache.negative_ttl", [0, "60s"], ["61s", -1]),
        ("leeway", [0, "60s"], ["61s", -1]),
        ("drain_timeout", [0, "8s"], ["9s"]),
        ("audit.timeout", ["1ms", "5s"], [0, "6s"]),
        ("fail_mode", ["open", "closed"], ["OPEN", "", None]),
        ("log.level", ["debug", "error"], ["trace"]),
        ("listen", [["127.0.0.1:1"], ["unix:/x"], ["[::1]:65535"]],
         [[], ["unix:x"], ["1"], ["h:65536"], ["h:-1"], "127.0.0.1:1", [":1"]]),
        ("credentials", [["header:x"], ["cookie:x"]], [[], ["x"], ["header:"], ["header:a b"]]),
        ("issuers.0.max_lifetime", ["1s", "24h"], [0, "25h"]),
        ("issuers.0.audiences", [["a"]], [[], "a"]),
        ("issuers.0.algorithms", [["RS256", "ES256"]], [[], ["none"], ["rs256"], ["HS256"]]),
        ("issuers.0.issuer", ["x"], [""]),
    ],
)  # fmt: skip
def test_a_value_within_its_bounds_and_those_beyond(
    setting: str, good: list[object], bad: list[object]
) -> None:
    *path, name = setting.split(".")

    def values(value: object) -> dict[str, Any]:
        if path[:1] == ["issuers"]:
            return {"issuers": [{**ISSUER, name: value}]}
        return {path[0]: {name: value}} if path else {name: value}

    for value in good:
        load(**values(value))
    for value in bad:
        with pytest.raises(ValidationError) as failed:
            load(**values(value))
        assert all(
            setting == ".".join(map(str, one["loc"]))[: len(setting)]
            or one["loc"][:1] == (setting.partition(".")[0],)
            for one in failed.value.errors()
        )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"issuers": []}, "at least 1 item"),
        ({"issuers": [ISSUER, ISSUER]}, "is configured twice"),
        ({"store": {"password": "x", "password_file": "y"}}, "not both"),
        ({"store": {"url": "redis://h", "tls": {"ca_file": "/ca"}}}, "this url does not use TLS"),
        ({"audit": {"path": None}}, "path: null needs required: false"),
        ({"unknown": 1}, "Extra inputs are not permitted"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        load(**settings)


@pytest.mark.parametrize(
    "keys",
    [{}, {"jwks_file": "x", "jwks_url": "https://x"}, {"discovery": False},
     {"secret_file": "x", "secret_env": "Y"}, {"jwks_url": "ftp://x"}, {"jwks_url": "x"}],
)  # fmt: skip
def test_an_issuer_has_exactly_one_source_of_keys(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KeySourceSettings.model_validate(keys)


@pytest.mark.parametrize(
    ("algorithms", "keys"),
    [(["HS256"], {"jwks_file": "x"}), (["RS256", "HS256"], {"jwks_url": "https://x"}),
     (["RS256"], {"secret_file": "x"}), (["HS256", "RS256"], {"secret_env": "X"})],
)  # fmt: skip
def test_a_published_key_never_doubles_as_a_secret(
    algorithms: list[str], keys: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="algorithms"):
        IssuerSettings.model_validate({**ISSUER, "algorithms": algorithms, "keys": keys})


def test_what_the_command_line_says_counts_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is checked as if it stood in the file. None says nothing."""
    monkeypatch.setenv("AUTHZ_STORE__URL", "redis://environment")
    monkeypatch.setenv("AUTHZ_STORE__BUCKETS", "32")
    path = tmp_path / "authz.yaml"
    path.write_text("store: {timeout: 40ms}\nrelay: {url: 'redis://file', name: east}\n")
    said = {"store": {"url": "redis://said"}, "relay": {"url": None}, "http_listen": None}
    found = load_settings(path, IssuerlessSettings, said)
    assert found.store.url.get_secret_value() == "redis://said"
    assert (found.store.buckets, found.store.timeout) == (32, 0.04)
    assert found.relay.url is not None
    assert found.relay.url.get_secret_value() == "redis://file"
    with pytest.raises(SettingsError, match=r"^relay\.url: scheme 'ftp' is unknown"):
        load_settings(path, IssuerlessSettings, {"relay": {"url": "ftp://x"}})


def test_only_what_handles_no_tokens_needs_no_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTHZ_CONFIG", raising=False)
    assert load_settings(None, IssuerlessSettings).issuers == []
    with pytest.raises(SettingsError, match=r"^issuers: "):
        load_settings(None)


def test_no_audit_is_a_choice() -> None:
    assert AuditSettings(path=None, required=False).path is None


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        load().leeway = 1  # type: ignore[misc]


# The store's URL


def store(url: str, **settings: Any) -> StoreSettings:
    return StoreSettings.model_validate({"url": url, **settings})


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://h", ("redis", [("h", 6379)], 0)),
        ("redis://h:1/3", ("redis", [("h", 1)], 3)),
        ("rediss://u:p@h:1", ("rediss", [("h", 1)], 0)),
        ("redis://[::1]:1", ("redis", [("::1", 1)], 0)),
        ("redis://[::1]", ("redis", [("::1", 6379)], 0)),
        (
            "redis+cluster://a:1,b,[::1]:2",
            ("redis+cluster", [("a", 1), ("b", 6379), ("::1", 2)], 0),
        ),
        ("redis+cluster://u:p@a:1,b:2", ("redis+cluster", [("a", 1), ("b", 2)], 0)),
        ("redis://:p@ss:w@h:1", ("redis", [("h", 1)], 0)),
    ],
)
def test_the_parts_of_a_url(url: str, parts: tuple[str, list[tuple[str, int]], int]) -> None:
    assert store_url_parts(store(url)) == parts


@pytest.mark.parametrize(
    ("url", "settings", "credentials"),
    [
        ("redis://h", {}, (None, None)),
        ("redis://u@h", {}, ("u", None)),
        ("redis://:p@h", {}, (None, "p")),
        ("redis://u:p%40%2F%3A@h", {}, ("u", "p@/:")),
        ("redis://u:p@h", {"password": "other"}, ("u", "other")),
        ("redis://u:p@h", {"username": "other"}, ("other", "p")),
        ("redis://h", {"username": "u", "password": "p"}, ("u", "p")),
    ],
)
def test_the_credentials_of_the_url_and_beside_it(
    url: str, settings: dict[str, Any], credentials: tuple[str | None, str | None]
) -> None:
    assert store_credentials(store(url, **settings)) == credentials


def test_a_password_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b" p w \r\n")
    assert store_credentials(store("redis://u:old@h", password_file=path)) == ("u", " p w ")
    path.unlink()
    with pytest.raises(SettingsError, match=r"store\.password_file: .*No such file"):
        store_credentials(store("redis://h", password_file=path))


@pytest.mark.parametrize("text", ["", ":1", "h", "h:", "h:x", "h:65536", "h:-1"])
def test_what_is_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_host_port(text)


# Secrets


def test_nothing_about_settings_shows_a_secret() -> None:
    """Not as text, as a representation, as JSON, in a traceback of either kind."""
    settings = load(store={"url": "redis://u:hunter2@h", "password": "hunter3"})
    shown = [repr(settings), str(settings), settings.model_dump_json(), repr(settings.store.url),
             str(settings.model_dump()), f"{settings.store}"]  # fmt: skip
    shown += traceback.format_exception(RuntimeError(settings))
    for text in shown:
        assert "hunter" not in text


@pytest.mark.parametrize(
    "values",
    [
        {"store": {"url": "redis://u:hunter2@h/x"}},
        {"store": {"url": "nope://u:hunter2@h"}},
        {"store": {"password": "hunter2", "timeout": "x"}},
        {"store": {"password": ["hunter2"]}},
        {"store": {"url": {"hunter2": 1}, "password": 1}},
        {"store": "hunter2"},
    ],
)
def test_an_error_about_settings_shows_none_either(values: dict[str, Any]) -> None:
    """As pydantic words it itself, which a traceback would print."""
    with pytest.raises(ValidationError) as failed:
        load(**values)
    assert "hunter2" not in str(failed.value)
    assert "hunter2" not in repr(failed.value)


def test_a_key_of_the_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "authz.yaml"
    path.write_text("1: x\n")
    with pytest.raises(SettingsError, match="must be a mapping of settings"):
        load_settings(path)


def test_the_defaults_are_those_of_the_design() -> None:
    settings = load()
    assert settings.store.url == SecretStr("memory://")
    assert settings.store.timeout == 0.025
    assert settings.store.buckets == 16
    assert settings.cache.model_dump() == {
        "tokens": 20_000, "revocations": 100_000, "negative_ttl": 1.0,
    }  # fmt: skip
    assert settings.fail_mode == "open"
    assert settings.audit.required
    assert settings.leeway == 5
    assert settings.credentials == ["header:authorization", "cookie:__Host-access"]
    assert settings.listen == ["unix:/run/authz/authz.sock", "127.0.0.1:9191"]
    assert settings.http_listen == "127.0.0.1:9192"


# Origins


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_an_origin_is_kept_as_browsers_write_it(text: str, origin: str) -> None:
    assert load(csrf={"trusted_origins": [text]}).csrf.trusted_origins == [origin]


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "*", "app.example", "https://", "https://app.example/", "https://app.example/a",
        "https://*.example", "https://user@app.example", "ftp://app.example", "https://app.example:",
        "https://app.example:x", "https://app.example:99999", "https://app.example:0443",
        "https://app.example:0", "https://app.example?", "https://a b",
        "https://b\u00fccher.example", "https://app.example#",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(text: str) -> None:
    """A pattern, or one that no browser would ever send, must not look as if it worked."""
    with pytest.raises(ValidationError):
        load(csrf={"trusted_origins": [text]})
