"""The parts of the feed's load test whose faults would only give wrong figures."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest

from loadtest.feed.asker import Asker
from loadtest.feed.cold import MEMORY, WITH_FEED, WITHOUT_FEED, Cold
from loadtest.feed.cost import Cost, rate, ratio, server, since
from loadtest.feed.findings import Findings
from loadtest.feed.lag import Lag
from loadtest.feed.prober import AT_MS, Book, Chase
from loadtest.feed.writes import Writes
from loadtest.report import Report
from loadtest.scenarios import FEEDS, select
from loadtest.targets import targets

ANSWER = 0.002
"""Seconds that the sidecar below takes."""


class LateSidecar:
    """Refuses a token from some moment on; never where that is infinite."""

    def __init__(self, refuses_from: float) -> None:
        self._refuses_from = refuses_from
        self.asked = 0

    def ask(self, body: bytes, answered: Callable[[bool | None, float], None]) -> None:
        del body
        self.asked += 1
        refused = time.monotonic() >= self._refuses_from
        loop = asyncio.get_running_loop()
        loop.call_later(ANSWER, lambda: answered(refused, time.monotonic()))


async def chased(sidecar: LateSidecar, acknowledged: float) -> Book:
    """What is written down of one token, acknowledged at this moment."""
    book, over = Book(), asyncio.Event()
    Chase(book, cast(Asker, sidecar), b"", acknowledged, over.set).ask()
    async with asyncio.timeout(30):
        await over.wait()
    return book


@pytest.mark.parametrize("delay_ms", [7, 130])
async def test_a_late_refusal_is_never_said_to_be_earlier_than_it_was(delay_ms: int) -> None:
    """And not much later either: a fifth of it, and the time of the answers."""
    now = time.monotonic()
    book = await chased(LateSidecar(now + delay_ms / 1000), now)
    (lag,) = book.lags
    assert delay_ms * 1000 <= lag < delay_ms * 1200 + 50_000
    assert book.at_first == book.never == 0


async def test_a_refusal_at_once_counts_with_the_time_of_its_answer() -> None:
    now = time.monotonic()
    book = await chased(LateSidecar(now - 1), now)
    assert book.lags[0] >= ANSWER * 1e6
    assert book.answers[0] >= ANSWER * 1e6
    assert book.at_first == 1


async def test_what_the_prober_itself_was_late_by_is_told_apart() -> None:
    """The acknowledgement was heard of 30 ms after it came."""
    now = time.monotonic()
    book = await chased(LateSidecar(now - 1), now - 0.03)
    assert book.late[0] >= 30_000
    assert book.lags[0] >= 30_000 + ANSWER * 1e6


async def test_a_token_that_is_never_refused_is_counted_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadtest.feed.prober.AT_MS", (0, 5, 10))
    sidecar = LateSidecar(float("inf"))
    book = await chased(sidecar, time.monotonic())
    assert book.never == 1
    assert not book.lags
    assert sidecar.asked == 3


def test_questions_are_asked_beyond_the_two_seconds_that_are_promised() -> None:
    assert list(AT_MS) == sorted(set(AT_MS))
    assert AT_MS[0] == 0
    assert AT_MS[-1] > 4000


def test_commands_that_an_idle_sidecar_gives_are_no_look_ups() -> None:
    costs = {kind: [Cost(100.0, 50.0, 100, 0)] for kind in (WITH_FEED, WITHOUT_FEED, MEMORY)}
    commands = {WITH_FEED: {"hmget": 30, "ping": 2}, WITHOUT_FEED: {"mget": 100, "ping": 2}}
    cold = Cold(costs, {**commands, MEMORY: {}}, {"hmget": 28, "ping": 3})
    assert cold.per_check(WITH_FEED) == 0
    assert cold.per_check(WITHOUT_FEED) == 1
    cold.commands[WITH_FEED]["mget"] = 1
    assert cold.per_check(WITH_FEED) == 0.01


def test_what_a_revocation_costs_is_what_was_spent_beyond_the_checks() -> None:
    """100,000 checks of 9 µs, and 1,000 revocations that take 50 ms of the second."""
    quiet, busy = Cost(110_000, 9.0, 110_000, 0), Cost(100_000, 9.5, 100_000, 0)
    writes = Writes(quiet=[quiet], busy=[busy], arrived=[1000.0])
    assert writes.each_us == pytest.approx(50)
    assert Writes().each_us is None


def test_a_ratio_of_costs_is_the_median_of_each_rounds_own() -> None:
    ones = [Cost(value, 1, 1, 0) for value in (10, 20, 90)]
    others = [Cost(value, 2, 1, 0) for value in (10, 40, 300)]
    assert ratio(ones, others, rate) == 0.5
    assert ratio(ones, others, server) == 0.5
    assert ratio([], [], rate) is None


def test_counters_are_compared_by_what_they_grew() -> None:
    assert since({"a": 3, "b": 2, "c": 1}, {"a": 1, "b": 2}) == {"a": 2, "c": 1}


def lag_of(*, own_lag: dict[float, int], **lag_ms: float) -> Lag:
    empty: dict[str, float] = {}
    make = partial(Lag, 8, 200.0, 60.0, 10, lag_ms, {}, 0, 1.0, empty, empty, empty, {})
    return make(own_lag, 0.0, 0, 0.0)


def test_the_sidecars_own_lag_is_the_bound_that_a_share_was_within() -> None:
    lag = lag_of(own_lag={0.001: 50, 0.0025: 49, float("inf"): 1})
    assert lag.own_within(0.5) == 0.001
    assert lag.own_within(0.99) == 0.0025
    assert lag.own_within(1.0) == float("inf")
    assert lag_of(own_lag={}).own_within(0.5) is None


def test_the_feeds_targets_are_met_or_missed_by_what_was_measured() -> None:
    report = Report(select(FEEDS, everything=False), seconds=1, rounds=1)
    assert {one.met for one in targets(report)} == {None}
    quiet, busy = Cost(100, 9.0, 100, 0), Cost(89, 9.5, 89, 0)
    report.feed = Findings(
        lag=lag_of(own_lag={}, p99=99.0, max=2001.0),
        writes=Writes(quiet=[quiet], busy=[busy], arrived=[1000.0]),
    )
    met = {one.what: one.met for one in targets(report) if one.met is not None}
    assert list(met.values()) == [True, False, False]
