"""One issuer's keys: what changes them, and what doesn't."""

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from authz.keys.errors import KeySourceError
from authz.keys.jwk import ParsedKeys
from authz.keys.keyset import KeySet, VerificationKey
from authz.keys.local import JwksFile
from authz.keys.remote import JwksUrl
from authz.keys.ring import REFETCH_INTERVAL, KeyRing
from authz.observe import events

ISSUER = "https://issuer.example"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source(JwksUrl):
    """A URL whose answers a test hands out one by one."""

    def __init__(self) -> None:
        super().__init__("https://user:pw@issuer.example/jwks?secret=1", ["RS256"], limit=1)
        self.answers: asyncio.Queue[ParsedKeys | Exception] = asyncio.Queue()
        self.fetches = 0

    async def fetch(self) -> ParsedKeys:
        self.fetches += 1
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


def parsed(*kids: str, warnings: tuple[str, ...] = ()) -> ParsedKeys:
    keys = [VerificationKey(kid, frozenset({"RS256"}), f"thumb-{kid}", object()) for kid in kids]
    return ParsedKeys(KeySet(keys), warnings)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def ring(source: Source, clock: Clock) -> KeyRing:
    return KeyRing(ISSUER, source, clock=clock)


def test_at_first_there_is_nothing(ring: KeyRing) -> None:
    assert ring.keys is None
    assert ring.age(5000) is None
    assert not ring.failing
    assert ring.status()["keys"] is None


def test_an_equal_set_changes_neither_set_nor_keys_but_the_age(ring: KeyRing, clock: Clock) -> None:
    ring.accept(parsed("a", "b"))
    before = ring.keys
    clock.now += 60
    assert ring.age(clock.now) == 60
    ring.accept(parsed("b", "a"))
    assert ring.keys is before
    assert ring.age(clock.now) == 0


def test_keys_that_stay_keep_their_identity(ring: KeyRing) -> None:
    ring.accept(parsed("a", "b"))
    assert ring.keys is not None
    (b,) = ring.keys.candidates("b", "RS256")
    ring.accept(parsed("b", "c"))
    assert ring.keys.candidates("b", "RS256")[0] is b
    assert ring.keys.candidates("a", "RS256") == ()


def test_a_failure_keeps_the_last_good_set_and_shows(ring: KeyRing, clock: Clock) -> None:
    ring.accept(parsed("a"))
    before = ring.keys
    clock.now += 30
    ring.fail(KeySourceError("answered with status 500"))
    assert ring.keys is before
    assert ring.failing
    assert ring.last_error == "answered with status 500"
    assert ring.age(clock.now) == 30
    ring.accept(parsed("a"))
    assert not ring.failing


def test_readings_are_counted_by_outcome(ring: KeyRing) -> None:
    ring.accept(parsed("a"))
    ring.accept(parsed("a"))
    ring.fail(KeySourceError("no answer"))
    assert (ring.refreshed, ring.refreshes_failed) == (2, 1)


def test_a_set_without_keys_is_taken_at_its_word(ring: KeyRing) -> None:
    ring.accept(parsed("a"))
    with capture_logs() as logs:
        ring.accept(parsed())
    assert ring.keys == KeySet()
    assert not ring.failing
    assert events.KEYS_EMPTY in [entry["event"] for entry in logs]


def test_each_change_is_logged_and_each_failure_once(ring: KeyRing) -> None:
    with capture_logs() as logs:
        ring.accept(parsed("a", "b", warnings=("key 'x' is left out: weak",)))
        ring.accept(parsed("a", "b"))
        ring.accept(parsed("b", "c"))
        for _ in range(3):
            ring.fail(KeySourceError("no answer"))
        ring.accept(parsed("b", "c"))
    assert [entry["event"] for entry in logs] == [
        events.KEYS_CHANGED,
        events.KEYS_QUESTIONABLE,
        events.KEYS_CHANGED,
        events.KEYS_SOURCE_FAILED,
        events.KEYS_SOURCE_RECOVERED,
    ]
    assert (logs[2]["added"], logs[2]["removed"]) == (["c"], ["a"])
    assert {entry["issuer"] for entry in logs} == {ISSUER}


def test_the_status_is_json_without_secrets(ring: KeyRing, clock: Clock) -> None:
    ring.accept(parsed("a"))
    clock.now += 2
    ring.fail(KeySourceError("answered with status 500"))
    assert json.loads(json.dumps(ring.status())) == {
        "source": "jwks_url",
        "where": "https://issuer.example/jwks",
        "keys": 1,
        "kids": ["a"],
        "age_seconds": 2.0,
        "failing": True,
        "error": "answered with status 500",
    }


async def test_an_unknown_kid_fetches_the_keys(ring: KeyRing, source: Source) -> None:
    refetch = ring.refetch()
    assert refetch is not None
    source.answers.put_nowait(parsed("new"))
    await refetch
    assert ring.keys is not None
    assert ring.keys.kids == ("new",)


async def test_unknown_kids_fetch_at_most_every_ten_seconds(
    ring: KeyRing, source: Source, clock: Clock
) -> None:
    """Also when the fetch failed: a source in trouble is not helped by more requests."""
    for outcome in (KeySourceError("down"), parsed("a")):
        source.answers.put_nowait(outcome)
        refetch = ring.refetch()
        assert refetch is not None
        await refetch
        clock.now += REFETCH_INTERVAL - 0.01
        assert ring.refetch() is None
        clock.now += 0.01
    assert source.fetches == 2


async def test_requests_at_the_same_time_share_one_fetch(ring: KeyRing, source: Source) -> None:
    waiting = [ring.refetch() for _ in range(5)]
    source.answers.put_nowait(parsed("a"))
    for refetch in waiting:
        assert refetch is not None
        await refetch
    assert source.fetches == 1


async def test_a_regular_fetch_under_way_is_joined(ring: KeyRing, source: Source) -> None:
    regular = ring.fetch()
    refetch = ring.refetch()
    source.answers.put_nowait(parsed("a"))
    assert refetch is not None
    await refetch
    await regular
    assert source.fetches == 1


async def test_one_that_gives_up_does_not_end_the_fetch_for_the_others(
    ring: KeyRing, source: Source
) -> None:
    impatient = asyncio.ensure_future(ring.fetch())
    patient = ring.fetch()
    impatient.cancel()
    source.answers.put_nowait(parsed("a"))
    await patient
    assert ring.keys is not None


async def test_a_check_waits_for_a_hanging_issuer_only_so_long_and_the_fetch_goes_on(
    ring: KeyRing, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.keys.ring.REFETCH_WAIT", 0.01)
    refetch = ring.refetch()
    assert refetch is not None
    await refetch  # the source has not answered
    assert ring.keys is None
    source.answers.put_nowait(parsed("a"))
    await ring.fetch()
    assert ring.keys is not None
    assert source.fetches == 1


@pytest.mark.parametrize("error", [KeySourceError("down"), RuntimeError("a bug")])
async def test_a_fetch_raises_nothing(ring: KeyRing, source: Source, error: Exception) -> None:
    source.answers.put_nowait(error)
    await ring.fetch()
    assert ring.failing
    source.answers.put_nowait(parsed("a"))
    await ring.fetch()
    assert not ring.failing


async def test_closing_ends_a_fetch_and_releases_who_waits(ring: KeyRing, source: Source) -> None:
    waiting = ring.refetch()
    assert waiting is not None
    await asyncio.sleep(0)
    await ring.aclose()
    await waiting
    assert ring.keys is None


def test_files_are_not_fetched(tmp_path: Path) -> None:
    ring = KeyRing(ISSUER, JwksFile(tmp_path / "jwks.json", ["RS256"]))
    assert ring.refetch() is None
    with pytest.raises(TypeError):
        ring.fetch()
