"""`make chaos`: break things under load, and see whether every promise held.

A real cluster of three masters and three replicas, three sidecars, a real Envoy in front of one.
Without --seconds each fault strikes once, in an order that the seed decides. Exit code 1 where a
promise was broken or a scenario proved nothing.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random, SystemRandom
from types import FrameType

from chaos.faults import FAULTS
from chaos.ledger import Ledger
from chaos.oracle import Promises
from chaos.stage import Fault, Outcome, Stage, perform
from chaos.summary import reasons, table, verdict
from chaos.world import World
from rich.console import Console
from rich.text import Text

SCENARIO_LIMIT = 150
"""Seconds. The longest scenario lasts 30 s and some 10 of preparation and judgement; what waits for
a cluster gives up after 30."""


WIDTH = 132
"""Columns of the summary, also where the terminal has fewer or there is none."""


def run(faults: Iterator[Fault], promises: Promises, seed: int, folder: Path) -> Iterator[Outcome]:
    """Each fault in one and the same world, which is ended at the end. Its logs are in `folder`."""
    dice = Random(seed)
    with World(folder, feed=promises.feed) as world:
        ledger = Ledger()
        for fault in faults:
            if lacking := fault.lacking(promises):
                yield Outcome(fault.name, skipped=lacking)
                continue
            yield _perform(fault, Stage(world, ledger, Random(dice.random())))


def _perform(fault: Fault, stage: Stage) -> Outcome:
    """Within SCENARIO_LIMIT. What goes wrong with the harness ends this scenario and no more."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SCENARIO_LIMIT)
    try:
        return perform(fault, stage)
    except Exception as error:  # noqa: BLE001  told in the summary, and makes the run fail
        return Outcome(fault.name, error=f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"the scenario took longer than {SCENARIO_LIMIT} s")


def _ended(_signal: int, _frame: FrameType | None) -> None:
    sys.exit("ended by SIGTERM")


def once(faults: Sequence[Fault], dice: Random) -> Iterator[Fault]:
    """Each of them, in any order."""
    yield from dice.sample(faults, len(faults))


def until(
    deadline: float, faults: Sequence[Fault], promises: Promises, dice: Random
) -> Iterator[Fault]:
    """Any of them, as long as there is time; none that lacks something."""
    able = [fault for fault in faults if not fault.lacking(promises)]
    while able and time.monotonic() < deadline:
        yield dice.choice(able)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--seed", type=int, help="repeat a run (default: another each time)")
    parser.add_argument("--seconds", type=float, help="faults at random until this time is over")
    parser.add_argument("--only", action="append", metavar="NAME", help=", ".join(names))
    parser.add_argument("--no-feed", action="store_true", help="sidecars that only look up")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="put logs and audits there")
    arguments = parser.parse_args()
    for name in arguments.only or []:
        if name not in names:
            parser.error(f"--only {name}: there are {', '.join(names)}")
    if not sys.platform.startswith("linux"):
        parser.error("it runs on Linux only, where each address of 127.0.0.0/8 is this machine")
    signal.signal(signal.SIGTERM, _ended)  # or all its children would be left behind
    seed = SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    promises = Promises(feed=not arguments.no_feed)
    wanted = [fault for fault in FAULTS if fault.name in (arguments.only or names)]
    dice = Random(seed)
    order = once(wanted, dice)
    if arguments.seconds is not None:
        order = until(time.monotonic() + arguments.seconds, wanted, promises, dice)
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        return _run_and_tell(order, promises, seed, arguments.keep or Path(temporary))


def _run_and_tell(faults: Iterator[Fault], promises: Promises, seed: int, folder: Path) -> int:
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(f"seed {seed} (ARGS=--seed={seed} repeats this order and these victims)")
    outcomes = []
    for outcome in run(faults, promises, seed, folder):
        outcomes.append(outcome)
        console.print(f"{outcome.fault}: ", verdict(outcome), sep="")
        for reason in reasons(outcome):
            console.print("  ", Text(reason), sep="")
    console.print(table(outcomes, promises, seed))
    return int(any(outcome.findings or outcome.error for outcome in outcomes) or not outcomes)


if __name__ == "__main__":
    sys.exit(main())
