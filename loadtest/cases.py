"""What is measured: scenarios, and in each the subjects that are compared."""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Literal

import click

from authz.check.verdict import Decision, Reason

OK_ONLY = "ok-only"
"""The subject that the others of its scenario are compared with."""

ALLOWED = f"{Decision.ALLOW}:{Reason.OK}"
DENIED = f"{Decision.DENY}:{Reason.TOKEN_REVOKED}"
"""Verdicts as the sidecar's `/status` counts them."""


@unique
class Server(StrEnum):
    """A process that answers checks, and how it is set."""

    OK_ONLY = "ok-only"
    """Answers OK without looking: `baseline.py`."""
    MEMORY = "memory"
    """A sidecar with `memory://`: nobody is asked."""
    REDIS = "redis"
    """A sidecar with `redis://` and the default caches."""
    COLD = "cold"
    """`memory://`, and room for one token: with many in turn, each counts as never seen."""
    COLD_REDIS = "cold-redis"
    """`redis://`, and room for one token and one answer: each check asks Redis."""


@dataclass(frozen=True, slots=True)
class Subject:
    name: str
    server: Server | None
    """None: Envoy answers by itself, without the ext_authz filter."""
    meaning: str
    verdict: str = ALLOWED


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    through: Literal["unix", "tcp", "envoy"]
    paced: bool
    """An open loop at a fixed rate, for the latency, instead of as much as goes."""
    subjects: tuple[Subject, ...]

    @property
    def tool(self) -> Literal["h2load", "wrk"]:
        return "wrk" if self.through == "envoy" and not self.paced else "h2load"


_OK_ONLY = Subject(OK_ONLY, Server.OK_ONLY, "a server that answers OK without looking")
_NONE = Subject("none", None, "Envoy without ext_authz")
_WARM = Subject("warm", Server.MEMORY, "tokens seen before, memory://")
_DENIED = Subject("denied", Server.REDIS, "revoked tokens, seen before, redis://", DENIED)

SCENARIOS = (
    Scenario("unix", "Direct, Unix socket", "unix", False, (_OK_ONLY, _WARM, _DENIED)),
    Scenario("tcp", "Direct, TCP", "tcp", False, (_OK_ONLY, _WARM)),
    Scenario("unix-paced", "Direct, Unix socket", "unix", True, (_OK_ONLY, _WARM)),
    Scenario(
        "envoy",
        "Through Envoy",
        "envoy",
        False,
        (
            _NONE,
            _OK_ONLY,
            _WARM,
            Subject("warm-redis", Server.REDIS, "the same, redis://, asked once a second a token"),
            Subject("cold", Server.COLD, "tokens never seen, memory://: the signature each time"),
            Subject("cold-redis", Server.COLD_REDIS, "the same, redis://: and Redis each time"),
            _DENIED,
        ),
    ),
    Scenario("envoy-paced", "Through Envoy", "envoy", True, (_NONE, _OK_ONLY, _WARM)),
)


def select(names: tuple[str, ...]) -> tuple[Scenario, ...]:
    """The scenarios and subjects named by `SCENARIO` or `SCENARIO/SUBJECT`; without names, all.
    The subject to compare with is always among them. UsageError: a name is unknown.
    """
    known = {one.name for one in SCENARIOS} | {
        f"{one.name}/{subject.name}" for one in SCENARIOS for subject in one.subjects
    }
    for name in names:
        if name not in known:
            raise click.UsageError(f"--only {name}: is none of {', '.join(sorted(known))}")
    if not names:
        return SCENARIOS
    chosen = []
    for one in SCENARIOS:
        subjects = tuple(
            subject
            for subject in one.subjects
            if one.name in names or f"{one.name}/{subject.name}" in names
        )
        if subjects:
            with_reference = tuple(s for s in one.subjects if s in subjects or s.name == OK_ONLY)
            chosen.append(Scenario(one.name, one.title, one.through, one.paced, with_reference))
    return tuple(chosen)
