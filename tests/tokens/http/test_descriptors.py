"""The limit of descriptors, and how many connections fit."""

import resource

import pytest

from authz.tokens.http.descriptors import connections_within

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "fit", "soft_after"),
    [
        (1024, 1048576, 4096, 8192),
        (1024, UNLIMITED, 4096, 8192),
        (1024, 2048, 1024, 2048),
        (1024, 1024, 512, 1024),
        (65536, 65536, 4096, 65536),
        (UNLIMITED, UNLIMITED, 4096, UNLIMITED),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_takes(
    soft: int, hard: int, fit: int, soft_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of all descriptors are for clients."""
    now = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[0])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: now.__setitem__(0, both))
    assert connections_within(4096) == fit
    assert now[0] == (soft_after, hard)
