"""The sidecar as people run it: `python -m authz serve --config FILE` in a process of its own."""

import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.grpc import CheckClient
from support.jwks import AUDIENCE, ISSUER, jwk, jwks, rsa_key
from support.ports import LOOPBACK, free_port
from support.process import ChildProcess

NO_FEED = {"enabled": False}
"""For `feed`: the store is asked about each token, so that a test can make checks wait for it."""
KID = "test-1"
"""The `kid` of the RSA key that `default_issuer` trusts, `rsa_key()`."""


def default_issuer(folder: Path) -> dict[str, Any]:
    """Settings of an issuer whose JWKS file, written to `folder`, holds `rsa_key()` as KID."""
    path = folder / "jwks.json"
    path.write_text(jwks(jwk(rsa_key(), KID, alg="RS256")))
    return {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["RS256"],
        "keys": {"jwks_file": str(path)},
    }


class Sidecar:
    """One sidecar. `settings` is the YAML file's content; what it leaves out is filled in with a
    Unix socket and a TCP port, a free `http_listen`, `default_issuer`, and an audit file.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None, **env: str) -> None:
        """`env` are variables for it, as in `AUTHZ_FAIL_MODE="closed"`."""
        folder.mkdir(parents=True, exist_ok=True)
        # Its path must fit into 104 bytes, which pytest's own folders may not.
        self._socket_folder = tempfile.TemporaryDirectory(prefix="authz-")
        self.socket = f"unix:{self._socket_folder.name}/authz.sock"
        self.port = free_port()
        self.http_port = free_port()
        self.audit_path = folder / "audit.jsonl"
        self.settings: dict[str, Any] = {
            "listen": [self.socket, f"{LOOPBACK}:{self.port}"],
            "http_listen": f"{LOOPBACK}:{self.http_port}",
            "audit": {"path": str(self.audit_path)},
            **(settings or {}),
        }
        if "issuers" not in self.settings:
            self.settings["issuers"] = [default_issuer(folder)]
        self.config = folder / "authz.yaml"
        self.write_config()
        self.process = ChildProcess(
            [sys.executable, "-m", "authz", "serve", "--config", self.config],
            log=folder / "authz.log",
            env={"PYTHONWARNINGS": "error", **env},
        )
        self._client: CheckClient | None = None

    @property
    def address(self) -> str:
        """`host:port` of the TCP listener."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def client(self) -> CheckClient:
        """A client on the Unix socket."""
        if self._client is None:
            self._client = CheckClient(self.socket)
        return self._client

    def write_config(self) -> None:
        """Write `settings` to the file again, for a reload or the next start."""
        self.config.write_text(yaml.safe_dump(self.settings))

    def start(self) -> Self:
        try:
            self.process.start(self.is_ready)
        except BaseException:
            self.close()
            raise
        return self

    def is_ready(self) -> bool:
        """Whether `/readyz` says 200."""
        try:
            return self.http("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def http(self, path: str) -> httpx.Response:
        """GET from `http_listen`."""
        return httpx.get(f"http://{LOOPBACK}:{self.http_port}{path}", timeout=5, trust_env=False)

    def status(self) -> Any:
        return self.http("/status").json()

    def metrics(self) -> str:
        return self.http("/metrics").text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 where there are none."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def audit(self, event: str = "fail_open") -> list[dict[str, Any]]:
        """The audit's records of an event. Only whole lines: the last may be being written."""
        if not self.audit_path.exists():
            return []
        text = self.audit_path.read_text()
        records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [record for record in records if record["event"] == event]

    def log_text(self) -> str:
        return self.process.log_text()

    def reload(self) -> None:
        """SIGHUP. It reloads on its own time: poll for the effect."""
        self.process.send(signal.SIGHUP)

    def stop(self, *, timeout: float = 15.0) -> int:
        """SIGTERM. The exit code."""
        code = self.process.stop(timeout=timeout)
        self.close()
        return code

    def close(self) -> None:
        """Let go of what this object holds; `stop` does it too."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.process.kill()
        self._socket_folder.cleanup()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
