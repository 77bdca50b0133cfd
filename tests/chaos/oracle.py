"""The judgement: which promise does the evidence break?

Pure: all of it is computed from `Evidence`. Each rule is a function that yields what breaks it.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chaos.evidence import (
    ALLOW,
    CLOSED,
    FAIL_OPEN,
    PASSED,
    POSSIBLY,
    REFUSED,
    REVOKED,
    UNANSWERED,
    Answer,
    Evidence,
)

MAX_STALENESS = 2.0
"""Seconds: `feed.max_staleness`, and what DESIGN promises (section 3, promise 1)."""

SCHEDULING = 0.5
"""Seconds that a machine may add to that on which two cores run six servers, three sidecars, an
Envoy and this program. A forgotten revocation stays forgotten, so half a second hides none."""

PATIENCE = MAX_STALENESS + SCHEDULING
"""Seconds after which nothing excuses that a revocation is not known."""

RELAY_LAG = 2.0
"""Seconds that a revocation may take on its way into another region, beside PATIENCE."""

RECONCILED_WITHIN = 5.0
"""Seconds after the recovery: a probe of the breaker and a look of the reconciler, half a second
each, and a second for each thousand tokens, of which a scenario has at most two. Then a machine's
slowness, of which background work gets most."""

SUBSCRIBED_WITHIN = 5.0
"""Seconds after the recovery. A subscription that hears nothing is given up after 2.5, and is tried
again at least once a second; then a second to connect, and SCHEDULING."""

STARTING = 2.5
"""Seconds more until the feed of a sidecar is live that was started anew: max_staleness speaks of
what is missed by one that follows, and one that doesn't yet asks the store. All revocations are to
be read: some ten thousand, a third of a second by the target of 30 s for a million, and several
times that by lines in Python on a machine that does the harness's work besides."""

CLOCKS_AGREE = 0.001
"""Seconds: the grain of the audit's times."""

COUNTED_EXACTLY = 32
"""Requests of a token up to which `requests_after` is exact; of more it is never too few."""

POSSIBLY_SHARE = 1e-3
"""Of the checks of tokens that nobody revoked. The filters' own rate is 1e-6, so a thousandth means
that one is broken. One alone is borne: a short scenario has less than a thousand checks."""

MEMORY = 48.0
"""MiB that a sidecar may grow in one scenario. It sees some thousands of tokens in it, at 2 KB each
with its verdict, and the filters of some ten thousand revocations; the allocator takes the rest."""

EXAMPLES = 3
"""Cases of a broken promise that are told in full."""


@dataclass(frozen=True, slots=True)
class Promises:
    """What the sidecars under test promise, which depends on what they are able to do."""

    feed: bool
    """They follow the feed: they know what was revoked without asking, and stay by it. Without it
    a token's revocation is known to a sidecar only once it refused it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that was broken, how often, and cases of it."""

    rule: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rule} ({self.count}): {'; '.join(self.examples)}"


def judge(evidence: Evidence, promises: Promises) -> list[Finding]:
    """What was broken; empty where all held."""
    findings = []
    for name, rule in RULES.items():
        broken = list(rule(evidence, promises))
        if broken:
            findings.append(Finding(name, len(broken), tuple(broken[:EXAMPLES])))
    return findings


# ---- Revoked tokens


def allowed_though_stale(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """`allow` says that the sidecar knows. In no fault whatever may it say so of a token whose
    revocation was acknowledged longer ago than max_staleness: by then it has heard of it, or knows
    that it may not have (DESIGN, section 6).
    """
    for answer in evidence.answers:
        since = effective(evidence, answer)
        if answer.decision != ALLOW or since is None or answer.asked <= since + PATIENCE:
            continue
        if not math.isinf(evidence.revocations[answer.token].lost):
            continue  # nobody can know any more; who knew before falls under the next two
        yield describe(evidence, answer)


def forgotten(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """A sidecar that once refused a revoked token never lets it pass again (promise 2)."""
    refused: dict[tuple[str, int, str], float] = {
        (sidecar, life, token): -math.inf
        for (sidecar, life), tokens in evidence.known.items()
        for token in tokens
    }
    for answer in evidence.answers:
        if is_refusal_for_good(evidence, answer):
            key = (answer.sidecar, answer.life, answer.token)
            refused[key] = min(answer.answered, refused.get(key, math.inf))
    for answer in evidence.answers:
        key = (answer.sidecar, answer.life, answer.token)
        if answer.decision in PASSED and answer.asked > refused.get(key, math.inf):
            yield describe(evidence, answer)


def passed_though_known(evidence: Evidence, promises: Promises) -> Iterator[str]:
    """A sidecar with a live feed knows each acknowledged revocation after max_staleness, and from
    then on refuses it whatever happens, asked before or not.
    """
    if not promises.feed:
        return
    calm = {(life.sidecar, life.number): list(evidence.calm(life)) for life in evidence.lives}
    for answer in evidence.answers:
        if answer.decision in PASSED and answer.asked > knows_from(
            evidence, answer, calm[answer.sidecar, answer.life]
        ):
            yield describe(evidence, answer)


def not_refused_after_all(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """At the end, when all was in order for longer than max_staleness, each sidecar's last word on
    an acknowledged revocation is a refusal.
    """
    last: dict[tuple[str, str], Answer] = {}
    for answer in evidence.answers:
        key = (answer.sidecar, answer.token)
        if key not in last or last[key].asked < answer.asked:
            last[key] = answer
    for answer in last.values():
        since = effective(evidence, answer)
        if since is None or not math.isinf(evidence.revocations[answer.token].lost):
            continue
        known_by = max(since, evidence.recovered) + PATIENCE
        if answer.asked > known_by and answer.decision not in REFUSED:
            yield describe(evidence, answer)


def feed_not_whole_again(evidence: Evidence, promises: Promises) -> Iterator[str]:
    """Max_staleness after the recovery each sidecar is sure of all it follows, and soon after that
    it is pushed revocations, too. One that was restarted has to read them all first.
    """
    if not promises.feed:
        return
    for sidecar in evidence.regions:
        live = evidence.live.get(sidecar, math.inf) - evidence.recovered
        anew = any(evidence.began < one.ready for one in evidence.lives if one.sidecar == sidecar)
        if live > PATIENCE + STARTING * anew:
            yield f"{sidecar}'s feed was live after {live:.1f} s"
        subscribed = evidence.subscribed.get(sidecar, math.inf) - evidence.recovered
        if subscribed > SUBSCRIBED_WITHIN:
            yield f"{sidecar} was subscribed after {subscribed:.1f} s"


def lost_in_the_store(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """Nothing that was acknowledged is lost (promise 3)."""
    yield from evidence.missing


# ---- Tokens that nobody revoked


def refused_though_good(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """A token that nobody revoked is refused for no reason but `possibly_revoked`."""
    for answer in evidence.answers:
        if is_good(evidence, answer) and answer.decision not in {
            *PASSED, POSSIBLY, CLOSED, UNANSWERED,
        }:  # fmt: skip
            yield describe(evidence, answer)


def often_possibly_revoked(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """`possibly_revoked` is for the one in a million."""
    good = [answer for answer in evidence.answers if is_good(evidence, answer)]
    possibly = [answer for answer in good if answer.decision == POSSIBLY]
    if len(possibly) > max(1.0, POSSIBLY_SHARE * len(good)):
        yield from (describe(evidence, answer) for answer in possibly)


def unavailable_without_cause(evidence: Evidence, promises: Promises) -> Iterator[str]:
    """503 is for routes that fail closed, and like a fail-open for times in which the store can't
    be asked. With a live feed nobody needs to ask.
    """
    for answer in evidence.answers:
        against_the_route = FAIL_OPEN if answer.closed else CLOSED
        if answer.decision == against_the_route or (
            promises.feed
            and answer.decision in {CLOSED, FAIL_OPEN}
            and not is_troubled(evidence, answer)
        ):
            yield describe(evidence, answer)


def unanswered(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """Every question is answered while the sidecar runs."""
    for answer in evidence.answers:
        if answer.decision == UNANSWERED and not evidence.is_down(
            answer.sidecar, answer.asked, answer.answered
        ):
            yield describe(evidence, answer)


def sure_though_blind(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """A sidecar that has learnt nothing for longer than max_staleness says `allow` of no token."""
    for window in evidence.windows:
        if not window.blind:
            continue
        for answer in evidence.answers:
            if (
                answer.sidecar == window.sidecar
                and answer.decision == ALLOW
                and window.start + PATIENCE < answer.asked
                and answer.answered < window.end
            ):
                yield describe(evidence, answer)


# ---- The audit


def passed_unrecorded(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """Every fail-open is on record (promise 4)."""
    recorded = {
        sidecar: {record["request_id"] for record in records if record["event"] == "fail_open"}
        for sidecar, records in evidence.audits.items()
    }
    for answer in evidence.answers:
        if answer.decision == FAIL_OPEN and answer.request_id not in recorded[answer.sidecar]:
            yield describe(evidence, answer)


def audit_broken(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """The audit is one chain, whatever ended the sidecars that wrote it."""
    for sidecar, problems in evidence.tampered.items():
        yield from (f"{sidecar}: {problem}" for problem in problems)


def not_reconciled(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """After an outage each distinct token that was let through is re-checked, on record, with all
    its requests (promise 5); by the next life of the sidecar where it was ended before.
    """
    for sidecar, tokens in outstanding(evidence).items():
        for token, requests in sorted(tokens.items()):
            if requests > 0:
                yield f"{sidecar}: {token} was let through {requests} times and not reconciled"


def reconciled_wrongly(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """The re-check says what is the case."""
    for sidecar, records in evidence.audits.items():
        for record in records:
            if record["event"] == "reconciled":
                wrong = [*_wrong_verdict(evidence, sidecar, record), *_wrong_count(records, record)]
                yield from (f"{sidecar}: {record['token']} is said {what}" for what in wrong)
    for sidecar, tokens in outstanding(evidence).items():
        for token, requests in sorted(tokens.items()):
            if requests < 0:
                yield f"{sidecar}: {token} is reconciled {-requests} times more than let through"


def _wrong_verdict(evidence: Evidence, sidecar: str, record: Mapping[str, Any]) -> Iterator[str]:
    revocation = evidence.revocations.get(record["token"])
    at = recorded_at(evidence, sidecar, record)
    if not record["was_revoked"]:
        if revocation is None or revocation.region != evidence.regions[sidecar]:
            return  # it isn't, or the relay may have been on its way
        acknowledged = math.inf if revocation.acknowledged is None else revocation.acknowledged
        if acknowledged + SCHEDULING < at < revocation.lost:
            yield "not to have been revoked, and was"
        return
    if revocation is None or at + SCHEDULING < revocation.attempted:
        yield "to have been revoked, and was not"
        return
    said = _seconds(record["revoked_at"]) - evidence.wall  # by the revoker's clock, which is ours
    if (
        said > revocation.attempted
        and revocation.cut_off
        and revocation.attempted < evidence.trimmed
    ):
        return  # the key has the user's last cut-off, and only the stream, which we cut, the first
    if abs(said - revocation.attempted) > SCHEDULING:
        yield f"to have been revoked {said - revocation.attempted:+.1f} s from when it was"


def _wrong_count(records: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Iterator[str]:
    """Of the requests that came when it was revoked or later. All by the sidecar's own clock."""
    if not record["was_revoked"]:
        if record["requests_after"]:
            yield "to have been used after it was revoked, which it is said not to be"
        return
    first, last, revoked = (
        _seconds(record[name]) for name in ("first_at", "last_at", "revoked_at")
    )
    after = sum(
        one["event"] == "fail_open"
        and one["token"] == record["token"]
        and max(first, revoked) - CLOCKS_AGREE / 2 < _seconds(one["time"]) <= last
        for one in records
    )
    told = record["requests_after"]
    if told < after or (told > after and record["requests"] <= COUNTED_EXACTLY):
        yield f"to have been used {told} times after it was revoked, and was {after} times"


# ---- The processes


def died(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """A sidecar ends when it is told to, and has no errors that it didn't foresee (promise 7)."""
    for process in evidence.processes:
        if not process.running:
            yield f"{process.sidecar} is dead"
        if process.traceback:
            yield f"{process.sidecar} has a traceback in its log"


def swollen(evidence: Evidence, _promises: Promises) -> Iterator[str]:
    """Memory stays bounded."""
    for process in evidence.processes:
        if process.grown > MEMORY:
            yield f"{process.sidecar} grew by {process.grown:.0f} MiB"


Rule = Callable[[Evidence, Promises], Iterator[str]]

RULES: Mapping[str, Rule] = {
    rule.__name__.replace("_", " "): rule
    for rule in (
        allowed_though_stale, forgotten, passed_though_known, not_refused_after_all,
        feed_not_whole_again, lost_in_the_store, refused_though_good, often_possibly_revoked,
        unavailable_without_cause, unanswered, sure_though_blind, passed_unrecorded,
        audit_broken, not_reconciled, reconciled_wrongly, died, swollen,
    )
}  # fmt: skip


# ---- What the rules stand on


def effective(evidence: Evidence, answer: Answer) -> float | None:
    """Since when the sidecar of this answer might have heard of the token's revocation; None where
    none was acknowledged. From another region it comes by the relays.
    """
    revocation = evidence.revocations.get(answer.token)
    if revocation is None or revocation.acknowledged is None:
        return None
    if revocation.region == evidence.regions[answer.sidecar]:
        return revocation.acknowledged
    return max(revocation.acknowledged, evidence.related) + RELAY_LAG


def knows_from(evidence: Evidence, answer: Answer, calm: list[tuple[float, float]]) -> float:
    """From when on this sidecar, which follows the feed, knows of the token's revocation: after it
    was left in peace for max_staleness. Infinity: not in this scenario.
    """
    since = effective(evidence, answer)
    if since is None:
        return math.inf
    if answer.token in evidence.known.get((answer.sidecar, answer.life), ()):
        return -math.inf
    lost = evidence.revocations[answer.token].lost
    for start, end in calm:
        known = max(start, since) + PATIENCE
        if known < min(end, lost):
            return known
    return math.inf


def is_refusal_for_good(evidence: Evidence, answer: Answer) -> bool:
    """`possibly_revoked` of a token that nobody revoked may be taken back."""
    return answer.decision == REVOKED or (
        answer.decision == POSSIBLY and evidence.acknowledged_at(answer.token) is not None
    )


def is_good(evidence: Evidence, answer: Answer) -> bool:
    """Whether nobody had tried to revoke the token by the time of the answer."""
    revocation = evidence.revocations.get(answer.token)
    return revocation is None or answer.answered < revocation.attempted


def is_troubled(evidence: Evidence, answer: Answer) -> bool:
    """Whether something was done to the sidecar not long before the answer."""
    starts = [life.ready for life in evidence.lives if life.sidecar == answer.sidecar]
    return any(ready <= answer.answered < ready + PATIENCE for ready in starts) or any(
        window.start <= answer.answered and answer.asked < window.end + PATIENCE
        for window in evidence.windows_of(answer.sidecar)
    )


def let_through(evidence: Evidence) -> dict[str, Counter[str]]:
    """By sidecar, the tokens that it failed open for by its audit, and how often."""
    return {
        sidecar: Counter(one["token"] for one in records if one["event"] == "fail_open")
        for sidecar, records in evidence.audits.items()
    }


def outstanding(evidence: Evidence) -> dict[str, Counter[str]]:
    """By sidecar and token, how many requests were let through and are in no record of a re-check;
    negative: how many more are in these.
    """
    left = let_through(evidence)
    for sidecar, records in evidence.audits.items():
        for one in records:
            if one["event"] == "reconciled":
                left[sidecar][one["token"]] -= one["requests"]
    return left


def recorded_at(evidence: Evidence, sidecar: str, record: Mapping[str, Any]) -> float:
    """A record's time on the harness's clock."""
    ahead = sum(
        life.ahead
        for life in evidence.lives
        if life.sidecar == sidecar and life.instance == record["instance"]
    )
    return _seconds(record["time"]) - ahead - evidence.wall


def _seconds(time: str) -> float:
    """Since 1970."""
    return datetime.fromisoformat(time).timestamp()


def describe(evidence: Evidence, answer: Answer) -> str:
    """An answer beside what was known of its token, on the scenario's clock."""
    revocation = evidence.revocations.get(answer.token)
    told = f"{answer.sidecar}/{answer.life} said {answer.decision} of {answer.token[:8]}"
    told += f" at {answer.asked - evidence.began:.2f} s"
    if revocation is None:
        return f"{told}, never revoked"
    if revocation.acknowledged is None:
        return f"{told}, whose revocation of {revocation.attempted - evidence.began:.2f} s failed"
    return f"{told}, revoked at {revocation.acknowledged - evidence.began:.2f} s"
