"""The keys that open encrypted tokens, in a sidecar: loaded at the start, followed after that."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from authz.keys.manager import KeyRings
from authz.settings import Settings, SettingsError
from support.jwe import private_jwk
from support.jwks import ec_key, jwk, jwks, rsa_key
from support.waiting import eventually

ISSUER = "https://issuer.example"
RSA, EC = private_jwk(rsa_key("enc"), "rsa"), private_jwk(ec_key("enc"), "ec")


def write(path: Path, *keys: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": keys}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "decryption.json", RSA, EC)
    return tmp_path / "decryption.json"


def settings(file: Path, **decryption: Any) -> Settings:
    signing = file.with_name("jwks.json")
    signing.write_text(jwks(jwk(ec_key(), "signs")))
    issuer = {
        "issuer": ISSUER,
        "audiences": ["api"],
        "algorithms": ["ES256"],
        "keys": {"jwks_file": str(signing)},
        "decryption": {"key_file": str(file), **decryption},
    }
    return Settings.model_validate({"issuers": [issuer]})


@pytest.fixture
async def rings(file: Path) -> AsyncIterator[KeyRings]:
    """Loaded and started."""
    rings = KeyRings(settings(file))
    rings.load()
    await rings.start()
    yield rings
    await rings.aclose()


def kids(rings: KeyRings) -> tuple[str, ...]:
    keys = rings.decryption[ISSUER].keys
    assert keys is not None
    return keys.kids


async def test_a_changed_file_is_followed_by_itself(rings: KeyRings, file: Path) -> None:
    assert kids(rings) == ("rsa", "ec")
    write(file, EC)
    await eventually(lambda: kids(rings) == ("ec",), "the key is gone")


async def test_a_damaged_file_keeps_the_last_good_keys_and_shows(
    rings: KeyRings, file: Path
) -> None:
    write(file, jwk(ec_key("enc"), "ec", use="enc"))

    def is_told() -> bool:  # it may be read while it is being written, and then again
        error = rings.status()[ISSUER]["decryption"]["error"]
        return error is not None and "no private part" in error

    await eventually(is_told, "what is wrong with it is told")
    assert kids(rings) == ("rsa", "ec")
    assert rings.status()[ISSUER]["error"] is None
    assert {(ring.use, ring.failing) for ring in rings.all} == {("sig", False), ("enc", True)}


async def test_no_private_key_is_in_the_status(rings: KeyRings) -> None:
    text = json.dumps(rings.status())
    for key in (RSA, EC):
        assert key["d"] not in text


def test_only_keys_of_the_allowed_algorithms_are_loaded(file: Path) -> None:
    rings = KeyRings(settings(file, algorithms=["ECDH-ES"]))
    rings.load()
    assert kids(rings) == ("ec",)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (None, "No such file or directory"),
        ([], "holds no key for ECDH-ES, RSA-OAEP-256"),
        ([jwk(rsa_key(), "signs")], "holds no key for .*its use is not enc"),
        ([jwk(rsa_key("enc"), "rsa", use="enc")], "key 'rsa': has no private part"),
    ],
)
def test_a_file_that_opens_nothing_stops_the_start(
    file: Path, keys: list[dict[str, Any]] | None, problem: str
) -> None:
    if keys is None:
        file.unlink()
    else:
        write(file, *keys)
    with pytest.raises(SettingsError, match=rf"issuers\.0\.decryption\.key_file: .*{problem}"):
        KeyRings(settings(file)).load()


def test_joserfc_is_loaded_by_whom_it_is_for_and_by_nobody_else(tmp_path: Path) -> None:
    """It costs each process half a megabyte."""
    program = (
        "import sys; from authz import sidecar; from authz.keys.manager import KeyRings; "
        "from authz.check.verifier import Verifier; "
        "print(*sorted(name for name in sys.modules if name == 'joserfc'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == []
