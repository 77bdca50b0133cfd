"""`make fuzz`: look for inputs that break what `targets` promises.

Starts from the corpus beside this file, for a bounded time. Exit code 1, and the input, where one
was found: make it a unit test. What is learnt on the way is forgotten, unless asked to be kept.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.targets import TARGETS

import authz

Way = tuple[str, int, int]
OURS = str(Path(authz.__file__).parent)

CORPUS = Path(__file__).parent / "corpus"
CAPTURED = Path(__file__).parents[1] / "data/check_requests"
SEEDS = {
    "http2": (CORPUS / "http2",),
    "grpc": (CORPUS / "grpc",),
    "check": (CORPUS / "check", CAPTURED),
}
"""By target. The first of each is its own, and may be added to."""

MAX_LENGTH = 2048
"""Bytes of an input. Longer ones take longer and say no more."""


def fuzz(target: str, seconds: int, *, keep: bool = False) -> int:
    """0: nothing was found. `keep`: add to the corpus what reached code that it didn't reach."""
    seeds = SEEDS[target]
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as folder:
        learnt = Path(folder) / "learnt"
        learnt.mkdir()
        code = _run(
            target,
            str(learnt),
            *map(str, seeds),
            f"-max_total_time={seconds}",
            f"-max_len={MAX_LENGTH}",
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-print_final_stats=1",
            f"-artifact_prefix={folder}/found-",
        )
        for found in sorted(Path(folder).glob("found-*")):
            sys.stderr.write(f"{target}: {found.read_bytes()!r}\n")
        if code == 0 and keep:
            _add(target, learnt)
    return code


def _add(target: str, learnt: Path) -> None:
    """What takes a way through our code that no seed does; of several the shortest."""
    known: set[Way] = set()
    for folder in SEEDS[target]:
        for path in folder.iterdir():
            known |= ways(TARGETS[target], path.read_bytes())
    for path in sorted(learnt.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        new = ways(TARGETS[target], path.read_bytes()) - known
        if new:
            known |= new
            shutil.copy(path, SEEDS[target][0] / path.name[:12])


def ways(run: Callable[[bytes], None], data: bytes) -> set[Way]:
    """Steps from line to line that it takes within `authz`."""
    taken: set[Way] = set()

    def trace(frame: FrameType, _event: str, _arg: object) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if not file.startswith(OURS):
            return None
        last = frame.f_lineno

        def step(frame: FrameType, event: str, _arg: object) -> Callable[..., Any]:
            nonlocal last
            if event == "line":
                taken.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(before)
    return taken


def _run(target: str, *arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "fuzz.one", target, *arguments], check=False
    ).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--target", choices=SEEDS, help="only this one")
    parser.add_argument("--keep", action="store_true", help="add what is learnt to the corpus")
    arguments = parser.parse_args()
    targets = [arguments.target] if arguments.target else list(SEEDS)
    codes = [fuzz(target, arguments.seconds, keep=arguments.keep) for target in targets]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
