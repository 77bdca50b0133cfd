"""Two sidecars that differ by their transport alone, on one store whose line can be blocked."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.jwe import private_jwk
from support.jwks import jwks
from support.ports import LOOPBACK
from support.proxy import TcpProxy
from support.sidecar import NO_FEED, default_issuer
from support.transports import DECRYPTION_KEY, DECRYPTION_KID, Pair
from support.valkey import ValkeyServer

STORE_TIMEOUT = "5s"
"""Longer than any `grpc-timeout` in these tests."""


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcpProxy]:
    """The line to the store."""
    with (
        ValkeyServer(tmp_path_factory.mktemp("store")) as server,
        TcpProxy(server.port) as proxy,
    ):
        yield proxy


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, line: TcpProxy) -> Iterator[Pair]:
    store = {"url": f"redis://{LOOPBACK}:{line.port}", "timeout": STORE_TIMEOUT}
    folder = tmp_path_factory.mktemp("pair")
    (folder / "decryption.json").write_text(jwks(private_jwk(DECRYPTION_KEY, DECRYPTION_KID)))
    decryption = {"key_file": str(folder / "decryption.json")}
    settings = {
        "store": store,
        "feed": NO_FEED,  # so that checks wait for the store
        "issuers": [{**default_issuer(folder), "decryption": decryption}],
    }
    with Pair.started(folder, settings) as pair:
        yield pair


def revoke(pair: Pair, token: str) -> None:
    """As `authz revoke --token` does; before either sidecar has seen the token."""
    command = [sys.executable, "-m", "authz", "revoke", "--config", str(pair.native.config)]
    subprocess.run([*command, "--token", token], check=True, capture_output=True)
