"""The tour: what the demo shows, step by step, each checked against what it says."""

import time

from authz.cli.errors import CommandError
from authz.demo import sessions_tour
from authz.demo.narrator import Narrator
from authz.demo.processes import POLL
from authz.demo.show import (
    REVOKED,
    UNAUTHORIZED,
    Show,
    Step,
    StepError,
    ask_until_refused,
    expect,
    expect_let_through,
    outcome,
)
from authz.demo.stage import Answer, Stage

STALE_TIMEOUT = 10.0
"""Seconds until a sidecar without Redis no longer relies on what it knows; `max_staleness` is 2."""
RECOVERY_TIMEOUT = 15.0
"""Seconds for the sidecar to find Redis again; it probes twice a second."""
DEATH_GRACE = 0.3
"""Seconds from a closed connection to the end of the process that closed it."""

TOKENS = {
    "alice": "alice",
    "bob-phone": "bob",
    "bob-laptop": "bob",
    "carol": "carol",
    "frank": "frank",
    "dave": "dave",
    "erin": "erin",
}
"""Tokens by name, and their subjects. Alice's is revoked, Bob is logged out everywhere, Carol's is
first seen while Redis is down, Frank's is revoked before that and first seen then; Dave's and
Erin's are for the reader to try."""


def no_token(show: Show) -> None:
    with show.asking("GET /hello, without a token"):
        answer = show.stage.ask()
    show.came(outcome(answer))
    expect(answer, UNAUTHORIZED, "token_missing")


def good_token(show: Show) -> None:
    with show.asking("GET /hello, with Alice's token"):
        answer = show.stage.ask("alice")
    show.came(outcome(answer))
    expect_let_through(answer, "alice", "allow")


def forged_header(show: Show) -> None:
    with show.asking(
        "GET /hello, with Alice's token and x-authz-subject: admin, x-authz-role: root"
    ):
        answer = show.stage.ask("alice", {"x-authz-subject": "admin", "x-authz-role": "root"})
    show.came(outcome(answer))
    expect_let_through(answer, "alice", "allow")
    if answer.upstream_saw("x-authz-role") is not None:
        raise StepError("the client's x-authz-role reached the upstream")


def revoked(show: Show) -> None:
    with show.asking("authz revoke --token <Alice's>, then GET /hello with it until it is refused"):
        show.stage.revoke_token("alice")
        answer, waited = ask_until_refused(show.stage, "alice")
    show.came(outcome(answer))
    show.took(waited, "`authz revoke` returned")
    expect(answer, UNAUTHORIZED, REVOKED)


def logged_out(show: Show) -> None:
    for name in ("bob-phone", "bob-laptop"):
        expect_let_through(show.stage.ask(name), "bob", "allow")
    with show.asking("authz revoke --user bob, then GET /hello with each of Bob's two tokens"):
        show.stage.revoke_user("bob")
        for name in ("bob-phone", "bob-laptop"):
            answer, waited = ask_until_refused(show.stage, name)
            show.came(f"{name}: {outcome(answer)}")
            show.took(waited, "`authz revoke` returned" if name == "bob-phone" else "that")
            expect(answer, UNAUTHORIZED, REVOKED)


def redis_stopped(show: Show) -> None:
    show.narrator.fact(
        "did", "authz revoke --token <Frank's, never used so far>, then stopped Redis"
    )
    with show.narrator.working("stopping Redis"):
        show.stage.revoke_token("frank")
        show.stage.stop_valkey()
        before = len(show.stage.audit_records())
    with show.asking("GET /hello, with Carol's token, until what is known of it is too old"):
        answers: list[Answer] = []

        def fails_open() -> bool:
            answers.append(show.stage.ask("carol"))
            return answers[-1].upstream_saw("x-authz-decision") == "fail-open"

        waited = show.stage.processes.wait_until(fails_open, "its failing open", STALE_TIMEOUT)
    show.came(outcome(answers[0]))
    show.came(outcome(answers[-1]))
    show.took(waited, "Redis was stopped")
    expect_let_through(answers[-1], "carol", "fail-open")
    show.narrator.fact("audit", _record_of(show, answers[-1], "fail_open", before))


def still_revoked(show: Show) -> None:
    for name, known in (("alice", "used before"), ("frank", "never used so far")):
        with show.asking(f"GET /hello, with {TOKENS[name].title()}'s revoked token, {known}"):
            answer = show.stage.ask(name)
        show.came(outcome(answer))
        expect(answer, UNAUTHORIZED, REVOKED)


def redis_back(show: Show) -> None:
    show.narrator.fact("did", "started Redis again")
    before = len(show.stage.audit_records())
    with show.narrator.working("starting Redis"):
        show.stage.start_valkey()
    with show.asking("GET /hello, with Carol's token, until it no longer fails open"):
        answers: list[Answer] = []

        def allowed() -> bool:
            answers.append(show.stage.ask("carol"))
            return answers[-1].upstream_saw("x-authz-decision") != "fail-open"

        waited = show.stage.processes.wait_until(
            allowed, "the sidecar's return to Redis", RECOVERY_TIMEOUT
        )
    show.came(outcome(answers[-1]))
    show.took(waited, "Redis was back")
    expect_let_through(answers[-1], "carol", "allow")
    with show.narrator.working("waiting for the second look at what was let through"):
        show.stage.processes.wait_until(
            lambda: any("reconciled" in line for line in show.stage.audit_records()[before:]),
            "the record of the second look",
            RECOVERY_TIMEOUT,
        )
    show.narrator.fact("audit", _record_of(show, answers[-1], "reconciled", before))


def kept(show: Show) -> None:
    with show.asking("GET /hello, with Frank's token"):
        answer = show.stage.ask("frank")
    show.came(outcome(answer))
    expect(answer, UNAUTHORIZED, REVOKED)


def _record_of(show: Show, answer: Answer, event: str, before: int) -> str:
    """The audit's line about the token of this answer. StepError: there is none."""
    token_id = answer.upstream_saw("x-authz-token-id") or ""
    for line in show.stage.audit_records()[before:]:
        if token_id and token_id in line and f'"{event}"' in line:
            return line
    raise StepError(f"{show.stage.audit.name} has no {event} record of it")


TOUR = (
    Step("no token is refused", no_token),
    Step("a good token is let through, and the upstream learns whose it is", good_token),
    Step("a client can't give itself an identity", forged_header),
    Step("a revoked token is refused", revoked),
    Step("log-out everywhere refuses all tokens of a user", logged_out),
    *sessions_tour.STEPS,
    Step("with Redis stopped a good token is let through, after 2 s on record", redis_stopped),
    Step("with Redis stopped every revoked token stays refused", still_revoked),
    Step("with Redis back nothing fails open any more, and the record is completed", redis_back),
    Step("what was revoked before Redis was stopped is still revoked", kept),
)


def take_tour(stage: Stage, narrator: Narrator) -> None:
    """CommandError: a step came out otherwise than said; the text names it."""
    show = Show(stage, narrator)
    for number, step in enumerate(TOUR, 1):
        narrator.step(number, step.title)
        try:
            step.run(show)
        except (StepError, CommandError) as error:
            why = _with_cause(str(error), stage)
            narrator.failed(why)
            raise CommandError(f"step {number} ({step.title}): {why}") from None
        narrator.passed()


def _with_cause(why: str, stage: Stage) -> str:
    """A part that died is often behind it, and may need a moment to be seen dead."""
    start = time.monotonic()
    while time.monotonic() - start < DEATH_GRACE:
        try:
            stage.processes.check()
        except CommandError as death:
            return why if str(death) in why else f"{why}; {death}"
        time.sleep(POLL)
    return why
