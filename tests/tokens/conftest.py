"""One Valkey and one token service for all of these tests, with a few clients."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from authz.tokens.clients.client import Client
from support.jwks import jwk, jwks, rsa_key
from support.token_service import TokenServer, app, login_service, new_client
from support.valkey import ValkeyServer

PROVIDER = "https://idp.example"
"""An identity provider whose users are taken over, with the prefix `idp:`."""
PROVIDER_KID = "p-1"


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


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tokens")
    keys = folder / "provider.jwks.json"
    keys.write_text(jwks(jwk(rsa_key("provider"), PROVIDER_KID, alg="RS256")))
    provider = {
        "issuer": PROVIDER,
        "audiences": ["login"],
        "algorithms": ["RS256"],
        "keys": {"jwks_file": str(keys)},
        "subject_prefix": "idp:",
    }
    with (
        ValkeyServer(folder / "valkey") as valkey,
        TokenServer(folder, valkey.url, {"exchange": {"issuers": [provider]}}) as server,
    ):
        machine = new_client("machine", scopes=("read", "write", "sessions:all"))
        login = login_service(scopes=("read", "write", "sessions"))
        public = app(scopes=("read", "sessions"))
        page = app("page", scopes=("read",), cookies=True)
        for client in (machine, login, public, page):
            server.add(client)
        yield World(server, valkey, machine, login, public, page)
