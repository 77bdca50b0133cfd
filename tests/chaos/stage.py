"""A scenario: traffic, a fault in it, the recovery, and all that is needed for the judgement."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random

from chaos.evidence import FAIL_OPEN, PASSED, REFUSED, Evidence, Window
from chaos.ledger import Ledger, Token, missing
from chaos.oracle import (
    PATIENCE,
    RECONCILED_WITHIN,
    RELAY_LAG,
    SUBSCRIBED_WITHIN,
    Finding,
    Promises,
    judge,
    let_through,
    outstanding,
)
from chaos.traffic import Feeds, Traffic, sweep
from chaos.world import Lines, Region, Seat, World

from support.cluster import ValkeyCluster
from support.process import ChildProcess
from support.waiting import wait_until

WARM = 3.0
"""Seconds of traffic before the fault. After PATIENCE a sidecar must know what was revoked in the
first of them, so that there is something to forget."""

ENOUGH = 10
"""Acknowledged revocations, and checks that refused one, before a fault counts as having struck
under load."""

OLD_SWEPT = 200
"""Revocations of earlier scenarios that are asked about again, beside all of this one's: more would
take more seconds than they tell."""


class Stage:
    """What a fault can lay hands on."""

    def __init__(self, world: World, ledger: Ledger, dice: Random, *, warm: float = WARM) -> None:
        self.world = world
        self.ledger = ledger
        self.dice = dice
        self.warm = warm
        self.recovered = 0.0
        self.relay_lines: list[Lines] = []
        """Between the regions."""
        self.relays: list[ChildProcess] = []
        self._afterwards: list[Callable[[], None]] = []
        self._end = ExitStack()

    @property
    def cluster(self) -> ValkeyCluster:
        return self.world.home.cluster

    @contextmanager
    def trouble(
        self, seats: Sequence[Seat] | None = None, *, blind: bool = False
    ) -> Iterator[None]:
        """What is done inside disturbs these sidecars (None: all). At the end of the block all is
        in order again. `blind`: they can learn nothing inside; say so only where that is certain.
        """
        start = time.monotonic()
        try:
            yield
        finally:
            self.recovered = time.monotonic()
            self.world.windows += [
                Window(seat.name, start, self.recovered, blind)
                for seat in (self.world.seats if seats is None else seats)
            ]

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do this when the recovery was measured, with the traffic still on: it must disturb
        nobody.
        """
        self._afterwards.append(action)

    def at_the_end(self, action: Callable[[], object]) -> None:
        """Do this when the scenario is over, however it ended; what was said last comes first."""
        self._end.callback(action)

    def some_seats(self) -> list[Seat]:
        """One sidecar of the home region, or all of them."""
        seats = self.world.home.seats
        return list(seats) if self.dice.random() < 0.5 else [self.dice.choice(seats)]

    def hold(self, seconds: float) -> None:
        """Let it last. The time is what is tested, so nothing is polled for."""
        time.sleep(seconds)

    def run_afterwards(self) -> None:
        for action in self._afterwards:
            action()

    def close(self) -> None:
        self._end.close()


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and how it ends."""

    name: str
    strike: Callable[[Stage], None]
    """Returns when all is in order again."""
    prepare: Callable[[Stage], None] | None = None
    """Before the traffic begins."""
    needs_feed: bool = False
    """It is about what a sidecar knows without asking."""
    opens: bool = False
    """It takes long enough that sidecars must fail open."""

    def lacking(self, promises: Promises) -> str:
        """What has to be there first; empty where it can be run."""
        if self.needs_feed and not promises.feed:
            return "needs the feed"
        return ""


@dataclass
class Outcome:
    """A scenario's figures and its judgement."""

    fault: str
    seconds: float = 0.0
    acknowledged: int = 0
    failed: int = 0
    checks: int = 0
    settled: float | None = None
    """Seconds from the recovery to the last time that a revoked token passed; None: none did."""
    wrong: int = 0
    """Refusals of tokens that nobody revoked."""
    fail_opens: int = 0
    recorded: int = 0
    through: int = 0
    """Distinct tokens that were failed open for by sidecars that still run."""
    reconciled: int = 0
    live: float = 0.0
    """Seconds from the recovery until the last feed was live again."""
    findings: list[Finding] = field(default_factory=list)
    error: str = ""
    """The harness or the cluster failed, or nothing was proved."""
    skipped: str = ""

    @property
    def passed(self) -> bool:
        return not (self.findings or self.error or self.skipped)


def perform(fault: Fault, stage: Stage) -> Outcome:
    """Play the scenario and judge it. What a promise broke is in the outcome; what went wrong with
    the harness is raised.
    """
    try:
        return _perform(fault, stage)
    finally:
        stage.close()


def _perform(fault: Fault, stage: Stage) -> Outcome:
    world, ledger = stage.world, stage.ledger
    if fault.prepare is not None:
        fault.prepare(stage)
    world.mend()
    ledger.turn_the_page([region.name for region in world.regions])
    world.upstream.received.clear()
    for seat in world.seats:
        seat.mark()
    world.windows.clear()
    began = stage.recovered = time.monotonic()
    with Traffic(world.regions, world.seats, ledger, stage.dice):
        time.sleep(stage.warm)
        wait_until(lambda: len(ledger.acknowledged) >= ENOUGH, "traffic", timeout=30)
        struck = len(ledger.answers)
        fault.strike(stage)
        due = _due(stage, began)
        feeds = Feeds(world.seats, until=stage.recovered + SUBSCRIBED_WITHIN)
        with feeds:
            settled = sweep(world.seats, due, ledger, until=stage.recovered + PATIENCE)
        time.sleep(max(0.0, stage.recovered + PATIENCE - time.monotonic()))
        stage.run_afterwards()
    _ask_all_again(stage, began)
    evidence = _gather(stage, began)
    evidence.live, evidence.subscribed = feeds.live, feeds.subscribed
    outcome = _outcome(fault, evidence, ledger, settled)
    outcome.findings = judge(evidence, world.promises)
    outcome.error = _nothing_proved(fault, evidence, struck)
    return outcome


def _due(stage: Stage, began: float) -> list[Token]:
    """All that was acknowledged in this scenario, and some of what was before."""
    tokens = list(stage.ledger.acknowledged)
    revocations = stage.ledger.revocations
    old: list[Token] = []
    new: list[Token] = []
    for token in tokens:
        acknowledged = revocations[token.name].acknowledged
        (new if acknowledged is not None and acknowledged >= began else old).append(token)
    return new + stage.dice.sample(old, min(OLD_SWEPT, len(old)))


def _ask_all_again(stage: Stage, began: float) -> None:
    """When it is all old enough, or becomes so meanwhile."""
    lag = RELAY_LAG if len(stage.world.regions) > 1 else 0.0
    until = time.monotonic() + PATIENCE + lag
    sweep(stage.world.seats, _due(stage, began), stage.ledger, until=until)


def _gather(stage: Stage, began: float) -> Evidence:
    world, ledger = stage.world, stage.ledger
    evidence = Evidence(
        began=began,
        recovered=stage.recovered,
        answers=ledger.answers,
        revocations=ledger.revocations,
        lives=[life for seat in world.seats for life in seat.lives],
        windows=world.windows,
        regions={seat.name: seat.region for seat in world.seats},
        related=world.related,
        trimmed=world.trimmed,
        known=ledger.known,
        wall=time.time() - time.monotonic(),
    )
    _read_audits(world, evidence)
    _wait_reconciled(world, evidence)
    evidence.missing = [name for region in world.regions for name in _missing(region, ledger)]
    evidence.tampered = {seat.name: seat.tampered() for seat in world.seats}
    evidence.processes = [seat.process() for seat in world.seats]
    return evidence


def _read_audits(world: World, evidence: Evidence) -> None:
    evidence.audits = {seat.name: seat.audit() for seat in world.seats}


def _wait_reconciled(world: World, evidence: Evidence) -> None:
    """As long as it may take. What is not there by then is the oracle's affair."""
    until = evidence.recovered + RECONCILED_WITHIN
    while time.monotonic() < until and any(map(_left, outstanding(evidence).values())):
        time.sleep(0.1)
        _read_audits(world, evidence)


def _left(tokens: Mapping[str, int]) -> int:
    """How many of one sidecar's tokens have requests that no re-check speaks of."""
    return sum(requests > 0 for requests in tokens.values())


def _missing(region: Region, ledger: Ledger) -> list[str]:
    """What was acknowledged and is not in this region's cluster."""
    here = [token for token in ledger.acknowledged if ledger.is_kept(token)]
    return [f"{name} is not in {region.name}'s store" for name in missing(region.cluster, here)]


def _outcome(fault: Fault, evidence: Evidence, ledger: Ledger, settled: float | None) -> Outcome:
    ids = {
        record["request_id"]
        for records in evidence.audits.values()
        for record in records
        if record["event"] == "fail_open"
    }
    passed = [answer for answer in evidence.answers if answer.decision == FAIL_OPEN]
    through = let_through(evidence)
    open_tokens = sum(map(_left, outstanding(evidence).values()))
    return Outcome(
        fault.name,
        seconds=time.monotonic() - evidence.began,
        acknowledged=sum(
            (revocation.acknowledged or 0) >= evidence.began
            for revocation in evidence.revocations.values()
        ),
        failed=ledger.failed,
        checks=len(evidence.answers),
        settled=None if settled is None else settled - evidence.recovered,
        wrong=sum(
            answer.token not in evidence.revocations and answer.decision in REFUSED
            for answer in evidence.answers
        ),
        fail_opens=len(passed),
        recorded=sum(answer.request_id in ids for answer in passed),
        through=sum(map(len, through.values())),
        reconciled=sum(map(len, through.values())) - open_tokens,
        live=max(evidence.live.values(), default=math.inf) - evidence.recovered,
    )


def _nothing_proved(fault: Fault, evidence: Evidence, struck: int) -> str:
    """Why the scenario says nothing, or an empty text."""
    before, during = evidence.answers[:struck], evidence.answers[struck:]
    if sum(answer.decision in REFUSED for answer in before) < ENOUGH:
        return f"fewer than {ENOUGH} revoked tokens were refused before the fault"
    if sum(answer.decision in PASSED for answer in during) < ENOUGH:
        return f"fewer than {ENOUGH} tokens passed from the fault on"
    if fault.opens and not any(answer.decision == FAIL_OPEN for answer in during):
        return "nobody failed open: the fault did not cut anyone off"
    return ""
