"""One Valkey and one token service for a module's tests, with a few clients."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from authz.tokens.clients.client import Client
from support.token_service import TokenServer, app, login_service, new_client
from support.valkey import ValkeyServer


@dataclass(frozen=True)
class World:
    """A running service and its clients."""

    server: TokenServer
    valkey: ValkeyServer
    machine: Client
    """client_credentials."""
    login: Client
    """A login service."""
    app: Client
    """A public client."""
    page: Client
    """A public client whose tokens go into cookies."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tokens")
    with ValkeyServer(folder / "valkey") as valkey, TokenServer(folder, valkey.url) as server:
        machine = new_client("machine", scopes=("read", "write", "sessions:all"))
        login = login_service(scopes=("read", "write", "sessions"))
        public = app(scopes=("read", "sessions"))
        page = app("page", scopes=("read",), cookies=True)
        for client in (machine, login, public, page):
            server.add(client)
        yield World(server, valkey, machine, login, public, page)
