"""The bench: every process of a load test, in one temporary folder, on loopback."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import httpx
import yaml

from authz.check.claims import identity_of
from authz.check.jose import take_apart
from authz.check.token import Identity
from authz.cli.errors import CommandError
from authz.demo.processes import Child, Processes
from authz.demo.signals import Signals
from authz.demo.stage import Programs
from authz.keys.generate import generate_key
from authz.keys.jwk import public_part
from authz.keys.signing import SigningKey, sign, signing_key
from authz.revocation.open import open_store
from authz.revocation.record import Note
from authz.revocation.store import TokenRevocation
from authz.settings import Settings
from loadtest import envoy
from loadtest.cases import Server
from loadtest.cores import Pinning, on, pin
from loadtest.tools import CHECK_PATH

LOOPBACK = "127.0.0.1"
ISSUER = "https://issuer.example"
AUDIENCE = "api"
TOKENS = 500
TOKEN_LIFETIME = 3600
"""Seconds: longer than any run."""
PADDING = "tenant-0123456789"
"""With this claim a token has about 690 bytes, as tokens of common identity providers have."""
STORE_TIMEOUT = 1.0
"""Seconds. Far longer than the 25 ms of production: a load test wants to see the slow ones, too."""
READY_TIMEOUT = 30.0
"""Seconds for one part to start."""
SOCKET_PATH_MAX = 107
"""Bytes: Linux' `sun_path` without its NUL."""
NO_EXT_AUTHZ = "none"
RECORDER = "recorder"
"""Listeners of Envoy beside those of the servers."""


class Bench:
    """What runs, and where it listens. Leaving the context ends all of it.

    Any method may raise CommandError (a part failed) or StopRequestedError (asked to end).
    """

    def __init__(
        self, folder: Path, servers: Sequence[Server], programs: Programs, signals: Signals
    ) -> None:
        self.folder = folder
        self.pinning = Pinning.of_this_machine()
        self.processes = Processes(folder, signals)
        self.children: dict[str, Child] = {}
        """By server, and `envoy` and `valkey`."""
        self._servers = servers
        self._programs = programs
        self._http = httpx.Client(trust_env=False, timeout=5.0)
        self._stack = ExitStack()
        names = ["admin", "valkey", NO_EXT_AUTHZ, RECORDER]
        names += [f"{kind} {server}" for kind in ("tcp", "http", "envoy") for server in servers]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._key: SigningKey | None = None
        self._files: tuple[str, ...] = ()
        if len(os.fsencode(self._socket("x" * 10))) > SOCKET_PATH_MAX:
            raise CommandError(
                f"{folder} is too long for a Unix socket; set TMPDIR to a shorter path"
            )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._http)
            stack.enter_context(self.processes)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # ---- setting up

    def make_tokens(self, *, revoked: bool) -> None:
        """A key, and files of tokens, a user for each token: `live` and, if wanted, `revoked`."""
        jwk = generate_key("rsa")
        (self.folder / "jwks.json").write_text(json.dumps({"keys": [public_part(jwk)]}))
        self._key = signing_key(jwk)
        self._files = ("live", "revoked") if revoked else ("live",)
        for name in self._files:
            tokens = [self._sign(f"{name}-{number}") for number in range(TOKENS)]
            self.token_file(name).touch(mode=0o600)
            self.token_file(name).write_text("\n".join(tokens) + "\n")

    def _sign(self, name: str) -> str:
        if self._key is None:
            raise RuntimeError("make_tokens comes first")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": f"user-{name}",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + TOKEN_LIFETIME,
            "jti": f"{now}-{name}",
            "scope": "read write",
            "tenant": PADDING,
        }
        return sign(claims, self._key)

    def token_file(self, name: str) -> Path:
        return self.folder / f"{name}.tokens"

    def token(self, name: str) -> str:
        """The first of the file."""
        return self.token_file(name).read_text().split("\n", 1)[0]

    def start_valkey(self) -> None:
        """Without persistence: what is measured is the asking."""
        with on(self.pinning.store):
            self.children["valkey"] = self.processes.start(
                "valkey",
                [
                    str(self._programs.valkey),
                    *("--bind", LOOPBACK, "--port", str(self._ports["valkey"])),
                    *("--dir", str(self.folder), "--save", "", "--appendonly", "no"),
                ],
            )
        self.processes.wait_until(self._valkey_answers, "Valkey became ready", READY_TIMEOUT)

    def revoke(self) -> None:
        """The tokens of the file `revoked`, each by itself."""
        asyncio.run(self._revoke())

    async def _revoke(self) -> None:
        settings = self._settings(Server.REDIS)
        store = open_store(settings)
        try:
            for token in self.token_file("revoked").read_text().split():
                jws = take_apart(token)
                who = identity_of(jws.claims, ISSUER, jws.signing_input, settings.store.buckets)
                await store.revoke_token(_revocation(who))
        finally:
            await store.aclose()

    def start_servers(self) -> None:
        """All of them, at once; then wait for each."""
        for server in self._servers:
            self.children[server] = self.processes.start(server, self._command(server))
        for server in self._servers:
            self.processes.wait_until(
                partial(self._is_ready, server), f"{server} became ready", READY_TIMEOUT
            )
        for server in self._servers:  # not before: on one core the start takes twice the time
            pin(self.children[server].pid, self.pinning.server)

    def _command(self, server: Server) -> list[str]:
        if server is Server.OK_ONLY:
            script = str(Path(__file__).with_name("baseline.py"))
            return [sys.executable, script, *self._listen(server)]
        config = self.folder / f"{server}.yaml"
        config.write_text(yaml.safe_dump(self._values(server)), encoding="utf-8")
        return [sys.executable, "-m", "authz", "serve", "--config", str(config)]

    def start_envoy(self) -> None:
        """One worker, as one core has."""
        settings = {str(server): self._settings(server) for server in self._servers}
        recorder = {**self._values(Server.MEMORY), "listen": [f"unix:{self._socket(RECORDER)}"]}
        settings[RECORDER] = Settings(**recorder)
        ports = {str(server): self._ports[f"envoy {server}"] for server in self._servers}
        ports |= {name: self._ports[name] for name in (NO_EXT_AUTHZ, RECORDER)}
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(envoy.bootstrap(ports, settings, self._ports["admin"])))
        with on(self.pinning.envoy):
            self.children["envoy"] = self.processes.start(
                "envoy",
                [
                    str(self._programs.envoy),
                    *("--config-path", str(path), "--concurrency", "1"),
                    *("--log-level", "error", "--disable-hot-restart"),
                ],
            )
        url = f"http://{LOOPBACK}:{self._ports['admin']}/ready"
        self.processes.wait_until(lambda: self._answers(url), "Envoy became ready", READY_TIMEOUT)

    def record_bodies(self) -> None:
        """Real CheckRequests for h2load: what Envoy sends for a token, as a gRPC message."""
        recorded = self.folder / "request.bin"
        script = str(Path(__file__).with_name("baseline.py"))
        address = f"unix:{self._socket(RECORDER)}"
        child = self.processes.start(
            RECORDER, [sys.executable, script, address, "--record", str(recorded)]
        )
        self.processes.wait_until(lambda: _says_ok(address), "a check answered", READY_TIMEOUT)
        url = f"http://{LOOPBACK}:{self._ports[RECORDER]}/"
        for name in self._files:
            answer = self._http.get(url, headers={"authorization": f"Bearer {self.token(name)}"})
            if answer.status_code != httpx.codes.OK:
                raise CommandError(f"Envoy answered {answer.status_code} to the first request")
            message = recorded.read_bytes()
            # gRPC over HTTP/2: not compressed, length, message.
            self.body_file(name).write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        self.processes.stop(child)

    def body_file(self, name: str) -> Path:
        return self.folder / f"{name}.body"

    # ---- using it

    def load(self, command: Sequence[str], timeout: float, *, direct: bool) -> str:
        """Run a load generator to its end; its output. `direct`: Envoy has nothing to do."""
        cores = self.pinning.load_on_envoy if direct else self.pinning.load_on_server
        with on(cores):
            return self.processes.run(command, timeout=timeout)

    def address(self, server: Server, kind: str) -> str:
        """Where the server listens: `unix` or `tcp`."""
        unix, tcp = self._listen(server)
        return unix if kind == "unix" else tcp

    def envoy_url(self, server: Server | None) -> str:
        port = self._ports[NO_EXT_AUTHZ if server is None else f"envoy {server}"]
        return f"http://{LOOPBACK}:{port}/"

    def verdicts(self, server: Server | None) -> Mapping[str, int]:
        """What a sidecar has decided so far, by `decision:reason`; of others nothing is known."""
        if server is None or server is Server.OK_ONLY:
            return {}
        answer = self._http.get(f"http://{LOOPBACK}:{self._ports[f'http {server}']}/status")
        checks: dict[str, int] = answer.json()["checks"]
        return checks

    def envoy_errors(self) -> int:
        """Checks that Envoy got no answer to, so far."""
        url = f"http://{LOOPBACK}:{self._ports['admin']}/stats"
        answer = self._http.get(url, params={"format": "json", "filter": r"ext_authz.*\.error$"})
        return sum(stat["value"] for stat in answer.json()["stats"] if "name" in stat)

    # ---- parts of it

    def _settings(self, server: Server) -> Settings:
        return Settings(**self._values(server))

    def _values(self, server: Server) -> dict[str, Any]:
        """The settings of a server, in their YAML form."""
        redis = server in {Server.REDIS, Server.COLD_REDIS}
        url = f"redis://{LOOPBACK}:{self._ports['valkey']}" if redis else "memory://"
        cold = {"tokens": 1, "revocations": 1, "negative_ttl": 0}
        remembers = server not in {Server.COLD, Server.COLD_REDIS}
        http = self._ports.get(f"http {server}", 0)
        return {
            "listen": self._listen(server),
            "http_listen": f"{LOOPBACK}:{http}",
            "issuers": [
                {
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": ["RS256"],
                    "keys": {"jwks_file": str(self.folder / "jwks.json")},
                }
            ],
            "store": {"url": url, "timeout": STORE_TIMEOUT},
            "cache": {} if remembers else cold,
            "audit": {"path": str(self.folder / "audit.jsonl")},
        }

    def _listen(self, server: Server) -> list[str]:
        return [
            f"unix:{self._socket(server)}",
            f"{LOOPBACK}:{self._ports.get(f'tcp {server}', 0)}",
        ]

    def _socket(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    def _valkey_answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self._ports["valkey"]), 5.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _is_ready(self, server: Server) -> bool:
        if server is Server.OK_ONLY:
            return all(_says_ok(address) for address in self._listen(server))
        return self._answers(f"http://{LOOPBACK}:{self._ports[f'http {server}']}/readyz")

    def _answers(self, url: str) -> bool:
        try:
            return self._http.get(url).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


def _revocation(identity: Identity) -> TokenRevocation:
    ref = identity.ref
    note = Note("load test", "loadtest", time.time())
    return TokenRevocation(ref.token, ref.user, ref.bucket, ref.expires_at, note)


def _says_ok(address: str) -> bool:
    """Whether a check is answered there with OK (an answer at all, for the servers asked here)."""
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK_PATH)
        try:
            check(b"", timeout=1.0)
        except grpc.RpcError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Ports that nobody had a moment ago, no two the same."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
