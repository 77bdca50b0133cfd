"""Files of private keys on the real file system."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from authz.keys.errors import KeySourceError
from authz.keys.generate import generate_key
from authz.keys.keyfile import (
    is_exposed_file,
    lock,
    read_keys,
    write_keys,
    write_public_keys,
)
from support.jwks import ec_key, jwk, jwks

KEY = generate_key("ed25519")


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_private_keys_are_for_their_owner_and_public_ones_for_all(tmp_path: Path) -> None:
    write_keys(tmp_path / "private", [KEY], replace=False)
    write_public_keys(tmp_path / "public", [KEY])
    assert mode(tmp_path / "private") == 0o600
    assert mode(tmp_path / "public") == 0o644
    assert read_keys(tmp_path / "private", private=True) == [KEY]
    assert KEY["d"] not in (tmp_path / "public").read_text()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        write_keys(path, [KEY], replace=False)
    assert path.read_text() == "precious"
    assert names(tmp_path) == ["keys"]


def test_a_replaced_file_gets_the_right_mode_whatever_it_had(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    path.chmod(0o666)
    write_keys(path, [KEY], replace=True)
    assert mode(path) == 0o600


def test_a_reader_has_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Replacing makes a new file; one that was opened before still reads the old to its end."""
    path = tmp_path / "keys"
    write_keys(path, [KEY], replace=True)
    with path.open() as reader:
        write_keys(path, [generate_key("ed25519")], replace=True)
        assert json.load(reader) == {"keys": [KEY]}


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/keys")
    write_keys(tmp_path / "link", [KEY], replace=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "keys").is_file()


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "keys"
    write_keys(path, [KEY], replace=False)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_keys(path, [generate_key("ed25519")], replace=True)
    assert names(tmp_path) == ["keys"]
    assert read_keys(path, private=True) == [KEY]


def test_files_that_others_can_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    for bits, exposed in ((0o600, False), (0o640, True), (0o604, True), (0o400, False)):
        path.chmod(bits)
        assert is_exposed_file(path) is exposed
    assert not is_exposed_file(tmp_path / "missing")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (jwks(), "holds no key"),
        (jwks(jwk(ec_key(), "a")), "key 'a' has no private part"),
        (jwks({"kty": "oct", "k": "AAAA"}), "key number 1: is a secret"),
        ("x", "is not JSON"),
    ],
)
def test_a_file_without_usable_private_keys_is_an_error(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(KeySourceError, match=problem):
        read_keys(path, private=True)


def test_two_who_change_a_file_take_turns(tmp_path: Path) -> None:
    """Each reads, adds and writes; without the lock one of them would be lost."""
    path = tmp_path / "keys"
    write_keys(path, [KEY], replace=False)

    def add_ten() -> None:
        for _ in range(10):
            with lock(path):
                write_keys(
                    path,
                    [*read_keys(path, private=True), generate_key("ed25519")],
                    replace=True,
                )

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(add_ten) for _ in range(2)]:
            done.result()
    assert len(read_keys(path, private=True)) == 1 + 2 * 10
    assert names(tmp_path) == ["keys"]
