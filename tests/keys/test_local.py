"""Reading keys of this machine."""

import os
from pathlib import Path

import pytest

from authz.keys.errors import KeySourceError
from authz.keys.jwk import MAX_DOCUMENT_BYTES
from authz.keys.local import JwksFile, SecretFile, SecretVariable, read_file
from support.jwks import ec_key, jwk, jwks

SECRET = "a secret of at least thirty-two bytes"


def test_a_file_of_keys_is_read(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(jwk(ec_key(), "a")))
    assert JwksFile(path, ["ES256"]).read().keys.kids == ("a",)


def test_a_secret_is_read_from_a_file_and_from_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    monkeypatch.setenv("THE_SECRET", SECRET)
    from_file = SecretFile(path, ["HS256"]).read().keys
    assert from_file == SecretVariable("THE_SECRET", ["HS256"]).read().keys
    assert len(from_file) == 1


def test_a_variable_that_is_not_set_is_an_error() -> None:
    with pytest.raises(KeySourceError, match="variable is not set"):
        SecretVariable("NOBODY_SETS_THIS", ["HS256"]).read()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeySourceError, match="No such file"):
        read_file(tmp_path / "nothing")


def test_what_is_no_regular_file_is_an_error_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(KeySourceError, match=r"not a regular file|Is a directory"):
            read_file(path)


def test_a_file_is_not_read_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b" " * MAX_DOCUMENT_BYTES)
    assert len(read_file(path)) == MAX_DOCUMENT_BYTES
    path.write_bytes(b" " * (MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(KeySourceError, match="is larger than"):
        read_file(path)
