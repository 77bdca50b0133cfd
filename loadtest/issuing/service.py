"""A token service to be measured, and the client that it knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from authz.demo.processes import Child
from authz.demo.stage import authz_command
from loadtest.bench import Bench, free_ports
from loadtest.cores import on
from loadtest.feed.rig import Cluster
from loadtest.stores import LOOPBACK

ISSUER = "https://tokens.example"
CLIENT = "loadtest"
START_TIMEOUT = 60.0
"""Seconds until it answers."""
NO_LIMITS = {
    f"{what}_{who}": None
    for what in ("issue", "refresh", "failures")
    for who in ("client", "user", "address")
}


@dataclass(frozen=True, slots=True)
class Service:
    """One that runs, on the server's core."""

    child: Child
    port: int
    key: Path
    """The login service's."""
    secret: str

    def specification(self) -> dict[str, Any]:
        """What `client.py` needs to know of it."""
        return {
            "port": self.port,
            "pid": self.child.pid,
            "client": CLIENT,
            "secret": self.secret,
            "key": str(self.key),
            "issuer": ISSUER,
        }


@contextmanager
def serving(bench: Bench, cluster: Cluster, algorithm: str) -> Iterator[Service]:
    """With a signing key of this algorithm. CommandError: it does not become ready."""
    folder = bench.folder / f"tokens-{algorithm.lower()}"
    folder.mkdir()
    kinds = {"RS256": "rsa", "ES256": "ec", "EdDSA": "ed25519"}
    signing, login, public = (folder / name for name in ("signing", "login", "login.public"))
    _authz(bench, "keys", "generate", "--type", kinds[algorithm], "--out", str(signing))
    made = ("keys", "generate", "--type", "ec", "--out", str(login), "--public", str(public))
    _authz(bench, *made)
    port, http = free_ports(2)
    config = folder / "tokens.yaml"
    tokens = {
        "issuer": ISSUER,
        "audiences": ["api"],
        "listen": f"{LOOPBACK}:{port}",
        "http_listen": f"{LOOPBACK}:{http}",
        "signing": {"key_file": str(signing), "algorithm": algorithm},
        "limits": NO_LIMITS,
    }
    config.write_text(yaml.safe_dump({"store": cluster.store, "tokens": tokens}), encoding="utf-8")
    grants = ("client_credentials", "token_exchange", "refresh_token")
    secret = _authz(
        bench, "clients", "add", CLIENT, "--config", str(config),
        *(word for grant in grants for word in ("--grant", grant)),
        *("--may-exchange", "--jwks", str(public), "--scope", "read"),
    ).strip()  # fmt: skip
    name = f"tokens-{algorithm}"
    with on(bench.pinning.server):
        child = bench.processes.start(name, authz_command("tokens", "--config", str(config)))
    bench.children[name] = child
    try:
        url = f"http://{LOOPBACK}:{http}/readyz"
        bench.processes.wait_until(lambda: _answers(url), f"{name} became ready", START_TIMEOUT)
        yield Service(child, port, login, secret)
    finally:
        del bench.children[name]
        bench.processes.stop(child)


def _authz(bench: Bench, *arguments: str) -> str:
    return bench.processes.run(authz_command(*arguments))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
