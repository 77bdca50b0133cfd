"""What is measured: scenarios, each with subjects side by side, some at several points."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum, unique

import click

from loadtest import subjects
from loadtest.subjects import Server, Subject

DIRECT_CONNECTIONS = 2
DIRECT_STREAMS = 50
"""h2load: 100 requests in flight, as one Envoy of two workers may have."""
WRK_CONNECTIONS = 64


@unique
class Load(StrEnum):
    """How load is put on."""

    UNIX = "unix"
    """h2load over the Unix socket: a closed loop, as much as goes."""
    TCP = "tcp"
    """The same over TCP."""
    ENVOY = "envoy"
    """wrk through Envoy: a closed loop, as much as goes."""
    PACED = "paced"
    """`pacer.py` through Envoy: an open loop at a fixed rate, for the latency."""
    SENDER = "sender"
    """`sender.py` over the Unix socket: a closed loop with as many different tokens as wanted."""

    @property
    def through_envoy(self) -> bool:
        return self in {Load.ENVOY, Load.PACED}


@unique
class Axis(StrEnum):
    """What grows from point to point of a scenario, with its unit."""

    LOAD = "% of the maximum"
    CONNECTIONS = "connections"
    TOKENS = "distinct tokens"
    HEADERS = "KB of headers"


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    load: Load
    subjects: tuple[Subject, ...]
    reference: Subject
    """Whose CPU time, or latency, the others' is compared with."""
    fastest: Subject | None = None
    """Whose requests a second the others' are compared with, where it is not the reference."""
    axis: Axis | None = None
    points: tuple[int, ...] = ()
    quick: bool = True
    """Is part of a run that names nothing; the others take longer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One figure to be: a subject of a scenario at one of its points."""

    scenario: Scenario
    subject: Subject
    point: int | None = None

    @property
    def name(self) -> str:
        """`scenario/subject`, and `@point` where there are several."""
        name = f"{self.scenario.name}/{self.subject.name}"
        return name if self.point is None else f"{name}@{self.point}"


_DIRECT = (subjects.OK_GRPCIO, subjects.OK_NATIVE, subjects.WARM_GRPCIO, subjects.WARM)

ENVOY = Scenario(
    "envoy",
    "Through Envoy, over a Unix socket",
    Load.ENVOY,
    (
        subjects.NONE,
        subjects.JWT_AUTHN,
        subjects.OK_GRPCIO,
        subjects.OK_NATIVE,
        subjects.WARM,
        subjects.WARM_GRPCIO,
        subjects.WARM_REDIS,
        subjects.COLD,
        subjects.COLD_REDIS,
        subjects.COLD_CLUSTER,
        subjects.COLD_FEED,
        subjects.REVOKED,
    ),
    subjects.OK_GRPCIO,
    subjects.OK_NATIVE,
)
UNIX = Scenario("unix", "Direct, Unix socket", Load.UNIX, _DIRECT, subjects.WARM_GRPCIO)
TCP = Scenario("tcp", "Direct, TCP", Load.TCP, _DIRECT, subjects.WARM_GRPCIO)
LATENCY = Scenario(
    "latency",
    "Latency through Envoy at a fixed rate",
    Load.PACED,
    (subjects.NONE, subjects.JWT_AUTHN, subjects.OK_NATIVE, subjects.WARM),
    subjects.NONE,
    axis=Axis.LOAD,
    points=(10, 50, 80),
)
CONNECTIONS = Scenario(
    "connections",
    "Direct, Unix socket, by connections",
    Load.UNIX,
    (subjects.WARM_GRPCIO, subjects.WARM),
    subjects.WARM_GRPCIO,
    axis=Axis.CONNECTIONS,
    points=(1, 10, 100, 1000),
    quick=False,
)
CLIENTS = Scenario(
    "clients",
    "Through Envoy, by connections of clients",
    Load.ENVOY,
    (subjects.NONE, subjects.WARM),
    subjects.NONE,
    axis=Axis.CONNECTIONS,
    points=(1, 10, 100, 1000),
    quick=False,
)
HEADERS = Scenario(
    "headers",
    "Through Envoy, by size of the request's headers",
    Load.ENVOY,
    (subjects.NONE, subjects.WARM, subjects.WARM_ALL_HEADERS),
    subjects.WARM,
    axis=Axis.HEADERS,
    points=(0, 4, 16, 60),
    quick=False,
)
TOKENS = Scenario(
    "tokens",
    "Direct, Unix socket, by distinct tokens in turn",
    Load.SENDER,
    (subjects.DEFAULT_ROOM, subjects.ROOMY),
    subjects.ROOMY,
    axis=Axis.TOKENS,
    points=(1_000, 10_000, 100_000, 1_000_000),
    quick=False,
)
SCENARIOS = (ENVOY, UNIX, TCP, LATENCY, CONNECTIONS, CLIENTS, HEADERS, TOKENS)

PIECES = "pieces"
"""What single steps cost, without a server: `pieces.py`."""
REST = "rest"
"""Memory of each server at rest."""
MEMORY = "memory"
"""The same, and with a full cache, and over millions of checks."""
FEED_LAG, FEED_MILLION = "feed-lag", "feed-million"
FEED_COLD, FEED_WRITES = "feed-cold", "feed-under-writes"
FEEDS = (FEED_LAG, FEED_MILLION, FEED_COLD, FEED_WRITES)
"""What following the revocations costs and brings: `feed/`."""
ISSUING = "issuing"
"""What the token service's operations cost: `issuing/`."""
OTHERS = (PIECES, REST, MEMORY, *FEEDS, ISSUING)
"""What is measured in ways of its own."""
QUICK_OTHERS = (PIECES, REST)


@dataclass(frozen=True, slots=True)
class Selection:
    """What one run measures."""

    scenarios: tuple[Scenario, ...]
    others: frozenset[str]

    def servers(self) -> list[Server]:
        """The processes that it needs."""
        wanted = {subject.server for one in self.scenarios for subject in one.subjects}
        wanted |= {Server.MEMORY}  # at rest, it is always looked at
        wanted |= {Server.FILLED} if MEMORY in self.others else set()
        return [server for server in Server if server in wanted]

    def cases(self) -> Iterator[Case]:
        for scenario in self.scenarios:
            # By point first, so that what is compared runs close together.
            for point in scenario.points or (None,):
                for subject in scenario.subjects:
                    yield Case(scenario, subject, point)


def names() -> list[str]:
    return [*(one.name for one in SCENARIOS), *OTHERS]


def select(only: tuple[str, ...], *, everything: bool) -> Selection:
    """What `SCENARIO`, `SCENARIO/SUBJECT`, `SCENARIO@POINT` and `SCENARIO/SUBJECT@POINT` name;
    without names the quick ones, or everything. The subjects to compare with are always among
    them. UsageError: a name is unknown.
    """
    wanted: dict[str, Scenario] = {}
    for name in only:
        if name not in OTHERS:
            one = _find(name)
            wanted[one.name] = _both(wanted[one.name], one) if one.name in wanted else one
    if everything:
        return Selection(SCENARIOS, frozenset({PIECES, MEMORY, *FEEDS, ISSUING}))
    if not only:
        quick = tuple(one for one in SCENARIOS if one.quick)
        return Selection(quick, frozenset(QUICK_OTHERS))
    chosen = tuple(wanted[one.name] for one in SCENARIOS if one.name in wanted)
    return Selection(chosen, frozenset(OTHERS) & frozenset(only))


def _find(name: str) -> Scenario:
    """The part of a scenario that a name stands for. UsageError: there is none."""
    rest, _, point = name.partition("@")
    scenario, _, subject = rest.partition("/")
    for one in SCENARIOS:
        if one.name == scenario:
            compared = (one.reference, one.fastest)
            subjects = tuple(s for s in one.subjects if s.name == subject or s in compared)
            points = tuple(p for p in one.points if str(p) == point)
            if (subject and subject not in {s.name for s in one.subjects}) or (
                point and not points
            ):
                break
            return replace(
                one,
                subjects=subjects if subject else one.subjects,
                points=points if point else one.points,
            )
    known = {one.name: [s.name for s in one.subjects] for one in SCENARIOS}
    raise click.UsageError(
        f"--only {name}: is none of {', '.join(OTHERS)}, "
        + ", ".join(f"{scenario}/{'|'.join(subjects)}" for scenario, subjects in known.items())
    )


def _both(one: Scenario, other: Scenario) -> Scenario:
    """Two parts of a scenario, in its order."""
    whole = next(each for each in SCENARIOS if each.name == one.name)
    return replace(
        whole,
        subjects=tuple(s for s in whole.subjects if s in one.subjects + other.subjects),
        points=tuple(p for p in whole.points if p in one.points + other.points),
    )
