"""The order of keys in a key file, and how it changes.

    [signing key, older keys, newest first …, staged key]

Tokens of the older keys stay good until those are dropped. A staged key is published but signs
nothing yet, so that everybody who caches the public set has it before the first token names it.
"""

from typing import Any, NamedTuple

from authz.keys.errors import KeySourceError

STAGED = "authz:staged"
"""A private member of the JWK (RFC 7517 section 4 allows them); never published."""

Keys = list[dict[str, Any]]


class Rotation(NamedTuple):
    keys: Keys
    """All keys of the file from now on."""
    dropped: Keys


def rotate(keys: Keys, new: dict[str, Any], *, keep: int) -> Rotation:
    """`new` signs; of it and the older ones, `keep` stay. KeySourceError: a key is staged."""
    _refuse_staged(keys)
    return _keep([new, *keys], keep)


def stage(keys: Keys, new: dict[str, Any]) -> Rotation:
    """`new` is published. Nothing is dropped. KeySourceError: a key is staged already."""
    _refuse_staged(keys)
    return Rotation([*keys, {**new, STAGED: True}], [])


def activate(keys: Keys, *, keep: int) -> Rotation:
    """The staged key signs; of it and the older ones, `keep` stay. KeySourceError: none."""
    staged = [key for key in keys if key.get(STAGED)]
    if not staged:
        raise KeySourceError("holds no staged key; add one with `authz keys rotate --stage`")
    older = [key for key in keys if not key.get(STAGED)]
    new = {name: value for name, value in staged[0].items() if name != STAGED}
    return _keep([new, *older], keep)


def _keep(keys: Keys, keep: int) -> Rotation:
    return Rotation(keys[:keep], keys[keep:])


def _refuse_staged(keys: Keys) -> None:
    for key in keys:
        if key.get(STAGED):
            raise KeySourceError(
                f"key {key.get('kid')!r} is staged; let it sign with "
                "`authz keys rotate --activate` first"
            )
