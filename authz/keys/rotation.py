"""The order of keys in a key file, and how it changes.

    [signing key, older keys, newest first …, keys that will sign …, staged key]

Tokens of the older keys stay good until those are dropped. A key that doesn't sign yet is published
already, so that everybody who caches the public set has it before the first token names it. Beside
each key stands when it began, or begins, to sign; the time alone makes the next one sign then, and
the order is put right when the file is next written.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from authz.keys.errors import KeySourceError
from authz.keys.issuing.schedule import KeyTimes, in_order, plan
from authz.keys.jwk import thumbprint

STAGED = "authz:staged"
"""A private member of the JWK (RFC 7517 section 4 allows them); never published."""

SIGNS_FROM = "authz:signs_from"
"""The same: from when on the key signs, in whole seconds since 1970. Keys of before this was
written down have none."""

Keys = list[dict[str, Any]]


class Rotation(NamedTuple):
    keys: Keys
    """All keys of the file from now on."""
    dropped: Keys


def rotate(keys: Keys, new: dict[str, Any], *, keep: int, now: float) -> Rotation:
    """`new` signs; of it and the older ones, `keep` stay. KeySourceError: the next key is there
    already, staged or soon to sign.
    """
    _refuse_another(keys, now)
    return _keep([_from(new, now), *arranged(keys, now)], keep)


def stage(keys: Keys, new: dict[str, Any], *, now: float) -> Rotation:
    """`new` is published. Nothing is dropped. KeySourceError as `rotate`."""
    _refuse_another(keys, now)
    return Rotation([*arranged(keys, now), {**new, STAGED: True}], [])


def activate(keys: Keys, *, keep: int, now: float) -> Rotation:
    """The staged key signs; of it and the older ones, `keep` stay. KeySourceError: none."""
    staged = [key for key in keys if key.get(STAGED)]
    if not staged:
        raise KeySourceError("holds no staged key; add one with `authz keys rotate --stage`")
    older = [key for key in arranged(keys, now) if not key.get(STAGED)]
    return _keep([_from(staged[0], now), *older], keep)


def schedule(keys: Keys, new: dict[str, Any], *, now: float, ahead: float) -> Rotation:
    """`new` is published, and signs in `ahead` seconds. Those are dropped of which no token can
    live any more. KeySourceError as `rotate`.
    """
    _refuse_another(keys, now)
    all_keys = [*keys, _from(new, math.ceil(now + ahead))]  # never too early
    expired = set(plan([times_of(key) for key in all_keys], now).expired)
    return Rotation(
        arranged([key for key in all_keys if name_of(key) not in expired], now),
        [key for key in keys if name_of(key) in expired],
    )


def withdraw(
    keys: Keys, name: str, successor: Callable[[], dict[str, Any]], *, now: float
) -> Rotation:
    """The key is gone. Where it was the one that signs, the next in line does, if there is one, and
    else a new one, which `successor` makes. KeySourceError: there is no such key.
    """
    gone = [key for key in keys if name_of(key) == name]
    if not gone:
        known = ", ".join(map(name_of, keys))
        raise KeySourceError(f"holds no key {name!r}; it has {known}")
    left = [key for key in keys if name_of(key) != name]
    if plan([times_of(key) for key in keys], now).signing == name:
        nexts = [key for key in left if not _signed_before(key, now)]
        heir = min(nexts, key=_soonest) if nexts else successor()
        # An older key must not come back to sign: it is kept for its tokens alone.
        left = [_from(heir, now), *(key for key in left if key is not heir)]
    return Rotation(arranged(left, now), gone)


def arranged(keys: Keys, now: float) -> Keys:
    """In the order of the file, with the key first that signs at this moment."""
    named = {name_of(key): key for key in keys}
    times = in_order([times_of(key) for key in keys])
    signing = plan(times[::-1], now).signing
    position = next((i for i, one in enumerate(times) if one.name == signing), 0)
    order = [*times[: position + 1][::-1], *times[position + 1 :]]
    return [named[one.name] for one in order]


def times_of(key: dict[str, Any]) -> KeyTimes:
    """What stands beside a key. A moment that can't be read is one that wasn't written down."""
    begin = key.get(SIGNS_FROM)
    known = isinstance(begin, int | float) and not isinstance(begin, bool)
    return KeyTimes(name_of(key), begin if known else None, staged=bool(key.get(STAGED)))


def name_of(key: dict[str, Any]) -> str:
    """The `kid`, or what it would be: the thumbprint."""
    kid = key.get("kid")
    return kid if isinstance(kid, str) else thumbprint(key)


def _from(key: dict[str, Any], moment: float) -> dict[str, Any]:
    bare = {name: value for name, value in key.items() if name != STAGED}
    return {**bare, SIGNS_FROM: int(moment)}


def _signed_before(key: dict[str, Any], now: float) -> bool:
    times = times_of(key)
    return not times.staged and (times.signs_from is None or times.signs_from <= now)


def _soonest(key: dict[str, Any]) -> float:
    begin = times_of(key).signs_from
    return float("inf") if begin is None else begin


def _keep(keys: Keys, keep: int) -> Rotation:
    return Rotation(keys[:keep], keys[keep:])


def _refuse_another(keys: Keys, now: float) -> None:
    for key in keys:
        if key.get(STAGED):
            raise KeySourceError(
                f"key {key.get('kid')!r} is staged; let it sign with "
                "`authz keys rotate --activate` first"
            )
        if not _signed_before(key, now):
            raise KeySourceError(
                f"key {key.get('kid')!r} is published already, and will sign by itself soon"
            )
