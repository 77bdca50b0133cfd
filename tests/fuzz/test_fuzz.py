"""A short look for inputs that break something; `make fuzz` takes a longer one."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz.__main__ import SEEDS
from fuzz.targets import TARGETS

TESTS = Path(__file__).parents[1]
SECONDS = 6
"""For each of three targets."""


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_borne(target: str) -> None:
    """Each input that some run learnt, or that once broke something."""
    inputs = [path for folder in SEEDS[target] for path in sorted(folder.iterdir())]
    assert inputs
    for path in inputs:
        TARGETS[target](path.read_bytes())


@pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris has wheels for Linux, x86-64, Python below 3.14"
)
@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run_finds_nothing(target: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz", "--target", target, "--seconds", str(SECONDS)],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "number_of_executed_units" in ran.stderr
