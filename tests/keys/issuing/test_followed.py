"""The keys of a process: read, followed, replaced when it is time. Real files, real time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from authz.keys.generate import generate_key
from authz.keys.issuing import followed
from authz.keys.issuing.followed import FollowedKeys
from authz.keys.issuing.held import HeldKey
from authz.keys.issuing.local import KeyFile
from authz.keys.issuing.open import open_key_store, open_signing_keys
from authz.keys.keyfile import dump, read_keys, write_keys
from authz.keys.rotation import SIGNS_FROM, STAGED
from authz.keys.signer import SigningUnavailableError, sign_token
from authz.observe import events
from authz.settings import SettingsError, SigningSettings
from support.waiting import eventually

A, B = generate_key("ec"), generate_key("ec")
CLAIMS = {"iss": "https://issuer.example", "sub": "alice", "aud": "api"}
SECRET = b"0123456789abcdef" * 2
Start = Callable[..., Awaitable[FollowedKeys]]


def signing(**source: Any) -> SigningSettings:
    """`changes` of `rotate_every` may be below what people may say."""
    source.setdefault("algorithm", "ES256")
    changes = {name: source.pop(name) for name in ("rotate_every",) if name in source}
    return SigningSettings.model_validate(source).model_copy(update=changes)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start the keys of these settings. They are closed."""
    started: list[FollowedKeys] = []

    async def start(**source: Any) -> FollowedKeys:
        keys = open_signing_keys(signing(**source), rotation_spread=0.2)
        started.append(keys)
        await keys.start()
        return keys

    yield start
    for keys in started:
        await keys.aclose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "signing.json"
    write_keys(path, [{**A, SIGNS_FROM: int(time.time())}], replace=False)
    return path


def kids(keys: FollowedKeys) -> list[str]:
    return [key["kid"] for key in keys.jwks()["keys"]]


async def current(keys: FollowedKeys) -> str | None:
    return (await keys.current()).kid


async def test_a_file_signs_and_publishes_public_parts_only(start: Start, file: Path) -> None:
    keys = await start(key_file=str(file))
    token = await sign_token(CLAIMS, await keys.current())
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": A["kid"]}
    (published,) = keys.jwks()["keys"]
    assert published.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    verified = jwt.decode(token, jwt.PyJWK(published), algorithms=["ES256"], audience="api")
    assert verified == CLAIMS
    assert A["d"] not in json.dumps(keys.status())


async def test_a_variable_signs_as_a_file_does(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEYS", dump([A, {**B, STAGED: True}]))
    keys = await start(key_env="THE_KEYS")
    assert await current(keys) == A["kid"]
    assert kids(keys) == [A["kid"], B["kid"]]


@pytest.mark.parametrize("source", ["secret_file", "secret_env"])
async def test_a_secret_signs_without_a_name_and_is_never_published(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    where = tmp_path / "secret"
    write(where, SECRET + b"\n")
    monkeypatch.setenv("THE_SECRET", SECRET.decode())
    name = str(where) if source == "secret_file" else "THE_SECRET"
    keys = await start(**{source: name}, algorithm="HS256")
    token = await sign_token(CLAIMS, await keys.current())
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "at+jwt"}
    assert jwt.decode(token, SECRET, algorithms=["HS256"], audience="api") == CLAIMS
    assert keys.jwks() == {"keys": []}
    (verifying,) = keys.verification()
    assert verifying.key == SECRET


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"{", "is not JSON"),
        (b'{"keys": []}', "holds no key"),
        (dump([{name: A[name] for name in A if name != "d"}]).encode(), "has no private part"),
    ],
    ids=["missing", "no json", "no key", "public"],
)
async def test_a_file_that_can_not_be_used_ends_the_start_with_one_line(
    start: Start, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "signing.json"
    if content is not None:
        write(path, content)
    with pytest.raises(SettingsError, match=rf"tokens\.signing\.key_file: .*: .*{problem}"):
        await start(key_file=str(path))


async def test_a_weak_secret_ends_the_start_with_one_line(start: Start, tmp_path: Path) -> None:
    write(tmp_path / "secret", SECRET[:31])
    with pytest.raises(SettingsError, match=r"secret_file: .*: the secret has 31 bytes; HS256"):
        await start(secret_file=str(tmp_path / "secret"), algorithm="HS256")


async def test_a_file_damaged_later_leaves_the_keys_that_are_known(
    start: Start, file: Path
) -> None:
    keys = await start(key_file=str(file))
    write(file, b"{")
    await eventually(lambda: keys.status()["failing"], "the damage is told")
    assert await current(keys) == A["kid"]
    write(file, dump([B, A]).encode())
    await eventually(lambda: not keys.status()["failing"], "mended")
    assert await current(keys) == B["kid"]


async def test_a_key_is_made_by_schedule_published_first_and_then_signs(
    start: Start, file: Path
) -> None:
    keys = await start(key_file=str(file), rotate_every=1.5, publish_ahead=0.6)
    await eventually(lambda: len(kids(keys)) == 2, "the next key is published")
    assert await current(keys) == A["kid"]
    assert keys.known == {"signing": 1, "coming": 1, "older": 0}
    new = kids(keys)[1]

    async def signs() -> bool:
        return await current(keys) == new

    await eventually(signs, "and signs by itself")
    assert A["kid"] in kids(keys)
    assert read_keys(file, private=True)[0]["alg"] == "ES256"


async def test_processes_with_one_file_make_one_key_and_change_at_the_same_moment(
    start: Start, file: Path
) -> None:
    """Each at a moment of its own, and whoever comes later finds the key."""
    options = {"key_file": str(file), "rotate_every": 2.0, "publish_ahead": 1.0}
    many = await asyncio.gather(*(start(**options) for _ in range(4)))
    await eventually(lambda: all(len(kids(keys)) == 2 for keys in many), "all publish the next")
    assert len(read_keys(file, private=True)) == 2
    assert sum(keys.figures.rotations["ok"] for keys in many) == 1
    assert sum(keys.figures.rotations["failed"] for keys in many) == 0
    new = kids(many[0])[1]
    while True:
        signers = {await current(keys) for keys in many}
        assert len(signers) == 1
        if signers == {new}:
            break
        await asyncio.sleep(0.005)


async def test_a_file_that_can_not_be_written_signs_on_and_says_so(
    start: Start, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a secret that Kubernetes mounts; the test itself may be root, who can write anywhere."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("authz.keys.issuing.local.write_keys", refuse)
    monkeypatch.setattr(followed, "ROTATE_AGAIN", 0.1)
    with capture_logs() as logs:
        keys = await start(key_file=str(file), rotate_every=0.2, publish_ahead=0.1)
        await eventually(lambda: keys.figures.rotations["failed"] >= 2, "tried again")
        assert await current(keys) == A["kid"]
    said = [line for line in logs if line["event"] == events.SIGNING_KEY_NOT_MADE]
    assert said[0]["error"] == "Read-only file system"
    assert keys.status()["failing"] is False


async def test_a_withdrawn_key_is_followed_at_once(start: Start, file: Path) -> None:
    keys = await start(key_file=str(file))
    store = open_key_store(signing(key_file=str(file)))
    assert await store.withdraw(A["kid"], time.time()) == [A["kid"]]
    await eventually(lambda: A["kid"] not in kids(keys), "gone from what is published")
    assert await current(keys) == kids(keys)[0]


async def test_with_only_a_staged_key_there_is_nothing_to_sign_with(
    start: Start, tmp_path: Path
) -> None:
    write(tmp_path / "keys", dump([{**A, STAGED: True}]).encode())
    keys = await start(key_file=str(tmp_path / "keys"))
    with pytest.raises(SigningUnavailableError, match="no key signs; add one with"):
        await keys.current()
    assert kids(keys) == [A["kid"]]


async def test_a_file_that_others_can_read_is_warned_of_once(start: Start, file: Path) -> None:
    expose(file)
    with capture_logs() as logs:
        keys = await start(key_file=str(file))
        await keys.refresh()
    assert [line["event"] for line in logs].count(events.SIGNING_KEYS_EXPOSED) == 1


async def test_an_error_of_our_own_leaves_the_keys_and_the_following(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = KeyFile(file, "ES256")
    keys = FollowedKeys(signing(key_file=str(file)), store)
    await keys.start()
    good = store.read

    async def crash(*_: object, **__: object) -> list[HeldKey]:
        raise KeyError("a fault")

    try:
        with capture_logs() as logs:
            monkeypatch.setattr(store, "read", crash)
            await keys.refresh()
            assert keys.status()["error"] == "unexpected KeyError"
            assert await current(keys) == A["kid"]
            monkeypatch.setattr(store, "read", good)
            await eventually(lambda: not keys.status()["failing"], "read again by itself")
            monkeypatch.setattr(store, "rotate", crash)
            keys._settings = signing(key_file=str(file), rotate_every=0.2, publish_ahead=0.1)
            keys._later = keys._rotate_after = 0.0
            await keys.refresh()
            await eventually(lambda: keys.figures.rotations["failed"], "a key was to be made")
            write(file, dump([B]).encode())
            await eventually(lambda: kids(keys) == [B["kid"]], "followed all the same")
        assert events.SIGNING_KEYS_CRASHED in {line["event"] for line in logs}
    finally:
        await keys.aclose()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"key_file": None}, "exactly one of key_file"),
        ({"key_env": "X"}, "exactly one of key_file"),
        ({"algorithm": "HS256"}, "HS256 goes with secret_file"),
        ({"key_file": None, "secret_env": "X"}, "HS256 goes with secret_file"),
        ({"rotate_every": "5m"}, "greater than or equal to 900"),
        ({"rotate_every": "1h", "publish_ahead": "1h"}, "must be longer than publish_ahead"),
        ({"algorithm": "RS512"}, "Input should be"),
    ],
)
def test_settings_name_one_source_that_goes_with_the_algorithm(
    change: dict[str, Any], problem: str
) -> None:
    good = {"key_file": "x", "algorithm": "ES256"}
    SigningSettings.model_validate(good)
    with pytest.raises(ValueError, match=problem):
        SigningSettings.model_validate({**good, **change})


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def expose(path: Path) -> None:
    path.chmod(0o644)
