"""What the token service encrypts: judged by the sidecar's verifier, and by Authlib."""

import importlib
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from check.fakes import FakeKeys, accepted, token
from check.test_jwe import trusting, verifier_of
from structlog.testing import capture_logs

from authz.keys.encryption import parse_decryption_keys
from authz.keys.errors import KeySourceError
from authz.keys.generate import generate_key
from authz.keys.jwk import public_part
from authz.observe import events
from authz.settings import ENCRYPTION_ALGORITHMS, EncryptionSettings, SettingsError
from authz.tokens.encryption import (
    Encryption,
    MixedAudiencesError,
    TokenTooLargeError,
    encrypt,
)
from support.jwks import ISSUER, ec_key, ed25519_key, jwk, jwks, rsa_key
from support.waiting import eventually

MADE = {
    "rsa": generate_key("rsa", use="enc"),
    "ec": generate_key("ec", use="enc"),
    "ec384": generate_key("ec", curve="P-384", use="enc"),
}


def published(*keys: dict[str, Any]) -> bytes:
    return jwks(*map(public_part, keys)).encode()


@pytest.mark.parametrize("name", MADE)
def test_the_sidecar_opens_what_was_encrypted(name: str) -> None:
    document = json.dumps({"keys": [MADE[name]]}).encode()
    keys = FakeKeys(parse_decryption_keys(document, ENCRYPTION_ALGORITHMS).keys)
    verifier = verifier_of({ISSUER: keys}, trusting(required=True))
    text = encrypt(token(), published(MADE[name]))
    assert accepted(verifier, text).identity.subject == "alice"
    assert encrypt(token(), published(MADE[name])) != text


@pytest.mark.parametrize("name", MADE)
def test_another_library_opens_it_and_what_another_library_encrypted_opens(name: str) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")  # the module is deprecated, and says so when imported
        theirs: Any = importlib.import_module("authlib.jose")

    text = encrypt("the.signed.token", published(MADE[name]))
    opened = theirs.JsonWebEncryption().deserialize_compact(
        text, theirs.JsonWebKey.import_key(MADE[name])
    )
    assert opened["payload"] == b"the.signed.token"
    assert opened["header"]["cty"] == "JWT"

    document = json.dumps({"keys": [MADE[name]]}).encode()
    keys = FakeKeys(parse_decryption_keys(document, ENCRYPTION_ALGORITHMS).keys)
    protected = {
        "alg": MADE[name]["alg"], "enc": "A256GCM", "cty": "JWT", "kid": MADE[name]["kid"],
    }  # fmt: skip
    made = theirs.JsonWebEncryption().serialize_compact(
        protected, token().encode(), theirs.JsonWebKey.import_key(public_part(MADE[name]))
    )
    assert accepted(verifier_of({ISSUER: keys}), made.decode()).identity.subject == "alice"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (jwks(), "holds no key to encrypt to"),
        (jwks(jwk(rsa_key(), "signs")), "holds no key to encrypt to"),
        (jwks(jwk(ed25519_key(), "ed", use="enc")), "holds no key to encrypt to"),
        (jwks(jwk(rsa_key("weak", 1024), "weak", use="enc")), "key 'weak': .* 1024 bits"),
        (jwks({**jwk(ec_key(), "ec", use="enc"), "x": "%"}), "key 'ec': x is"),
        ("{", "is not JSON"),
    ],
    ids=range(6),
)
def test_a_key_that_cannot_be_encrypted_to_is_told(document: str, problem: str) -> None:
    with pytest.raises(KeySourceError, match=problem):
        encrypt("a.b.c", document.encode())


def test_signing_keys_in_the_same_set_are_passed_by() -> None:
    document = jwks(jwk(rsa_key(), "signs"), public_part(MADE["ec"])).encode()
    assert encrypt("a.b.c", document).count(".") == 4


def test_what_no_sidecar_would_accept_is_not_given_out() -> None:
    with pytest.raises(TokenTooLargeError, match="sidecars take 8192"):
        encrypt("a" * 7000, published(MADE["rsa"]))


# By audience


Start = Callable[..., Awaitable[Encryption]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Encryption for audiences, each with the file of its name or the one that is given."""
    started: list[Encryption] = []

    async def start(**files: Path) -> Encryption:
        encryption = Encryption(
            [EncryptionSettings(audience=name, jwks_file=path) for name, path in files.items()]
        )
        encryption.load()
        await encryption.start()
        started.append(encryption)
        return encryption

    yield start
    for encryption in started:
        await encryption.aclose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "audience.json"
    path.write_bytes(published(MADE["ec"]))
    return path


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_each_audience_gets_its_tokens_as_it_wants_them(start: Start, file: Path) -> None:
    encryption = await start(secret=file)
    assert encryption.seal("a.b.c", ["api"]) == "a.b.c"
    assert encryption.seal("a.b.c", ["secret"]).count(".") == 4
    assert encryption.seal("a.b.c", []) == "a.b.c"


async def test_audiences_that_want_different_things_get_no_token_in_common(
    start: Start, file: Path, tmp_path: Path
) -> None:
    """One of them could not read it."""
    other = tmp_path / "other.json"
    write(other, published(MADE["rsa"]))
    encryption = await start(secret=file, same=file, other=other)
    assert encryption.seal("a.b.c", ["secret", "same"]).count(".") == 4
    for audiences in (["secret", "api"], ["secret", "other"]):
        with pytest.raises(MixedAudiencesError):
            encryption.seal("a.b.c", audiences)


async def test_a_file_without_a_key_stops_the_start(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "empty.json", jwks().encode())
    with pytest.raises(SettingsError, match=r"tokens\.encryption\.0\.jwks_file: .*no key"):
        await start(secret=tmp_path / "empty.json")


async def test_a_new_first_key_is_followed_and_a_damaged_file_keeps_the_last(
    start: Start, file: Path
) -> None:
    """Nothing is ever given out in the clear instead."""
    encryption = await start(secret=file)

    def kid() -> Any:
        return encryption.status()["secret"]["kid"]

    with capture_logs() as logs:
        write(file, published(MADE["rsa"], MADE["ec"]))
        await eventually(lambda: kid() == MADE["rsa"]["kid"], "the new key is used")
        write(file, jwks().encode())
        await eventually(lambda: encryption.status()["secret"]["error"], "it is told")
        assert kid() == MADE["rsa"]["kid"]
        assert encryption.seal("a.b.c", ["secret"]).count(".") == 4
        write(file, published(MADE["rsa"]))
        await eventually(lambda: not encryption.status()["secret"]["error"], "all is well")
    names = [entry["event"] for entry in logs]
    assert names == [events.KEYS_CHANGED, events.KEYS_SOURCE_FAILED, events.KEYS_SOURCE_RECOVERED]
