"""All issuers' keys: loaded at start, kept fresh after that. Real files, a real HTTP server."""

import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keys.origin import Answer, Origin
from structlog.testing import capture_logs

from authz.keys import manager
from authz.keys.keyset import KeySet
from authz.keys.manager import KeyRings
from authz.observe import events
from authz.settings import Settings, SettingsError
from support.certificates import Certificates
from support.jwks import ec_key, jwk, jwks, public_pem, rsa_key
from support.waiting import eventually

A, B = jwk(ec_key("a"), "a"), jwk(ec_key("b"), "b")
SECRET = "a secret of at least thirty-two bytes"
Start = Callable[..., Awaitable[KeyRings]]


def settings(*sources: dict[str, Any], algorithms: tuple[str, ...] = ("ES256",)) -> Settings:
    """Issuers `https://issuer.example/0`, …/1, …; one for each source of keys."""
    issuers = [
        {
            "issuer": source.get("issuer", f"https://issuer.example/{number}"),
            "audiences": ["api"],
            "algorithms": list(algorithms),
            "keys": {name: value for name, value in source.items() if name != "issuer"},
        }
        for number, source in enumerate(sources)
    ]
    return Settings.model_validate({"issuers": issuers})


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Load and start; whatever was started is closed."""
    started: list[KeyRings] = []

    async def start(settings: Settings) -> KeyRings:
        rings = KeyRings(settings)
        started.append(rings)
        rings.load()
        await rings.start()
        return rings

    yield start
    for rings in started:
        await rings.aclose()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(A))
    return path


def kids(rings: KeyRings, number: int = 0) -> tuple[str, ...] | None:
    (ring,) = [each for each in rings.by_issuer.values() if each.issuer.endswith(f"/{number}")]
    return None if ring.keys is None else ring.keys.kids


def write(path: Path, content: str) -> None:
    path.write_text(content)


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path, content: str) -> None:
    """As editors and deployments do it."""
    new = path.with_name("new")
    new.write_text(content)
    new.rename(path)


# ---- at start


def test_files_and_secrets_are_there_once_loaded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings = KeyRings(settings({"jwks_file": file}))
    rings.load()
    assert kids(rings) == ("a",)
    monkeypatch.setenv("THE_SECRET", SECRET)
    rings = KeyRings(settings({"secret_env": "THE_SECRET"}, algorithms=("HS256",)))
    rings.load()
    ring = rings.ring("https://issuer.example/0")
    assert ring is not None
    assert ring.keys is not None
    assert len(ring.keys) == 1


def test_an_issuer_that_is_not_configured_has_no_ring(file: Path) -> None:
    rings = KeyRings(settings({"jwks_file": file}))
    assert rings.ring("https://other.example") is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        ("{", "is not JSON: "),
        ("[]", "is not a JSON object"),
        (jwks(), "holds no key for ES256"),
        (jwks({**A, "use": "enc"}), "holds no key for ES256 (key 'a' is left out: its use is not"),
        (jwks(A, {**B, "y": B["x"]}), "key 'b': is not a valid public key"),
        (jwks({"kty": "oct", "k": "AAAA", "kid": "h"}), "key 'h': is a secret"),
        (public_pem(ec_key()).decode(), "is not JSON"),
    ],
    ids=["missing", "broken", "list", "empty", "useless", "bad key", "secret", "pem"],
)
def test_a_key_file_that_can_not_be_used_stops_the_start_and_names_the_setting(
    tmp_path: Path, file: Path, content: str | None, problem: str
) -> None:
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    rings = KeyRings(settings({"jwks_file": file}, {"jwks_file": bad}))
    with pytest.raises(SettingsError) as caught:
        rings.load()
    assert str(caught.value).startswith(f"issuers.1.keys.jwks_file: {bad}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_weak_rsa_key_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "weak.json"
    path.write_text(jwks(jwk(rsa_key("weak", 1024), "w")))
    rings = KeyRings(settings({"jwks_file": path}, algorithms=("RS256",)))
    with pytest.raises(SettingsError, match=r"^issuers\.0\.keys\.jwks_file: .*1024 bits"):
        rings.load()


@pytest.mark.parametrize(
    ("secret", "algorithms", "problem"),
    [
        ("short", ("HS256",), "the secret has 5 bytes; HS256 needs at least 32"),
        (SECRET, ("HS256", "HS512"), "the secret has 37 bytes; HS512 needs at least 64"),
        ("", ("HS256",), "is empty"),
        (public_pem(rsa_key()).decode(), ("HS256",), "looks like a key"),
    ],
)
def test_a_weak_secret_stops_the_start_without_being_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    secret: str,
    algorithms: tuple[str, ...],
    problem: str,
) -> None:
    path = tmp_path / "secret"
    path.write_text(secret)
    monkeypatch.setenv("THE_SECRET", secret)
    for source in ({"secret_file": str(path)}, {"secret_env": "THE_SECRET"}):
        ((name, where),) = source.items()
        rings = KeyRings(settings(source, algorithms=algorithms))
        with pytest.raises(SettingsError) as caught:
            rings.load()
        assert str(caught.value).startswith(f"issuers.0.keys.{name}: {where}: {problem}")
        assert not secret or secret not in str(caught.value)


def test_a_variable_that_is_not_set_stops_the_start() -> None:
    rings = KeyRings(settings({"secret_env": "NOBODY_SETS_THIS"}, algorithms=("HS256",)))
    with pytest.raises(SettingsError, match=r"^issuers\.0\.keys\.secret_env: NOBODY_SETS_THIS: "):
        rings.load()


def test_a_ca_file_that_can_not_be_used_stops_the_start(file: Path) -> None:
    source = {"jwks_url": "https://issuer.example/jwks", "ca_file": file}
    with pytest.raises(SettingsError, match=r"^issuers\.0\.keys\.ca_file: .*: holds no cert"):
        KeyRings(settings(source)).load()


def test_keys_that_come_in_the_clear_are_warned_of(origin: Origin) -> None:
    with capture_logs() as logs:
        KeyRings(
            settings(
                {"jwks_url": "http://issuer.example/jwks"},
                {"jwks_url": origin.url + "/jwks"},
                {"discovery": True, "issuer": "http://issuer.example/realm"},
            )
        ).load()
    warned = [entry["where"] for entry in logs]
    assert {entry["event"] for entry in logs} == {events.KEYS_FETCHED_IN_THE_CLEAR}
    assert warned == [
        "http://issuer.example/jwks",
        "http://issuer.example/realm/.well-known/openid-configuration",
    ]


# ---- files, later on


async def test_a_new_key_in_the_file_is_known_and_an_old_one_is_gone(
    file: Path, start: Start
) -> None:
    rings = await start(settings({"jwks_file": file}))
    replace(file, jwks(B))
    await eventually(lambda: kids(rings) == ("b",), "the new key")


async def test_an_emptied_set_is_taken_at_its_word(file: Path, start: Start) -> None:
    """The way to refuse every token of an issuer at once."""
    rings = await start(settings({"jwks_file": file}))
    replace(file, jwks())
    await eventually(lambda: kids(rings) == (), "no keys")
    assert rings.status()["https://issuer.example/0"]["failing"] is False


@pytest.mark.parametrize("content", ["", "{", jwks(A, {"kty": "EC"})])
async def test_a_broken_file_keeps_the_last_good_keys_and_shows(
    file: Path, start: Start, content: str
) -> None:
    rings = await start(settings({"jwks_file": file}))
    (ring,) = rings.by_issuer.values()
    before = ring.keys
    with capture_logs() as logs:
        write(file, content)
        await eventually(lambda: ring.failing, "the failure")
    assert ring.keys is before
    assert events.KEYS_SOURCE_FAILED in [entry["event"] for entry in logs]
    write(file, jwks(A, B))
    await eventually(lambda: kids(rings) == ("a", "b"), "the mended file")
    assert not ring.failing


async def test_a_removed_file_keeps_the_last_good_keys(file: Path, start: Start) -> None:
    rings = await start(settings({"jwks_file": file}))
    (ring,) = rings.by_issuer.values()
    remove(file)
    await eventually(lambda: ring.failing, "the failure")
    assert kids(rings) == ("a",)
    assert ring.last_error == "No such file or directory"


async def test_a_configmap_is_followed(tmp_path: Path, start: Start) -> None:
    for version, key in (("1", A), ("2", B)):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "jwks.json").write_text(jwks(key))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "jwks.json").symlink_to("..data/jwks.json")
    rings = await start(settings({"jwks_file": tmp_path / "jwks.json"}))
    assert kids(rings) == ("a",)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    await eventually(lambda: kids(rings) == ("b",), "the new version")


async def test_a_secret_file_is_followed(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    rings = await start(settings({"secret_file": path}, algorithms=("HS256",)))
    (ring,) = rings.by_issuer.values()
    before = ring.keys
    assert isinstance(before, KeySet)
    path.write_text(SECRET + SECRET)
    await eventually(lambda: ring.keys not in (None, before), "the new secret")


async def test_files_keep_a_young_age_without_any_change(file: Path, start: Start) -> None:
    """They are looked at each `refresh`, so that age means the same for files and for URLs."""
    with_short_refresh = settings({"jwks_file": file, "refresh": 1})
    rings = await start(with_short_refresh)
    (ring,) = rings.by_issuer.values()
    before, first = ring.keys, ring._read_at
    await eventually(lambda: ring._read_at not in (None, first), "a later look")
    await eventually(lambda: ring._read_at not in (None, first), "a later look")
    assert ring.keys is before


# ---- URLs, later on


async def test_a_url_is_fetched_before_start_returns(origin: Origin, start: Start) -> None:
    rings = await start(settings({"jwks_url": origin.put("/jwks", {"keys": [A]})}))
    assert kids(rings) == ("a",)


async def test_discovery_is_fetched_with_the_given_authority(
    tls_origin: Origin, certificates: Certificates, start: Start
) -> None:
    issuer = tls_origin.url + "/0"
    jwks_uri = tls_origin.put("/jwks", {"keys": [A]})
    tls_origin.put("/0/.well-known/openid-configuration", {"issuer": issuer, "jwks_uri": jwks_uri})
    source = {"discovery": True, "issuer": issuer, "ca_file": certificates.ca}
    rings = await start(settings(source))
    assert kids(rings) == ("a",)


async def test_a_url_is_fetched_again_each_refresh(origin: Origin, start: Start) -> None:
    url = origin.put("/jwks", {"keys": [A]})
    rings = await start(settings({"jwks_url": url, "refresh": 1}))
    origin.put("/jwks", {"keys": [B]})
    await eventually(lambda: kids(rings) == ("b",), "the refresh")


async def test_a_source_that_is_down_at_start_is_no_crash_and_comes_in_later(
    origin: Origin, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "FIRST_RETRY", 0.01)
    rings = await start(settings({"jwks_url": origin.url + "/jwks"}))
    (ring,) = rings.by_issuer.values()
    assert kids(rings) is None
    assert ring.failing
    origin.put("/jwks", {"keys": [A]})
    await eventually(lambda: kids(rings) == ("a",), "the keys")
    assert not ring.failing


def test_a_failed_fetch_is_tried_again_soon_and_then_ever_later() -> None:
    pauses = [manager.pause_after(failures, 300.0) for failures in range(10)]
    assert pauses == [300.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert manager.pause_after(10**6, 300.0) == 30.0
    assert manager.pause_after(9, 5.0) == 5.0


async def test_a_source_that_hangs_does_not_hold_up_the_start(
    origin: Origin,
    file: Path,
    start: Start,
    release: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang() -> Answer:
        release.wait()
        return Answer(json.dumps({"keys": [B]}).encode())

    monkeypatch.setattr(manager, "START_LIMIT", 0.05)
    origin.pages["/jwks"] = hang
    rings = await start(settings({"jwks_file": file}, {"jwks_url": origin.url + "/jwks"}))
    assert (kids(rings, 0), kids(rings, 1)) == (("a",), None)
    assert not any(ring.failing for ring in rings.by_issuer.values())  # it is still under way
    release.set()
    await eventually(lambda: kids(rings, 1) == ("b",), "the late keys")


async def test_a_source_that_fails_keeps_the_last_good_keys(origin: Origin, start: Start) -> None:
    url = origin.put("/jwks", {"keys": [A]})
    rings = await start(settings({"jwks_url": url, "refresh": 1}))
    (ring,) = rings.by_issuer.values()
    origin.pages["/jwks"] = Answer(status=500)
    await eventually(lambda: ring.failing, "the failure")
    assert kids(rings) == ("a",)


async def test_an_unknown_kid_brings_the_new_key_from_the_url(origin: Origin, start: Start) -> None:
    rings = await start(settings({"jwks_url": origin.put("/jwks", {"keys": [A]})}))
    (ring,) = rings.by_issuer.values()
    origin.put("/jwks", {"keys": [A, B]})
    refetch = ring.refetch()
    assert refetch is not None
    await refetch
    assert kids(rings) == ("a", "b")
    assert ring.refetch() is None


# ---- SIGHUP and the end


async def test_reload_reads_and_fetches_everything_now(
    origin: Origin, file: Path, start: Start
) -> None:
    url = origin.put("/jwks", {"keys": [A]})
    rings = await start(settings({"jwks_file": file}, {"jwks_url": url}))
    write(file, jwks(B))
    origin.put("/jwks", {"keys": [B]})
    await rings.reload()
    assert (kids(rings, 0), kids(rings, 1)) == (("b",), ("b",))


async def test_reload_of_sources_in_trouble_keeps_what_there_is(
    origin: Origin, file: Path, start: Start
) -> None:
    url = origin.put("/jwks", {"keys": [A]})
    rings = await start(settings({"jwks_file": file}, {"jwks_url": url}))
    write(file, "{")
    origin.pages.clear()
    await rings.reload()
    assert (kids(rings, 0), kids(rings, 1)) == (("a",), ("a",))
    assert all(ring.failing for ring in rings.by_issuer.values())


async def test_closing_ends_everything_also_a_fetch_that_hangs(
    origin: Origin, file: Path, start: Start, release: threading.Event
) -> None:
    rings = await start(
        settings({"jwks_file": file}, {"jwks_url": origin.put("/jwks", {"keys": [A]})})
    )

    def hang() -> Answer:
        release.wait()
        return Answer()

    origin.pages["/jwks"] = hang
    (_, remote) = rings.by_issuer.values()
    waiting = remote.refetch()
    assert waiting is not None
    await rings.aclose()
    await waiting
    assert not remote.failing  # ended, not timed out
    await rings.aclose()  # a second time is fine
    assert kids(rings, 1) == ("a",)


async def test_the_status_of_all_is_json_without_secrets(
    origin: Origin, file: Path, start: Start
) -> None:
    url = origin.put("/jwks?key=hunter2", {"keys": [A]})
    rings = await start(settings({"jwks_file": file}, {"jwks_url": url}))
    text = json.dumps(rings.status())
    assert "hunter2" not in text
    status = json.loads(text)["https://issuer.example/1"]
    assert status["kids"] == ["a"]
    assert status["where"] == origin.url + "/jwks"


def test_httpx_is_not_imported_for_keys_in_files(file: Path) -> None:
    """It costs each sidecar megabytes."""
    import subprocess
    import sys

    program = (
        "import sys; from pathlib import Path; from authz.keys.manager import KeyRings; "
        "from authz.settings import Settings; "
        "KeyRings(Settings.model_validate({'issuers': [{'issuer': 'i', 'audiences': ['a'], "
        "'algorithms': ['ES256'], 'keys': {'jwks_file': sys.argv[1]}}]})).load(); "
        "print('httpx' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert done.stdout.splitlines()[-1] == "False"


async def test_word_of_a_withdrawal_has_keys_fetched_at_once_and_once_more(
    start: Start, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever publishes them may hear of it a moment later. Files are watched anyway."""
    monkeypatch.setattr(manager, "WITHDRAWN_SPREAD", 0.0)
    monkeypatch.setattr(manager, "WITHDRAWN_AGAIN", 0.1)
    url = origin.put("/jwks.json", {"keys": [A, B]})
    rings = await start(settings({"jwks_url": url, "refresh": "1h"}))
    assert kids(rings) == ("a", "b")
    for _ in range(20):
        rings.withdrawn()
    await eventually(lambda: len(origin.asked) == 2, "fetched")
    origin.put("/jwks.json", {"keys": [B]})
    await eventually(lambda: kids(rings) == ("b",), "fetched again")
    assert len(origin.asked) == 3
    rings.withdrawn()
    await eventually(lambda: len(origin.asked) == 5, "later news count again")


async def test_keys_that_can_not_be_fetched_after_a_withdrawal_are_tried_until_they_can(
    start: Start, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the withdrawn key is good here: that can't wait for `keys.refresh`."""
    monkeypatch.setattr(manager, "WITHDRAWN_SPREAD", 0.0)
    monkeypatch.setattr(manager, "WITHDRAWN_AGAIN", 0.02)
    monkeypatch.setattr(manager, "FIRST_RETRY", 0.02)
    url = origin.put("/jwks.json", {"keys": [A, B]})
    rings = await start(settings({"jwks_url": url, "refresh": "1h"}))
    origin.pages["/jwks.json"] = Answer(status=500)
    rings.withdrawn()
    await eventually(lambda: len(origin.asked) >= 5, "tried again and again")
    assert kids(rings) == ("a", "b")
    origin.put("/jwks.json", {"keys": [B]})
    await eventually(lambda: kids(rings) == ("b",), "fetched")
