"""What every step of the tour does: act, speak, and hold what came against what was said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from authz.cli.errors import CommandError
from authz.demo.narrator import Narrator
from authz.demo.stage import Answer, Stage

OK = 200
UNAUTHORIZED = 401
REVOKED = "token_revoked"
REVOCATION_TIMEOUT = 5.0
"""Seconds; the promise is 2 for a sidecar that can reach Redis."""


class StepError(Exception):
    """A step came out otherwise than said. The text says how."""


@dataclass(frozen=True, slots=True)
class Show:
    """Where a step acts and speaks."""

    stage: Stage
    narrator: Narrator

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Say what is asked, and that it is under way."""
        self.narrator.fact("asked", what)
        with self.narrator.working("waiting for the answer"):
            yield

    def came(self, text: str) -> None:
        self.narrator.fact("came", text)

    def took(self, seconds: float, since: str) -> None:
        self.narrator.fact("took", f"{seconds * 1000:.0f} ms after {since}")


@dataclass(frozen=True, slots=True)
class Step:
    title: str
    run: Callable[[Show], None]
    """Raises StepError where the title isn't true."""


def ask_until_refused(stage: Stage, name: str) -> tuple[Answer, float]:
    """The refusal and the seconds until it; StepError after REVOCATION_TIMEOUT."""
    answers: list[Answer] = []

    def refused() -> bool:
        answers.append(stage.ask(name))
        return answers[-1].status != OK

    try:
        waited = stage.processes.wait_until(refused, "its refusal", REVOCATION_TIMEOUT)
    except CommandError:
        if answers and answers[-1].status == OK:
            raise StepError(
                f"the token {name!r} still passes {REVOCATION_TIMEOUT:g} s later"
            ) from None
        raise
    return answers[-1], waited


def outcome(answer: Answer) -> str:
    """`401 token_revoked: the token was revoked`, or 200 and what the upstream saw of authz."""
    if answer.status == OK:
        seen = ", ".join(
            f"{name}: {answer.upstream_saw(name)}"
            for name in ("x-authz-subject", "x-authz-decision")
        )
        return f"200, the upstream saw {seen}"
    what = str(answer.body.get("error_description", ""))
    return f"{answer.status} {answer.reason}: {what}"


def expect(answer: Answer, status: int, reason: str) -> None:
    if (answer.status, answer.reason) != (status, reason):
        raise StepError(f"expected {status} {reason}, got {outcome(answer)}")
    if not answer.headers.get("www-authenticate", "").startswith("Bearer "):
        raise StepError("the refusal has no WWW-Authenticate: Bearer challenge")


def expect_let_through(answer: Answer, subject: str, decision: str) -> None:
    seen = (
        answer.status,
        answer.upstream_saw("x-authz-subject"),
        answer.upstream_saw("x-authz-decision"),
    )
    if seen != (OK, subject, decision):
        raise StepError(f"expected 200 for {subject} as {decision}, got {outcome(answer)}")
