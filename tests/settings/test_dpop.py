"""What can be set about proofs of possession."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from authz.settings import DpopSettings, NonceSettings, SettingsError, nonce_secret

SECRET = bytes(range(32))


@pytest.mark.parametrize(
    "origin", ["https://api.example", "http://api.example:8080", "http://[::1]"]
)
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    assert DpopSettings(origins=[origin]).origins == [origin]
    assert DpopSettings(origins=[origin.upper()]).origins == [origin]


@pytest.mark.parametrize(
    "origin",
    [
        "api.example", "https://api.example/", "https://u@api.example", "ftp://a", "https://",
        "https://*.example", "https://api.example:99999", "https://a,b", "https://b\u00fccher",
    ],
)  # fmt: skip
def test_what_no_url_could_begin_with_is_refused_with_an_example(origin: str) -> None:
    """It would refuse every proof, and nobody would see why."""
    with pytest.raises(ValidationError, match=r"as in https://app\.example"):
        DpopSettings(origins=[origin])


def test_an_empty_list_of_origins_is_refused() -> None:
    """It would look as if no URL were good."""
    with pytest.raises(ValidationError):
        DpopSettings(origins=[])


def test_a_secret_comes_from_one_place() -> None:
    for given in ({}, {"secret_file": Path("/a"), "secret_env": "B"}):
        with pytest.raises(ValidationError, match="exactly one of secret_file, secret_env"):
            NonceSettings.model_validate(given)


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (SECRET, SECRET),
        (SECRET + b"\n", SECRET),
        (SECRET + b"\r\n", SECRET),
        (SECRET + b"\r", SECRET + b"\r"),
    ],
)
def test_the_secret_is_the_bytes_of_the_file_less_a_newline(
    tmp_path: Path, content: bytes, secret: bytes
) -> None:
    path = tmp_path / "nonce.secret"
    path.write_bytes(content)
    assert nonce_secret(NonceSettings(secret_file=path)) == secret


def test_the_secret_may_be_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NONCE_SECRET", "s" * 40)
    assert nonce_secret(NonceSettings(secret_env="NONCE_SECRET")) == b"s" * 40


def test_a_secret_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "nonce.secret"
    with pytest.raises(SettingsError, match=r"dpop\.nonce\.secret_file: .*: No such file"):
        nonce_secret(NonceSettings(secret_file=path))
    path.write_bytes(b"short")
    with pytest.raises(SettingsError, match="has 5 bytes; at least 32 are needed"):
        nonce_secret(NonceSettings(secret_file=path))
    monkeypatch.delenv("NONCE_SECRET", raising=False)
    with pytest.raises(SettingsError, match=r"dpop\.nonce\.secret_env: NONCE_SECRET: is not set"):
        nonce_secret(NonceSettings(secret_env="NONCE_SECRET"))
