"""What a process does about its memory once it has started."""

import subprocess
import sys

FREED = 32
"""MiB that must come back of the 64 that are let go of below."""

PROGRAM = f"""
import gc
from pathlib import Path
from authz.footprint import settle

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

kept = [bytes(1024) for _ in range(65536)]
del kept[:-1]  # the last is above all the others, so that the allocator keeps what they took
before = resident()
settle()
assert gc.get_freeze_count() > 1000, "objects of the start would be looked at again"
assert before - resident() > {FREED}, (before, resident())
"""


def test_what_the_start_left_behind_is_given_back_and_not_looked_at_again() -> None:
    """In a process of its own: it is for the whole of one."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
