"""The order of keys in a key file."""

from typing import Any

import pytest

from authz.keys.errors import KeySourceError
from authz.keys.rotation import STAGED, Rotation, activate, rotate, stage

A, B, C, NEW = ({"kid": kid} for kid in ("a", "b", "c", "new"))


def order(rotation: Rotation) -> list[Any]:
    return [key["kid"] for key in rotation.keys]


def test_the_new_key_signs_and_the_oldest_go() -> None:
    result = rotate([A, B, C], NEW, keep=2)
    assert order(result) == ["new", "a"]
    assert result.dropped == [B, C]


def test_keeping_one_drops_all_others() -> None:
    assert rotate([A, B], NEW, keep=1) == Rotation([NEW], [A, B])


def test_keeping_more_than_there_are_drops_nothing() -> None:
    assert rotate([A], NEW, keep=9) == Rotation([NEW, A], [])


def test_a_staged_key_does_not_sign_and_drops_nothing() -> None:
    result = stage([A, B, C], NEW)
    assert order(result) == ["a", "b", "c", "new"]
    assert result.dropped == []


def test_an_activated_key_signs_and_the_oldest_go() -> None:
    result = activate(stage([A, B, C], NEW).keys, keep=2)
    assert result == Rotation([NEW, A], [B, C])


def test_without_a_staged_key_there_is_nothing_to_activate() -> None:
    with pytest.raises(KeySourceError, match="holds no staged key"):
        activate([A, B], keep=2)


def test_a_staged_key_is_not_forgotten() -> None:
    """Rotating past it would drop a key that is published for nothing, or let it sign unasked."""
    staged: list[dict[str, Any]] = [A, {**B, STAGED: True}]
    with pytest.raises(KeySourceError, match="key 'b' is staged"):
        rotate(staged, NEW, keep=2)
    with pytest.raises(KeySourceError, match="key 'b' is staged"):
        stage(staged, NEW)
