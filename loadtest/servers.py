"""How each server of checks is set and started."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from authz.settings import Settings
from loadtest.subjects import SERVERS_WITHOUT_A_SIDECAR, Server
from loadtest.tokens import AUDIENCE, ISSUER, SECRET_ISSUER, jwks_file, secret_file

OK_ONLY = str(Path(__file__).with_name("ok_only.py"))
STORE_TIMEOUT = 1.0
"""Seconds. Far longer than the 25 ms of production: a load test wants to see the slow ones, too."""
ROOM_FOR_ALL = 1_100_000
"""Tokens: the most that the scenarios use at once, and some more."""

WITHOUT_FEED = frozenset({Server.COLD_REDIS, Server.COLD_CLUSTER})

Ports = Mapping[str, int]


class Servers:
    """Where the servers listen and with which settings, in one folder."""

    def __init__(self, folder: Path, ports: Ports, stores: Mapping[Server, str]) -> None:
        """`ports` has `tcp NAME` and `http NAME` of each server; `stores` the `store.url` of those
        that have one of their own.
        """
        self._folder = folder
        self._ports = ports
        self._stores = stores

    def listen(self, server: Server) -> list[str]:
        return [f"unix:{self.socket(server)}", f"127.0.0.1:{self._ports[f'tcp {server}']}"]

    def socket(self, name: str) -> Path:
        return self._folder / f"{name}.sock"

    def http(self, server: Server) -> str:
        """Where a sidecar answers `/readyz` and `/status`."""
        return f"127.0.0.1:{self._ports[f'http {server}']}"

    def command(self, server: Server) -> list[str]:
        if server in SERVERS_WITHOUT_A_SIDECAR:
            transport = "grpcio" if server is Server.OK_GRPCIO else "native"
            return [sys.executable, "-P", OK_ONLY, transport, *self.listen(server)]
        config = self._folder / f"{server}.yaml"
        config.write_text(yaml.safe_dump(self.values(server)), encoding="utf-8")
        return self.serve(config)

    def serve(self, config: Path) -> list[str]:
        """A sidecar with the settings of this file."""
        return [sys.executable, "-m", "authz", "serve", "--config", str(config)]

    def settings(self, server: Server) -> Settings:
        return Settings(**self.values(server))

    def values(self, server: Server) -> dict[str, Any]:
        """The settings of a server, in their YAML form."""
        return {
            "listen": self.listen(server),
            "http_listen": self.http(server),
            "transport": "grpcio" if server is Server.GRPCIO else "native",
            "issuers": [
                {
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": ["RS256"],
                    "keys": {"jwks_file": str(jwks_file(self._folder))},
                },
                {
                    "issuer": SECRET_ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": ["HS256"],
                    "keys": {"secret_file": str(secret_file(self._folder))},
                },
            ],
            "store": {"url": self._stores.get(server, "memory://"), "timeout": STORE_TIMEOUT},
            "feed": {"enabled": server not in WITHOUT_FEED},
            "cache": _cache(server),
            "audit": {"path": str(self._folder / "audit.jsonl")},
        }


def _cache(server: Server) -> dict[str, Any]:
    match server:
        case Server.COLD | Server.COLD_REDIS | Server.COLD_CLUSTER | Server.COLD_FEED:
            return {"tokens": 1, "revocations": 1, "negative_ttl": 0}
        case Server.LARGE:
            return {"tokens": ROOM_FOR_ALL}
        case _:
            return {}
