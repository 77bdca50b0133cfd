"""The oracle finds what is wrong in made-up logs, and nothing in those that are in order."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from chaos.evidence import (
    ALLOW,
    CLOSED,
    FAIL_OPEN,
    POSSIBLY,
    REVOKED,
    UNANSWERED,
    Answer,
    Evidence,
    Life,
    Process,
    Revocation,
    Window,
)
from chaos.oracle import (
    MEMORY,
    PATIENCE,
    POSSIBLY_SHARE,
    RELAY_LAG,
    RULES,
    SCHEDULING,
    STARTING,
    SUBSCRIBED_WITHIN,
    Promises,
    judge,
)

FEED = Promises(feed=True)
LOOKUPS = Promises(feed=False)
HERE, THERE = "north", "south"


def said(at: float, decision: str, token: str = "t", **changes: Any) -> Answer:
    """An answer of sidecar `a`, asked `at` and given 10 ms later."""
    answer = Answer(at, at + 0.01, "a", 1, token, decision, f"id-{at}", closed=False)
    return answer._replace(**changes)


def revoked(token: str = "t", at: float = 1.0, **changes: Any) -> Revocation:
    """Attempted 10 ms before it was acknowledged."""
    return Revocation(
        **{"token": token, "region": HERE, "attempted": at - 0.01, "acknowledged": at, **changes}
    )


def seen(*answers: Answer, revocations: Sequence[Revocation] = (), **changes: Any) -> Evidence:
    """20 seconds in which nothing was done to sidecar `a`, whose feed is live."""
    values: dict[str, Any] = {
        "began": 0.0,
        "recovered": 0.0,
        "answers": answers,
        "revocations": {revocation.token: revocation for revocation in revocations},
        "lives": [Life("a", 1, -60.0, math.inf)],
        "windows": [],
        "regions": {"a": HERE},
        "audits": {"a": []},
        **followed(changes.get("recovered", 0.0)),
    }
    return Evidence(**{**values, **changes})


def followed(live: float, subscribed: float | None = None) -> dict[str, Any]:
    """When the sidecar's feed was in order again."""
    return {"live": {"a": live}, "subscribed": {"a": live if subscribed is None else subscribed}}


def cut(start: float, end: float, *, blind: bool = False) -> dict[str, Any]:
    return {"windows": [Window("a", start, end, blind)], "recovered": end}


def record(event: str, token: str = "t", at: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"event": event, "token": token, "time": when(at), "instance": "", **fields}


def opened(at: float = 6.0, token: str = "t", **fields: Any) -> dict[str, Any]:
    return record("fail_open", token, at, **{"request_id": f"id-{at}", **fields})


def looked_at(
    *, at: float = 15.0, token: str = "t", revoked_at: float | None = None, **fields: Any
) -> dict[str, Any]:
    """The record of a re-check: one request, let through at 6 s, and revoked then or not."""
    values = {
        "first_at": when(6),
        "last_at": when(6),
        "requests": 1,
        "was_revoked": revoked_at is not None,
        "revoked_at": "" if revoked_at is None else when(revoked_at),
        "requests_after": 0 if revoked_at is None or revoked_at > 6 else 1,
    }
    return record("reconciled", token, at, **{**values, **fields})


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def audit(*records: dict[str, Any]) -> dict[str, Any]:
    return {"audits": {"a": records}}


def broken(evidence: Evidence, promises: Promises = FEED) -> set[str]:
    return {finding.rule for finding in judge(evidence, promises)}


T = revoked()
KNOWN = {("a", 1): frozenset({"t"})}
RESTARTED = [Life("a", 1, 0.0, 10.0), Life("a", 2, 12.0, math.inf)]
AHEAD = [Life("a", 1, 0, math.inf, 3.0, "one")]

BROKEN: dict[str, list[Evidence]] = {
    "allowed though stale": [
        seen(said(1 + PATIENCE + 0.1, ALLOW), revocations=[T]),
        # Also by one that was just cut off, or has just begun.
        seen(said(6, ALLOW), revocations=[T], **cut(2, 30)),
        seen(said(12.1, ALLOW, life=2), revocations=[T], lives=RESTARTED),
    ],
    "forgotten": [
        seen(said(1.1, REVOKED), said(1.2, ALLOW), said(9, REVOKED), revocations=[T]),
        seen(said(1.1, REVOKED), said(6, FAIL_OPEN), revocations=[T], **cut(2, 30)),
        seen(said(1.1, POSSIBLY), said(6, FAIL_OPEN), revocations=[T], **cut(2, 30)),
        # Known from an earlier scenario, and though the store has lost it.
        seen(said(3, FAIL_OPEN), revocations=[revoked(at=-9)], known=KNOWN, **cut(2, 30)),
        seen(said(3, REVOKED), said(4, ALLOW), revocations=[revoked(lost=2)], **cut(2, 2.1)),
    ],
    "passed though known": [
        # Never asked before: the feed has told it all the same.
        seen(said(6, FAIL_OPEN), revocations=[T], **cut(5, 30)),
        seen(said(6, ALLOW), revocations=[revoked(lost=5)], **cut(5, 5.1)),
        seen(said(15, FAIL_OPEN), revocations=[revoked(at=8)], **cut(7, 12)),
    ],
    "not refused after all": [
        seen(said(15, FAIL_OPEN), revocations=[T], **cut(0.5, 12)),
        seen(said(15, UNANSWERED), revocations=[T]),
    ],
    "feed not whole again": [
        seen(**cut(5, 8), **followed(8 + PATIENCE + 0.1)),
        seen(**cut(5, 8), **followed(8, 8 + SUBSCRIBED_WITHIN + 0.1)),
        seen(live={}),
        seen(lives=RESTARTED, **cut(5, 14), **followed(14 + PATIENCE + STARTING + 0.1)),
    ],
    "lost in the store": [seen(missing=["t"])],
    "refused though good": [
        seen(said(1, REVOKED)),
        seen(said(1, "signature_invalid")),
        seen(said(0.5, REVOKED), revocations=[T]),
    ],
    "often possibly revoked": [
        seen(*(said(at, POSSIBLY, f"t{at}") for at in range(2))),
    ],
    "unavailable without cause": [
        seen(said(1, FAIL_OPEN)),
        seen(said(1, CLOSED, closed=True)),
        seen(said(6, FAIL_OPEN, closed=True), **cut(5, 8)),
        seen(said(6, CLOSED), **cut(5, 8)),
        seen(said(11, FAIL_OPEN), **cut(5, 8)),
    ],
    "unanswered": [
        seen(said(1, UNANSWERED)),
        seen(said(13, UNANSWERED, life=2), lives=RESTARTED),
    ],
    "sure though blind": [
        seen(said(8, ALLOW), **cut(5, 9, blind=True)),
    ],
    "passed unrecorded": [
        seen(said(6, FAIL_OPEN), **cut(5, 8)),
        seen(said(6, FAIL_OPEN), **cut(5, 8), **audit(opened(request_id="other"))),
    ],
    "audit broken": [seen(tampered={"a": ["record 3 is missing"]})],
    "not reconciled": [
        seen(**cut(5, 13), **audit(opened())),
        seen(**cut(5, 13), **audit(opened(), looked_at(token="u"))),
        seen(**cut(5, 13), **audit(opened(), opened(7), looked_at())),
        # Also what a life let through that is over.
        seen(**cut(5, 13), **audit(opened(instance="one")), lives=RESTARTED),
    ],
    "reconciled wrongly": [
        seen(**audit(opened(), looked_at(revoked_at=5))),
        seen(revocations=[revoked(at=17)], **audit(opened(), looked_at(revoked_at=17))),
        seen(revocations=[T], **audit(opened(), looked_at())),
        seen(revocations=[T], **audit(opened(), looked_at(revoked_at=3))),
        seen(revocations=[revoked(cut_off=True)], **audit(opened(), looked_at(revoked_at=3))),
        # How often, and how often too late.
        seen(**audit(looked_at())),
        seen(**audit(opened(), looked_at(requests=2))),
        seen(revocations=[T], **audit(opened(), looked_at(revoked_at=1, requests_after=0))),
        seen(
            revocations=[revoked(at=9)],
            **audit(opened(), looked_at(revoked_at=9, requests_after=1)),
        ),
        seen(**audit(opened(), looked_at(requests_after=1))),
        # By a clock that is ahead: at 14 seconds of everybody's.
        seen(
            revocations=[revoked(at=12)], lives=AHEAD,
            **audit(opened(9), looked_at(at=17, instance="one")),
        ),
    ],
    "died": [
        seen(processes=[Process("a", running=False, grown=0, traceback=False)]),
        seen(processes=[Process("a", running=True, grown=0, traceback=True)]),
    ],
    "swollen": [
        seen(processes=[Process("a", running=True, grown=MEMORY + 1, traceback=False)]),
    ],
}  # fmt: skip
"""By rule, logs that break it."""


@pytest.mark.parametrize("rule", RULES)
def test_what_breaks_a_promise_is_found(rule: str) -> None:
    for evidence in BROKEN[rule]:
        assert rule in broken(evidence), evidence


FINE: dict[str, Evidence] = {
    "a revocation that was not acknowledged": seen(
        said(9, ALLOW), said(9.1, REVOKED), revocations=[revoked(acknowledged=None)]
    ),
    "one that is on its way": seen(said(1 + PATIENCE - 0.1, ALLOW), revocations=[T]),
    "allowed while it was being revoked": seen(said(0.985, ALLOW), revocations=[T]),
    "refused before the acknowledgement came": seen(said(0.995, REVOKED), revocations=[T]),
    "refused from then on": seen(said(1.1, ALLOW), said(1.2, REVOKED), revocations=[T]),
    "asked before the refusal came": seen(
        said(1.1, REVOKED, answered=1.5), said(1.2, ALLOW), revocations=[T]
    ),
    "failed open for what came in a cut": seen(
        said(8.5, FAIL_OPEN, request_id="x"),
        said(9 + PATIENCE, REVOKED),
        revocations=[revoked(at=6)],
        **cut(5, 9, blind=True),
        **audit(opened(request_id="x"), looked_at(at=9.5, revoked_at=6)),
    ),
    "in a cut, sure of what it learnt before": seen(
        said(5 + PATIENCE - 0.1, ALLOW, "good"), **cut(5, 20, blind=True)
    ),
    "refused 503 in a cut where the route says so": seen(said(8, CLOSED, closed=True), **cut(5, 9)),
    "forgotten with a process that was killed": seen(
        said(9, REVOKED),
        said(12.1, FAIL_OPEN, life=2, request_id="x"),
        said(12 + PATIENCE, REVOKED, life=2),
        revocations=[T],
        lives=RESTARTED,
        **audit(opened(request_id="x"), looked_at(at=13, revoked_at=1)),
    ),
    "unanswered while it was down": seen(said(11, UNANSWERED), lives=RESTARTED),
    "one of the filter's rare mistakes": seen(said(6, POSSIBLY), said(9, ALLOW), **cut(5, 8)),
    "many checks, and the filter's share of mistakes": seen(
        *(said(at, ALLOW) for at in range(int(2 / POSSIBLY_SHARE))),
        *(said(at, POSSIBLY) for at in range(2)),
    ),
    "lost by the store and never known": seen(
        said(9, ALLOW), revocations=[revoked(lost=2)], **cut(2, 2.1)
    ),
    "looked at by the life after, for both of them": seen(
        said(6, FAIL_OPEN),
        said(12.5, FAIL_OPEN, life=2),
        lives=RESTARTED,
        **cut(5, 14),
        **audit(opened(6), opened(12.5), looked_at(requests=2, last_at=when(12.5))),
    ),
    "a second cut-off of the user, where the stream with the first was cut": seen(
        revocations=[revoked(cut_off=True)],
        trimmed=4.0,
        **audit(opened(), looked_at(revoked_at=3)),
    ),
    "looked at by a clock that is ahead": seen(
        revocations=[revoked(at=13)],
        lives=AHEAD,
        **audit(opened(), looked_at(at=14, instance="one")),
    ),
    "more often than the re-check can count exactly": seen(
        revocations=[revoked(at=6.5)],
        **audit(
            *(opened(6 + n / 100) for n in range(100)),
            looked_at(revoked_at=6.49, requests=100, requests_after=51, last_at=when(6.99)),
        ),
    ),
    "reading all there is after a restart": seen(
        lives=RESTARTED, **cut(5, 14), **followed(14 + PATIENCE + STARTING - 0.1)
    ),
    "subscribed a while after it was live": seen(
        **cut(5, 8), **followed(8 + PATIENCE - 0.1, 8 + SUBSCRIBED_WITHIN - 0.1)
    ),
    "from another region, by the relay": seen(
        said(1 + PATIENCE + RELAY_LAG - 0.1, ALLOW), revocations=[revoked(region=THERE)]
    ),
    "from another region, after they were parted": seen(
        said(8, ALLOW), revocations=[revoked(region=THERE)], related=7.5
    ),
}


@pytest.mark.parametrize("what", FINE)
def test_what_breaks_no_promise_is_not_held_against_anyone(what: str) -> None:
    assert judge(FINE[what], FEED) == []


def test_without_the_feed_a_sidecar_knows_only_what_it_refused() -> None:
    """So it may fail open for what it was never asked about, also for a slow moment's sake."""
    unasked = seen(
        said(6, FAIL_OPEN, request_id="x"), said(30 + PATIENCE, REVOKED), revocations=[T],
        **cut(5, 30), **audit(opened(request_id="x"), looked_at(at=31, revoked_at=1)),
    )  # fmt: skip
    assert broken(unasked, FEED) >= {"passed though known"}
    assert broken(unasked, LOOKUPS) == set()
    slow = seen(said(1, FAIL_OPEN, request_id="x"), **audit(opened(request_id="x"), looked_at()))
    assert broken(slow, LOOKUPS) == set()
    asked = seen(said(1.5, REVOKED), *unasked.answers, revocations=[T], **cut(5, 30))
    assert "forgotten" in broken(asked, LOOKUPS)


def test_a_finding_tells_how_often_and_gives_examples() -> None:
    many = seen(*(said(9 + at / 10, ALLOW) for at in range(50)), revocations=[T])
    finding = next(one for one in judge(many, LOOKUPS) if one.rule == "allowed though stale")
    assert finding.count == 50
    assert str(finding).startswith("allowed though stale (50): a/1 said allow of t at 9.00 s, rev")


def test_tolerances_are_what_the_design_promises_and_a_machines_slowness() -> None:
    assert pytest.approx(2.0 + SCHEDULING) == PATIENCE
    assert SCHEDULING <= 0.5
