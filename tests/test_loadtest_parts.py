"""The parts of the load test whose faults would not show: they would only give wrong figures."""

import io
import json
import re
import secrets
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import jwt
import pytest
from rich.console import Console

from loadtest import pacer, pieces, sender
from loadtest.issuing.client import ISSUE
from loadtest.issuing.measure import Issuing, Turn
from loadtest.measure import Sample
from loadtest.memory import MIB, Memory, Reading
from loadtest.outcome import Outcome, histogram, percentiles
from loadtest.proofs import measure_proofs
from loadtest.report import Entry, Report, added, ratio, server_cost
from loadtest.scenarios import ENVOY, LATENCY, Case, select
from loadtest.subjects import OK_GRPCIO, OK_NATIVE, WARM
from loadtest.tables import tables
from loadtest.targets import Target, targets

REPOSITORY = Path(__file__).parents[1]
STALL = 0.6
"""Seconds."""
RATE = 1000
"""Requests a second."""


class StallingServer(threading.Thread):
    """Answers HTTP/1.1 requests at once, but for `STALL` seconds once, when it answers nobody."""

    def __init__(self, stall_at: int) -> None:
        super().__init__(daemon=True)
        self._stall_at = stall_at
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self._listener.getsockname()[1]
        self._ending = threading.Event()

    def run(self) -> None:
        answered = 0
        with selectors.DefaultSelector() as selector, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._ending.is_set():
                for key, _ in selector.select(0.1):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._listener:
                        selector.register(self._listener.accept()[0], selectors.EVENT_READ)
                    elif key.fileobj.recv(65_536):
                        answered += 1
                        if answered == self._stall_at:
                            time.sleep(STALL)
                        key.fileobj.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    else:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()

    def end(self) -> None:
        self._ending.set()
        self.join()


@pytest.fixture
def stalling_server() -> Iterator[StallingServer]:
    server = StallingServer(stall_at=200)
    server.start()
    yield server
    server.end()


def test_a_stall_delays_every_request_that_was_due_meanwhile(
    stalling_server: StallingServer, tmp_path: Path
) -> None:
    """Coordinated omission: whoever waits for an answer before it sends again would count one slow
    request a connection, and there are fewer of those.
    """
    tokens = tmp_path / "tokens"
    tokens.write_text("a\nb\n")
    command = [sys.executable, "-P", pacer.__file__, str(stalling_server.port), str(tokens)]
    command += ["--rate", str(RATE), "--seconds", "1.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    said = json.loads(done.stdout)
    assert len(said["latencies_us"]) == len(said["late_us"]) == said["due"]
    assert said["bad_statuses"] == 0
    slow = sum(latency > STALL * 1e6 / 10 for latency in said["latencies_us"])
    assert slow > RATE * STALL * 0.6 > pacer.CONNECTIONS


def test_arrivals_are_the_same_each_time_and_as_many_as_asked_for() -> None:
    arrivals = pacer.poisson(rate=1000, seconds=20)
    assert arrivals == pacer.poisson(rate=1000, seconds=20)
    assert arrivals == sorted(arrivals)
    assert 0.95 < len(arrivals) / 20_000 < 1.05


def test_a_sender_takes_its_tokens_in_turn_and_some_that_were_never_seen(tmp_path: Path) -> None:
    """Each is good, and as long as the recorded one that it takes the place of."""
    secret = tmp_path / "secret"
    secret.write_text(secrets.token_hex(32))
    claims = json.dumps({"sub": "user-%08d", "jti": "%08d"})
    recorded = sender.Mint(claims, secret.read_bytes()).token(0)
    body = tmp_path / "body"
    body.write_bytes(b"\x00before " + recorded + b" after")
    what = {
        "body": str(body),
        "token": recorded.decode(),
        "template": {"claims": claims, "secret": str(secret)},
        "first": 4,
        "count": 3,
        "fresh_every": 4,
        "fresh_first": 900,
    }
    subjects = []
    for one in islice(sender.bodies_of(what), 8):
        assert len(one) == body.stat().st_size
        token = one.removeprefix(b"\x00before ").removesuffix(b" after").decode()
        subjects.append(jwt.decode(token, secret.read_bytes(), algorithms=["HS256"])["sub"])
    numbers = [int(subject.removeprefix("user-")) for subject in subjects]
    assert numbers == [1, 2, 0, 900, 1, 2, 0, 901]


def sample(cost: float) -> Sample:
    return Sample(Outcome(1, 1.0, 0, 0), None, cost, None, 0, 0.0)


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    """A disturbance of one round disturbs both sides of its ratio, and cancels out."""
    one, other = Entry(Case(ENVOY, WARM)), Entry(Case(ENVOY, OK_GRPCIO))
    one.rounds = [sample(cost) for cost in (1, 2, 30)]
    other.rounds = [sample(cost) for cost in (10, 20, 60)]
    assert ratio(one, other, server_cost) == 0.1  # the medians' ratio as well
    other.rounds = [sample(cost) for cost in (10, 4, 300)]
    assert ratio(one, other, server_cost) == 0.1  # where theirs is 0.2
    assert added(one, other, server_cost) == -9
    assert ratio(one, None, server_cost) is None


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    report = Report(select(("envoy/warm",), everything=False), seconds=1, rounds=1)
    found = targets(report)
    assert {one.met for one in found} == {None}
    # And a selection brings what its subjects are compared with.
    subjects = report.selection.scenarios[0].subjects
    assert subjects == (OK_GRPCIO, OK_NATIVE, WARM)


@pytest.mark.parametrize(
    ("sense", "figure", "met"),
    [("at most", 1.0, True), ("at most", 1.1, False), ("at least", 1.0, True)],
)
def test_a_target_is_met_up_to_its_limit(sense: str, figure: float, met: bool) -> None:
    assert Target("it", sense, 1.0, "x", figure).met is met  # type: ignore[arg-type]


def test_growth_leaves_out_the_first_tenth_where_caches_fill() -> None:
    sizes = [10] * 10 + [50] * 10 + [51] * 70 + [52] * 10
    readings = [Reading(size * MIB, 0, 0) for size in sizes]
    assert Memory(readings=readings).growth == 2 * MIB
    assert Memory(readings=readings[:9]).growth is None  # too short to say


def test_a_scenario_is_chosen_by_points_and_subjects() -> None:
    (scenario,) = select(("latency@50", "latency/warm@10"), everything=False).scenarios
    assert scenario.points == (10, 50)
    assert scenario.subjects == LATENCY.subjects


@pytest.mark.parametrize("name", ["envoy/nonsense", "latency@49", "latency/denied@50", "unix@1"])
def test_a_part_that_a_scenario_has_not_is_a_usage_error(name: str) -> None:
    with pytest.raises(click.UsageError, match=f"--only {name}: is none of pieces, rest, memory"):
        select((name,), everything=False)


def test_percentiles_are_times_that_were_seen() -> None:
    times = list(range(1, 1001))
    assert percentiles(times) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}
    assert percentiles([]) == {}


def test_a_histogram_counts_every_request_once() -> None:
    assert histogram([0, 7, 7, 12, 123, 129, 98_765]) == {0: 1, 7: 2, 12: 1, 120: 2, 98_000: 1}


# Proofs of possession


def test_checks_with_a_proof_are_measured_where_they_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is refused would be cheap, and raises."""
    monkeypatch.setattr(pieces, "ROUNDS", 1)
    figures = measure_proofs()
    assert all(figure > 0 for figure in figures.values())
    assert figures["proof_es256_ratio"] > 1


def test_what_an_operation_costs_is_compared_with_the_signature_of_its_own_round() -> None:
    """What disturbs a round disturbs both."""
    found = Issuing(encode_us={"RS256": [100.0, 1000.0, 200.0]})
    found.turns = {
        "RS256": {
            ISSUE: [Turn(1.0, us, {}, wrong) for us, wrong in ((300, 0), (3000, 2), (800, 1))]
        }
    }
    assert found.to_encode("RS256", ISSUE) == 3.0
    assert found.wrong == 3
    report = Report(select(("issuing",), everything=False), seconds=1, rounds=3)
    report.issuing = found
    assert report.wrong == 3, "it fails the run"
    assert report.as_json()["issuing"]["to_encode"] == {"RS256": {ISSUE: 3.0}}
    shown = io.StringIO()
    Console(file=shown, width=120).print(tables(report, []))
    assert re.search(r"RS256 +│ issue +│ +1 │ +- │ +- │ +800 │ +3.0 │ +3 ", shown.getvalue())
    assert "3 wrong or missing answers in issuing" in shown.getvalue()
