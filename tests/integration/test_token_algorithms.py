"""A token of each algorithm that the token service can sign with, at a sidecar that trusts it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest

from authz.keys.generate import KeyType, generate_key
from authz.keys.keyfile import write_keys
from authz.tokens.clients.client import CLIENT_CREDENTIALS, Client
from support.grpc import headers_of, status_of
from support.sidecar import Sidecar
from support.token_service import SECRET, TokenServer, new_client
from support.valkey import ValkeyServer
from support.waiting import wait_until

KEY = b"s" * 32
KEYS: dict[str, KeyType] = {"RS256": "rsa", "EdDSA": "ed25519"}
"""What `authz keys generate` calls them. ES256 is what the other tests use."""
ALGORITHMS = (*KEYS, "HS256")


def issuer_of(algorithm: str) -> str:
    return f"https://{algorithm.lower()}.example"


def signing(folder: Path, algorithm: str) -> dict[str, Any]:
    """Settings of `tokens.signing`, with a key of its own. RS256 is the default."""
    file = folder / f"{algorithm}.key"
    if algorithm not in KEYS:
        file.write_bytes(KEY)
        return {"secret_file": str(file), "algorithm": algorithm}
    write_keys(file, [generate_key(KEYS[algorithm])], replace=False)
    return {"key_file": str(file)} | ({} if algorithm == "RS256" else {"algorithm": algorithm})


def trusted(server: TokenServer, algorithm: str) -> dict[str, Any]:
    """A sidecar's settings of this issuer: its published keys, or the secret that has none."""
    keys = {"jwks_url": f"{server.url}/.well-known/jwks.json"}
    if algorithm not in KEYS:
        keys = {"secret_file": server.settings["tokens"]["signing"]["secret_file"]}
    return {
        "issuer": issuer_of(algorithm),
        "audiences": ["api"],
        "algorithms": [algorithm],
        "keys": keys,
    }


@pytest.fixture(scope="module")
def client() -> Client:
    return new_client()


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, client: Client
) -> Iterator[dict[str, TokenServer]]:
    """By algorithm: one each, on one store."""
    folder = tmp_path_factory.mktemp("algorithms")
    with ExitStack() as stack:
        valkey = stack.enter_context(ValkeyServer(folder / "valkey"))
        servers = {
            algorithm: TokenServer(
                folder / algorithm,
                valkey.url,
                {"issuer": issuer_of(algorithm), "signing": signing(folder, algorithm)},
            )
            for algorithm in ALGORITHMS
        }
        with ThreadPoolExecutor() as pool:  # each takes a second
            for server in pool.map(TokenServer.start, servers.values()):
                stack.callback(server.stop)
        servers["RS256"].add(client)
        yield servers


@pytest.fixture(scope="module")
def sidecar(
    tmp_path_factory: pytest.TempPathFactory, services: dict[str, TokenServer]
) -> Iterator[Sidecar]:
    store = {**services["RS256"].settings["store"], "timeout": "2s"}
    issuers = [trusted(server, algorithm) for algorithm, server in services.items()]
    folder = tmp_path_factory.mktemp("sidecar")
    with Sidecar(folder, {"store": store, "issuers": issuers}) as sidecar:
        wait_until(lambda: sidecar.status()["feed"]["live"], "the feed is live")
        yield sidecar


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sidecar_trusts_what_the_service_signs(
    services: dict[str, TokenServer], sidecar: Sidecar, client: Client, algorithm: str
) -> None:
    """And refuses it once it was revoked. A secret is published nowhere."""
    service = services[algorithm]
    token = service.token(client.id, grant_type=CLIENT_CREDENTIALS).json()["access_token"]
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    answer = sidecar.client.check(token=token)
    assert (status_of(answer), headers_of(answer)["x-authz-issuer"]) == (200, issuer_of(algorithm))
    published = service.http.get("/.well-known/jwks.json").json()["keys"]
    assert bool(published) == (algorithm in KEYS)
    form = {"client_id": client.id, "client_secret": SECRET}
    assert service.http.post("/oauth2/revoke", data={**form, "token": token}).status_code == 200
    wait_until(lambda: status_of(sidecar.client.check(token=token)) == 401, "it is refused")
