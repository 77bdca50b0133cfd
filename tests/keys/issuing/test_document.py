"""What new keys are like, in a private JWK Set that the token service signs with."""

import time
from pathlib import Path
from typing import Any

import pytest

from authz.keys.generate import generate_key
from authz.keys.issuing.document import new_key
from authz.keys.issuing.open import open_key_store
from authz.keys.keyfile import write_keys
from authz.settings import SigningSettings

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("of", "algorithm", "made"),
    [
        ({"key_type": "ec"}, None, "ES256"),
        ({"key_type": "ec", "curve": "P-384"}, None, "ES384"),
        ({"key_type": "ed25519"}, None, "EdDSA"),
        ({"key_type": "ec"}, "EdDSA", "EdDSA"),
        ({"key_type": "ec"}, "ES256", "ES256"),
        (None, None, "RS256"),
        (None, "ES256", "ES256"),
    ],
)
def test_a_new_key_is_what_was_asked_for_or_like_the_one_that_signs(
    of: dict[str, Any] | None, algorithm: str | None, made: str
) -> None:
    keys = [] if of is None else [generate_key(**of)]
    assert new_key(algorithm, keys, NOW)["alg"] == made


def test_it_is_like_the_key_that_signs_now_and_not_like_the_first_of_the_file() -> None:
    """The order of the file is put right only when it is next written."""
    old = {**generate_key("ed25519"), "authz:signs_from": NOW - 100}
    signing = {**generate_key("ec"), "authz:signs_from": NOW - 10}
    assert new_key(None, [old, signing], NOW)["alg"] == "ES256"


@pytest.mark.parametrize(
    ("settings", "made"), [({}, "ES256"), ({"algorithm": "EdDSA"}, "EdDSA")], ids=["unset", "set"]
)
async def test_a_rotation_by_schedule_goes_on_with_the_algorithm_that_sidecars_allow(
    tmp_path: Path, settings: dict[str, Any], made: str
) -> None:
    """Without `tokens.signing.algorithm`, whose default is another one."""
    file = tmp_path / "signing.json"
    write_keys(file, [generate_key("ec")], replace=False)
    store = open_key_store(SigningSettings(key_file=file, **settings))
    name = await store.rotate(time.time(), ahead=600)
    held = {key.times.name: key for key in await store.read()}
    assert held[str(name)].signer.algorithm == made
