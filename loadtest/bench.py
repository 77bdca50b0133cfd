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

from authz.check.claims import identity_of
from authz.check.jose import take_apart
from authz.check.token import Identity
from authz.cli.errors import CommandError
from authz.demo.processes import Child, Processes
from authz.demo.signals import Signals
from authz.demo.stage import Programs
from authz.revocation.open import open_store
from authz.revocation.record import Note
from authz.revocation.store import TokenRevocation
from loadtest import envoy, sender
from loadtest.cores import Pinning, on, pin
from loadtest.h2load import CHECK_PATH
from loadtest.servers import OK_ONLY, Servers
from loadtest.stores import LOOPBACK, MASTERS, READY_TIMEOUT, Stores
from loadtest.subjects import (
    SERVERS_OF_CLUSTER,
    SERVERS_OF_REDIS,
    SERVERS_WITHOUT_A_SIDECAR,
    Server,
    Way,
)
from loadtest.tokens import ISSUER, TOKENS, Mint

SOCKET_PATH_MAX = 107
"""Bytes: Linux' `sun_path` without its NUL."""
LIVE, REVOKED, SECRET = "live", "revoked", "secret"
"""Tokens: signed with RSA, the same and revoked, signed with a secret."""


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
        """By server, and `envoy` and those of Valkey."""
        self.mint = Mint(folder)
        self._wanted = servers
        self.programs = programs
        self._http = httpx.Client(trust_env=False, timeout=5.0)
        self._stack = ExitStack()
        nodes = [f"{kind} {number}" for kind in ("node", "bus") for number in range(MASTERS)]
        names = ["admin", "valkey", *nodes, *(f"envoy {way}" for way in Way)]
        names += [f"{kind} {server}" for kind in ("tcp", "http", "envoy") for server in Server]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.servers = Servers(folder, self._ports, self._store_urls())
        if max(len(os.fsencode(self.servers.socket(name))) for name in Server) > SOCKET_PATH_MAX:
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

    def set_up(self) -> None:
        """All that the wanted servers need, and then they."""
        self.make_tokens(LIVE, TOKENS)
        self._start_stores()
        if Server.REDIS in self._wanted:
            self.make_tokens(REVOKED, TOKENS)
            asyncio.run(self._revoke())
        self._start_envoy()
        self._record_bodies()
        self._start_servers()

    def make_tokens(self, name: str, count: int) -> None:
        self.mint.make(name, count, self.processes.check)

    def _store_urls(self) -> dict[Server, str]:
        one = f"redis://{LOOPBACK}:{self._ports['valkey']}"
        nodes = (f"{LOOPBACK}:{self._ports[f'node {number}']}" for number in range(MASTERS))
        cluster = f"redis+cluster://{','.join(nodes)}"
        return dict.fromkeys(SERVERS_OF_REDIS, one) | dict.fromkeys(SERVERS_OF_CLUSTER, cluster)

    def _start_stores(self) -> None:
        stores = Stores(self.programs.valkey, self.folder, self.processes)
        with on(self.pinning.store):
            if SERVERS_OF_REDIS & set(self._wanted):
                self.children["valkey"] = stores.start_one(self._ports["valkey"])
            if SERVERS_OF_CLUSTER & set(self._wanted):
                ports, buses = (
                    [self._ports[f"{kind} {number}"] for number in range(MASTERS)]
                    for kind in ("node", "bus")
                )
                for child in stores.start_cluster(ports, buses):
                    self.children[child.name] = child

    async def _revoke(self) -> None:
        """The tokens of the file `revoked`, each by itself."""
        settings = self.servers.settings(Server.REDIS)
        store = open_store(settings)
        try:
            for token in self.mint.file(REVOKED).read_text().split():
                jws = take_apart(token)
                who = identity_of(jws.claims, ISSUER, jws.signing_input, settings.store.buckets)
                await store.revoke_token(_revocation(who))
        finally:
            await store.aclose()

    def _start_servers(self) -> None:
        """All of them, at once; then wait for each."""
        for server in self._wanted:
            command = self.servers.command(server)
            self.children[server] = self.processes.start(server, command)
        for server in self._wanted:
            self.processes.wait_until(
                partial(self._is_ready, server), f"{server} became ready", READY_TIMEOUT
            )
        for server in self._wanted:  # not before: on one core the start takes twice the time
            pin(self.children[server].pid, self.pinning.server)

    def _start_envoy(self) -> None:
        """One worker, as one core has."""
        settings = {str(server): self.servers.settings(server) for server in self._wanted}
        memory = self.servers.values(Server.MEMORY)
        settings[Way.ALL_HEADERS] = self.servers.settings(Server.MEMORY)
        listen = [f"unix:{self.servers.socket(Way.RECORDER)}"]
        settings[Way.RECORDER] = type(settings[Way.ALL_HEADERS])(**memory | {"listen": listen})
        ports = {name: self._ports[f"envoy {name}"] for name in (*self._wanted, *Way)}
        path = self.folder / "envoy.json"
        admin, key = self._ports["admin"], self.mint.public
        text = json.dumps(envoy.bootstrap(ports, settings, public_key=key, admin=admin))
        path.write_text(text, encoding="utf-8")
        with on(self.pinning.envoy):
            self.children["envoy"] = self.processes.start(
                "envoy",
                [
                    str(self.programs.envoy),
                    *("--config-path", str(path), "--concurrency", "1"),
                    *("--log-level", "error", "--disable-hot-restart"),
                ],
            )
        url = f"http://{LOOPBACK}:{admin}/ready"
        self.processes.wait_until(lambda: self._answers(url), "Envoy became ready", READY_TIMEOUT)

    def _record_bodies(self) -> None:
        """Real CheckRequests for load without Envoy: gRPC messages as it sends them for a token."""
        recorded = self.folder / "request.bin"
        address = f"unix:{self.servers.socket(Way.RECORDER)}"
        command = [sys.executable, "-P", OK_ONLY, "grpcio", address, "--record", str(recorded)]
        child = self.processes.start(Way.RECORDER, command)
        self.processes.wait_until(lambda: _says_ok(address), "a check answered", READY_TIMEOUT)
        for name in (LIVE, SECRET):
            sent = {"authorization": f"Bearer {self.token(name)}"}
            answer = self._http.get(self.envoy_url(Way.RECORDER), headers=sent)
            if answer.status_code != httpx.codes.OK:
                raise CommandError(f"Envoy answered {answer.status_code} to the first request")
            message = recorded.read_bytes()
            # gRPC over HTTP/2: not compressed, length, message.
            self.body_file(name).write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        self.processes.stop(child)

    def token(self, name: str) -> str:
        """The first of its kind."""
        if name != SECRET:
            return self.mint.first(name)
        template = self.mint.template()
        secret = Path(template["secret"]).read_bytes()
        return sender.Mint(template["claims"], secret).token(0).decode()

    def body_file(self, name: str) -> Path:
        return self.folder / f"{name}.body"

    # ---- using it

    def load(self, command: Sequence[str], timeout: float, *, direct: bool) -> str:
        """Run a load generator to its end; its output. `direct`: Envoy has nothing to do."""
        cores = self.pinning.load_on_envoy if direct else self.pinning.load_on_server
        with on(cores):
            return self.processes.run(command, timeout=timeout)

    def address(self, server: Server, *, tcp: bool = False) -> str:
        """Where the server listens."""
        return self.servers.listen(server)[tcp]

    def envoy_port(self, listener: str) -> int:
        return self._ports[f"envoy {listener}"]

    def envoy_url(self, listener: str) -> str:
        return f"http://{LOOPBACK}:{self.envoy_port(listener)}/"

    def wait(self, seconds: float) -> None:
        """Let time pass, and notice when it is to end."""
        end = time.monotonic() + seconds
        self.processes.wait_until(
            lambda: time.monotonic() >= end, "time passed", seconds + READY_TIMEOUT
        )

    def status(self, server: Server) -> dict[str, Any]:
        """What a sidecar knows."""
        answer = self._http.get(f"http://{self.servers.http(server)}/status")
        status: dict[str, Any] = answer.json()
        return status

    def verdicts(self, server: Server | None) -> Mapping[str, int]:
        """What a sidecar has decided so far, by `decision:reason`; of others nothing is known."""
        if server is None or server in SERVERS_WITHOUT_A_SIDECAR:
            return {}
        checks: dict[str, int] = self.status(server)["checks"]
        return checks

    def envoy_errors(self) -> int:
        """Checks that Envoy got no answer to, so far."""
        url = f"http://{LOOPBACK}:{self._ports['admin']}/stats"
        answer = self._http.get(url, params={"format": "json", "filter": r"ext_authz.*\.error$"})
        return sum(stat["value"] for stat in answer.json()["stats"] if "name" in stat)

    # ---- parts of it

    def _is_ready(self, server: Server) -> bool:
        if server in SERVERS_WITHOUT_A_SIDECAR:
            return all(_says_ok(address) for address in self.servers.listen(server))
        return self._answers(f"http://{self.servers.http(server)}/readyz")

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
