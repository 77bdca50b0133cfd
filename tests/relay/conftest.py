"""Two regions, each with a store of its own, and relays between them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.relay import RelayProcess
from support.valkey import ValkeyServer

StartRelay = Callable[..., RelayProcess]


class Regions(NamedTuple):
    """A single server each."""

    east: ValkeyServer
    west: ValkeyServer


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    with (
        ValkeyServer(tmp_path / "east") as east,
        ValkeyServer(tmp_path / "west", appendonly=True) as west,
    ):
        yield Regions(east, west)


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[StartRelay]:
    """Start a relay: `start_relay(from_url, to_url, "--name", "x", settings={…})`."""
    with ExitStack() as stack:

        def start(
            source: str, target: str, *options: str, settings: Mapping[str, Any] | None = None
        ) -> RelayProcess:
            folder = tmp_path / f"relay-{len(list(tmp_path.glob('relay-*')))}"
            relay = RelayProcess(folder, source, target, *options, settings=settings)
            stack.callback(relay.process.kill)
            return relay.start()

        yield start
