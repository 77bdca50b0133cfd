"""Starts sidecars of several workers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Fleet

StartFleet = Callable[..., Fleet]


@pytest.fixture
def start_fleet(tmp_path: Path) -> Iterator[StartFleet]:
    """Start one: `start_fleet({"store": {…}}, workers=3, AUTHZ_FAIL_MODE="closed")`."""
    with ExitStack() as stack:

        def start(
            settings: Mapping[str, Any] | None = None, *, workers: int = 2, **env: str
        ) -> Fleet:
            name = f"fleet-{len(list(tmp_path.glob('fleet-*')))}"
            fleet = Fleet(tmp_path / name, settings, workers=workers, **env)
            stack.callback(fleet.stop)
            fleet.start()
            return fleet

        yield start


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers, for tests that do them no harm."""
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet
