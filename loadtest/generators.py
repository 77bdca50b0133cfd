"""Which load generator a case has, and with which numbers."""

from loadtest import h2load, pacing, sending, wrk
from loadtest.bench import LIVE, REVOKED, Bench
from loadtest.outcome import Outcome
from loadtest.scenarios import (
    DIRECT_CONNECTIONS,
    DIRECT_STREAMS,
    WRK_CONNECTIONS,
    Axis,
    Case,
    Load,
)
from loadtest.sending import Tokens
from loadtest.subjects import ALLOWED, Server

EXTRA_TIME = 60.0
"""Seconds that a load generator may take beyond its time before it counts as hung."""
SLOWEST = 1000
"""Checks a second at least, where their number is given and not the time."""
DEFAULT_ROOM = 20_000
"""Tokens: the default of `cache.tokens`."""


def put_load(bench: Bench, case: Case, *, seconds: float, rate: float, first: int) -> Outcome:
    """Run it to its end. `rate`: requests a second of an open loop. `first`: where to go on in the
    tokens of `sender.py`. Raises as Bench does.
    """
    subject, axis, point = case.subject, case.scenario.axis, case.point
    timeout = seconds + EXTRA_TIME
    match case.scenario.load:
        case Load.ENVOY:
            command = wrk.command(
                bench.envoy_url(subject.listener),
                bench.mint.file(LIVE if subject.verdict == ALLOWED else REVOKED),
                connections=point if point and axis is Axis.CONNECTIONS else WRK_CONNECTIONS,
                seconds=seconds,
                header_kb=point if point and axis is Axis.HEADERS else 0,
            )
            return wrk.read(bench.load(command, timeout, direct=False))
        case Load.PACED:
            port = bench.envoy_port(subject.listener)
            command = pacing.command(port, bench.mint.file(LIVE), rate=rate, seconds=seconds)
            return pacing.read(bench.load(command, timeout, direct=False))
        case Load.SENDER:
            tokens = Tokens(point or 1, first)
            return send(bench, _server(case), tokens, seconds=seconds)
        case Load.UNIX | Load.TCP:
            log = bench.folder / "h2load.log"
            log.unlink(missing_ok=True)  # it would be appended to
            connections = point or DIRECT_CONNECTIONS
            command = h2load.command(
                bench.address(_server(case), tcp=case.scenario.load is Load.TCP),
                bench.body_file(LIVE),
                log,
                connections=connections,
                streams=max(1, DIRECT_CONNECTIONS * DIRECT_STREAMS // connections),
                seconds=seconds,
            )
            return h2load.read(bench.load(command, timeout, direct=True), log)


def make_known(bench: Bench, case: Case) -> None:
    """Show the server the tokens of a sender's case: others may have been there since the last
    time. Where it has no room for all of them, taken in turn, it knows none when it comes again.
    """
    count = case.point or 1
    if _server(case) is Server.LARGE or count <= DEFAULT_ROOM:
        send(bench, _server(case), Tokens(count), checks=count)


def send(
    bench: Bench,
    server: Server,
    tokens: Tokens,
    *,
    seconds: float | None = None,
    checks: int | None = None,
) -> Outcome:
    """Checks by `sender.py`, for so long or so many. Raises as Bench does."""
    timeout = EXTRA_TIME + (seconds or 0) + (checks or 0) / SLOWEST
    command = sending.command(bench, server, tokens, seconds=seconds, checks=checks)
    return sending.read(bench.load(command, timeout, direct=True))


def _server(case: Case) -> Server:
    if case.subject.server is None:
        raise RuntimeError(f"{case.name}: there is nothing to send to")
    return case.subject.server
