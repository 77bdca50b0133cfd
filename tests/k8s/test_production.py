"""The production overlay as processes, with the Secrets that k8s/secrets.sh makes: six servers by
TLS and ACL users, formed and mended by the CronJob, the token service, the application.
"""

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from support.manifests import (
    K8S,
    REPOSITORY,
    Manifest,
    build,
    documents,
    find,
    pod_template,
    with_kubectl,
)
from support.network import Network
from support.pod import Pod
from support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_tool("ip"),
    pytest.mark.needs_tool("openssl"),
    pytest.mark.needs_tool("redis-server"),  # with TLS, which the wheel's Valkey lacks
    pytest.mark.needs_tool("redis-cli"),
    pytest.mark.needs_namespaces,
]

SPACE = "authz"
NODES = 6


class Production:
    """The overlay's pods, started as they are asked for."""

    def __init__(self, folder: Path, network: Network, stack: ExitStack) -> None:
        self.folder, self.network, self._stack = folder, network, stack
        self.manifests: list[Manifest] = [
            *documents(build(K8S / "overlays/production")),
            *documents(make_secrets(folder / "secrets")),
        ]
        self._programs = {
            "valkey-server": str(shutil.which("redis-server")),
            "valkey-cli": str(shutil.which("redis-cli")),
        }
        self._made = 0

    def pod(self, kind: str, name: str, of: str = "", claims: Path | None = None) -> Pod:
        """A pod called `name` of a workload, by default of the same name."""
        self._made += 1
        pod = Pod(
            self.network,
            self.folder / f"{name}-{self._made}",
            pod_template(find(self.manifests, kind, of or name)),
            self.manifests,
            name=name,
            space=SPACE,
            claims={"data": claims} if claims else None,
            image=[str(Path(path).resolve().parent) for path in self._programs.values()],
            **self._programs,
        )
        self._stack.callback(pod.close)
        return pod

    def node(self, number: int, data: Path) -> Pod:
        """A node of the cluster, found under its own name and under that of all."""
        name = f"redis-cluster-{number}"
        pod = self.pod("StatefulSet", name, of="redis-cluster", claims=data)
        names = [f"{name}.redis-cluster.{SPACE}.svc"]
        self.network.name(pod.address, *names, *(["redis-cluster"] if number == 1 else []))
        return pod.start(ready=False)

    def form(self) -> str:
        return self.pod("CronJob", "redis-cluster-form").run()

    def ask(self, pod: Pod, token: str) -> int:
        def request() -> int:
            connection = HTTPConnection(pod.address, 8080, timeout=10)
            connection.request("GET", "/", headers={"authorization": f"Bearer {token}"})
            status = connection.getresponse().status
            connection.close()
            return status

        return int(self.network.node.call(request))

    def post(self, pod: Pod, path: str, **form: str) -> Any:
        """To the token service, by TLS. The answer's JSON; None where it has none."""
        context = ssl.create_default_context(cafile=self.folder / "secrets/ca.crt")
        context.check_hostname = False  # it is asked by its address here

        def request() -> Any:
            connection = HTTPSConnection(pod.address, 9195, timeout=10, context=context)
            kind = {"content-type": "application/x-www-form-urlencoded"}
            connection.request("POST", path, urlencode(form), kind)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            assert answer.status == 200, body
            return json.loads(body) if body else None

        return self.network.node.call(request)


def make_secrets(folder: Path) -> str:
    env = {**with_kubectl(), "PYTHONPATH": str(REPOSITORY)}  # PATH has this environment's authz
    command = [str(K8S / "secrets.sh"), SPACE, str(folder)]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def test_the_certificates_are_taken_strictly(tmp_path: Path) -> None:
    """As Python 3.13 takes them by default; and a second run keeps what the first one made."""
    first = make_secrets(tmp_path)
    for name in ("redis-cluster", "token-service"):
        files = [str(tmp_path / "ca.crt"), str(tmp_path / f"{name}.crt")]
        command = ["openssl", "verify", "-x509_strict", "-CAfile", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert make_secrets(tmp_path) == first
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


@pytest.fixture
def production(tmp_path: Path) -> Iterator[Production]:
    with Network(tmp_path / "network") as network, ExitStack() as stack:
        yield Production(tmp_path, network, stack)


def run(pod: Pod, *command: str) -> str:
    done = pod["tokens"].exec([*command, "--config", "/etc/authz/tokens.yaml"])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_from_secrets_to_a_revoked_token_and_a_node_that_lost_its_volume(
    production: Production, tmp_path: Path
) -> None:
    nodes = [production.node(n, tmp_path / f"data-{n}") for n in range(NODES)]
    assert not any(node.ready for node in nodes)
    assert production.form().endswith(f"{NODES} nodes, in order\n")
    wait_until(lambda: all(node.ready for node in nodes), "all ready", timeout=30)

    tokens = production.pod("Deployment", "token-service").start()
    production.network.name(tokens.address, "token-service")
    app = production.pod("Deployment", "app").start()
    secret = run(tokens, "authz", "clients", "add", "me", "--grant", "client_credentials")
    me = {"client_id": "me", "client_secret": secret}
    good, bad = (
        production.post(tokens, "/oauth2/token", grant_type="client_credentials", **me)[
            "access_token"
        ]
        for _ in range(2)
    )
    assert production.ask(app, good) == production.ask(app, bad) == 200
    production.post(tokens, "/oauth2/revoke", token=bad, **me)
    wait_until(lambda: production.ask(app, bad) == 401, "refused")

    nodes[0].close()  # the node and its volume, as a lost machine takes them
    nodes[0] = production.node(0, tmp_path / "data-anew")
    assert production.form().endswith(f"{NODES} nodes, in order\n")
    wait_until(lambda: all(node.ready for node in nodes), "all ready again", timeout=30)
    assert production.ask(app, good) == 200
    assert production.ask(app, bad) == 401
    assert "Traceback" not in app["authz"].process.log_text()
