"""The quickest faults of `make chaos`, and that it would find what it looks for."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.faults import FAULTS
from chaos.ledger import Ledger
from chaos.stage import Fault, Outcome, Stage, perform
from chaos.world import World

from authz.revocation.record import blacklist_key

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs 127.0.0.0/8 to be all this machine's"
)

WARM = 1.0
"""Seconds of traffic before a fault. `make chaos` takes longer."""

QUICK = ("kill a master", "restart in a cut", "flush all")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger()


def play(fault: Fault, world: World, ledger: Ledger) -> Outcome:
    """The dice follow pytest's seed, which `--randomly-seed` repeats."""
    return perform(fault, Stage(world, ledger, random.Random(random.random()), warm=WARM))


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.name in QUICK], ids=lambda fault: fault.name
)
def test_every_promise_holds(fault: Fault, world: World, ledger: Ledger) -> None:
    outcome = play(fault, world, ledger)
    assert [str(finding) for finding in outcome.findings] == []
    assert outcome.error == ""
    assert outcome.acknowledged > 0
    assert outcome.fail_opens == outcome.recorded


def test_broken_promises_are_found(tmp_path: Path) -> None:
    """A sidecar is cut off, and then someone tampers with its audit and with the store. In a world
    of its own, for the chain of those audits is broken ever after.
    """
    with World(tmp_path / "world") as world:
        find_what_is_tampered_with(world, Ledger())


def find_what_is_tampered_with(world: World, ledger: Ledger) -> None:

    def tamper(stage: Stage) -> None:
        (cut,) = (fault for fault in FAULTS if fault.name == "lose answers")
        cut.strike(stage)
        for seat in world.seats:
            seat.sidecar.audit_path.write_text("")
            seat.mark()
        stage.afterwards(lambda: make_it_forget(stage))

    def make_it_forget(stage: Stage) -> None:
        for token in list(stage.ledger.acknowledged):
            key = blacklist_key(token.ref.bucket, token.ref.user, token.ref.token)
            stage.cluster.master_of(token.ref.bucket).client.delete(key)

    outcome = play(Fault("tamper", tamper, opens=True), world, ledger)
    found = {finding.rule for finding in outcome.findings}
    assert found >= {"lost in the store", "passed unrecorded", "reconciled wrongly"}
    assert outcome.recorded < outcome.fail_opens
