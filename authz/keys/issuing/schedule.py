"""Which key signs when: pure, of the moments that stand beside the keys.

    published, doesn't sign yet      signs                     published, its tokens may live
    ├───────── publish_ahead ───────┼── until the next signs ──┼────────── retain ──────────┤ gone

Nothing else is kept. So all who read the same keys come to the same plan, several processes of the
token service as well as a command, and one that was away needn't catch up with anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from authz.settings import MAX_LEEWAY, MAX_LIFETIME

RETAIN = MAX_LIFETIME + MAX_LEEWAY
"""Seconds that a key stays published after its last signature: the longest that a token can live,
and the longest leeway with which a sidecar looks at its `exp`."""

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """One key and when it began, or begins, to sign."""

    name: str
    """Its `kid`. All keys of a plan have different ones."""
    signs_from: float | None
    """Seconds since 1970. None: that was not written down, and was before all that are known."""
    staged: bool = False
    """It is published, and signs when somebody says so."""


class Plan(NamedTuple):
    """What is so at one moment."""

    signing: str | None
    """None: there is no key, or only one that is staged."""
    published: tuple[str, ...]
    """The key that signs, those that will, then older ones, the latest first."""
    expired: tuple[str, ...]
    """Nobody needs these any more."""
    changes_at: float
    """When the plan of the same keys will be another one, seconds since 1970; or `NEVER`."""


def plan(keys: Sequence[KeyTimes], now: float, *, retain: float = RETAIN) -> Plan:
    """`keys` in the order of their file: of two whose moment isn't known the later comes first."""
    ordered = in_order(keys)
    scheduled = [key for key in ordered if not key.staged]
    if not scheduled:
        return Plan(None, tuple(key.name for key in ordered), (), NEVER)
    begun = [key for key in scheduled if _begin(key) <= now]
    # A key that is alone has nobody to wait for, and one whose elders were withdrawn must not.
    position = max(len(begun) - 1, 0)
    older, coming = scheduled[:position], scheduled[position + 1 :]
    needed_until = _needed_until(scheduled[: position + 1], retain)
    kept = [key.name for key in older if needed_until[key.name] > now]
    published = [scheduled[position], *coming, *(key for key in ordered if key.staged)]
    changes = [_begin(key) for key in coming] + [needed_until[name] for name in kept]
    return Plan(
        scheduled[position].name,
        (*(key.name for key in published), *reversed(kept)),
        tuple(key.name for key in older if key.name not in kept),
        min(changes, default=NEVER),
    )


def in_order(keys: Sequence[KeyTimes]) -> list[KeyTimes]:
    """The oldest first, the staged last. `keys` as for `plan`."""
    earliest_first = list(reversed(keys))
    earliest_first.sort(key=_begin)  # stable: of equal moments the file's order decides
    return earliest_first


def rotation_due(
    keys: Sequence[KeyTimes], *, rotate_every: float | None, publish_ahead: float
) -> float:
    """When the next key must be made, so that it is published for long enough: seconds since 1970,
    or `NEVER`. A key of unknown age counts as old.
    """
    if rotate_every is None or any(key.staged for key in keys):
        return NEVER  # who staged one by hand rotates by hand
    if not keys:
        return -math.inf
    return _begin(in_order(keys)[-1]) + rotate_every - publish_ahead


def _begin(key: KeyTimes) -> float:
    if key.staged:
        return math.inf
    return -math.inf if key.signs_from is None else key.signs_from


def _needed_until(ordered: Sequence[KeyTimes], retain: float) -> dict[str, float]:
    """Of each key the moment from which on no token of it can live. One whose successor's beginning
    isn't known ended before the next that is.
    """
    until: dict[str, float] = {}
    ended = math.inf
    for key in reversed(ordered):
        until[key.name] = ended + retain
        if key.signs_from is not None:
            ended = key.signs_from
    return until
