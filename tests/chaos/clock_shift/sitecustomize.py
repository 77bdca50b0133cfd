"""Python imports this before anything else where its folder is on PYTHONPATH: it shifts the wall
clock of that one process by CLOCK_SHIFT seconds.

It replaces `time.time` and `time.time_ns`, by which authz reads the time of day everywhere: expiry,
cut-offs, the memory's ages, the audit. It does not touch the monotonic clocks, as no shifted clock
does, nor what C code reads for itself (`datetime.now`, which stamps only the log).
"""

import os
import time

_SHIFT = float(os.environ["CLOCK_SHIFT"])
_time, _time_ns = time.time, time.time_ns


def _shifted() -> float:
    return _time() + _SHIFT


def _shifted_ns() -> int:
    return _time_ns() + round(_SHIFT * 1e9)


time.time = _shifted
time.time_ns = _shifted_ns
