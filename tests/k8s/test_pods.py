"""The dev overlay as processes: commands, environment, files, sockets, users and probes are those
of the manifests, on a network of their own.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from support.manifests import K8S, Manifest, build, documents, find, pod_template, workloads
from support.network import Network
from support.pod import Container, Pod
from support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_tool("ip"),
    pytest.mark.needs_namespaces,
]

ISSUER = "http://token-service:9195"
PROXY = 8080
LAG = 1.0
"""Seconds after which clients learn that a pod is going. Clusters take about so long."""


class World(NamedTuple):
    """The pods of the overlay, on one network."""

    network: Network
    folder: Path
    manifests: list[Manifest]
    app: Pod
    tokens: Pod

    def another_app(self, name: str) -> Pod:
        return start(self.network, self.folder, self.manifests, "app", name)

    def get(self, path: str = "/", *, token: str | None = None, pod: Pod | None = None) -> Any:
        """Status and JSON of an answer to a client in the cluster."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self.network.node.call(_ask, (pod or self.app).address, path, headers)

    def run(self, *command: str) -> str:
        """A command in the token service's container, as `kubectl exec` runs it. Its output."""
        done = self.tokens["tokens"].exec(command)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _ask(host: str, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    connection = HTTPConnection(host, PROXY, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def start(
    network: Network, folder: Path, manifests: list[Manifest], workload: str, name: str = ""
) -> Pod:
    template = pod_template(find(workloads(manifests), "Deployment", workload))
    name = name or f"{workload}-0"
    pod = Pod(network, folder / name, template, manifests, name=name, space="authz-dev")
    network.name(pod.address, workload, f"{workload}.authz-dev.svc")
    return pod.start()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cluster")
    manifests = documents(build(K8S / "overlays/dev"))
    pods: list[Pod] = []
    with Network(folder / "network") as network:
        try:
            names = ("valkey", "token-service", "app")
            pods.extend(start(network, folder, manifests, name) for name in names)
            yield World(network, folder, manifests, pods[2], pods[1])
        finally:
            for pod in pods:
                pod.close()


@pytest.fixture(scope="module")
def token(world: World) -> str:
    """As the README has one made."""
    command = ["authz", "clients", "add", "me", "--grant", "client_credentials", "--scope", "read"]
    return token_of(world, secret_in(world.run(*command, "--config", "/etc/authz/tokens.yaml")))


def secret_in(told: str) -> str:
    """What the command prints of a new secret, which is a line of its own."""
    return told.splitlines()[0].split()[-1]


def token_of(world: World, secret: str) -> str:
    def ask() -> str:
        connection = HTTPConnection(world.tokens.address, 9195, timeout=10)
        form = f"grant_type=client_credentials&client_id=me&client_secret={secret}"
        connection.request(
            "POST", "/oauth2/token", form, {"content-type": "application/x-www-form-urlencoded"}
        )
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return str(answer["access_token"])

    return str(world.network.node.call(ask))


def test_a_request_needs_a_token_and_a_revoked_one_is_refused(world: World, token: str) -> None:
    """Through the pod's Envoy and its sidecar over their socket, to the application behind."""
    assert world.get()[0] == 401
    status, seen = world.get("/hello", token=token)
    assert status == 200
    assert seen["path"] == "/hello"
    assert seen["headers"]["x-authz-decision"] == "allow"
    assert seen["headers"]["x-authz-issuer"] == ISSUER
    told = world.run(
        "authz", "clients", "rotate-secret", "me", "--config", "/etc/authz/tokens.yaml"
    )
    other = token_of(world, secret_in(told))
    assert world.get(token=other)[0] == 200
    revoke = ["authz", "revoke", "--config", "/etc/authz/authz.yaml", "--token", other]
    done = world.app["authz"].exec(revoke)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: world.get(token=other)[0] == 401, "refused")
    assert world.get(token=token)[0] == 200


def test_processes_are_unprivileged_and_write_to_their_volumes_only(world: World) -> None:
    for pod in (world.app, world.tokens):
        for one in pod.running:
            context = one.manifest["securityContext"]
            status = status_of(one)
            assert status["Uid"] == [str(context["runAsUser"])] * 4, one.name
            assert status["Gid"] == [str(context["runAsGroup"])] * 4, one.name
            assert status["CapEff"] == status["CapBnd"] == ["0" * 16], one.name
            assert status["NoNewPrivs"] == ["1"], one.name
            for path in ("/new", "/tmp/new", "/etc/authz/new"):
                done = one.exec(["sh", "-c", f"echo > {path}"])
                assert done.returncode != 0, f"{one.name} wrote {path}"
    socket = world.app["envoy"].exec(["stat", "-c", "%a %u %g", "/run/authz/authz.sock"]).stdout
    assert socket.split() == ["660", "65532", "65532"]


def status_of(container: Container) -> dict[str, list[str]]:
    text = Path(f"/proc/{container.process.pid}/status").read_text()
    return {name: rest.split() for name, rest in (line.split(":", 1) for line in text.splitlines())}


def test_only_what_is_for_others_is_reached_from_outside(world: World) -> None:
    """Neither the application nor Envoy's admin interface; of that, readiness and metrics."""
    assert not world.app.accepts(8000)
    assert not world.app.accepts(9901)
    assert world.app.status(9902, "/ready") == 200
    assert world.app.status(9902, "/stats/prometheus") == 200
    for path in ("/", "/stats", "/quitquitquit", "/ready/../quitquitquit", "/config_dump"):
        assert world.app.status(9902, path, method="POST") == 404, path
        assert world.app.status(9902, path) == 404, path
    assert world.app.status(9902, "/ready", method="POST") == 404
    assert world.app.status(9192, "/metrics") == 200


class Client(threading.Thread):
    """Asks and asks on one connection, as an ingress does, and connects anew when told to."""

    def __init__(self, world: World, token: str, pods: list[Pod]) -> None:
        super().__init__()
        self._world, self._token, self._pods = world, token, pods
        self.ending = threading.Event()
        self.statuses: Counter[tuple[str, int]] = Counter()
        """By pod; 0: the connection broke instead."""
        self.last: dict[str, float] = {}
        """By pod, when it was asked last: seconds of time.monotonic."""

    def run(self) -> None:
        self._world.network.node.enter()
        while not self.ending.is_set():
            pod = self._pods[0]
            connection = HTTPConnection(pod.address, PROXY, timeout=10)
            kept = True
            while kept and not self.ending.is_set():
                kept = self._ask(pod, connection)
                self.ending.wait(0.005)
            connection.close()

    def _ask(self, pod: Pod, connection: HTTPConnection) -> bool:
        """Whether the connection can be used again."""
        self.last[pod.name] = time.monotonic()
        try:
            connection.request("GET", "/", headers={"authorization": f"Bearer {self._token}"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            self.statuses[pod.name, 0] += 1
            return False
        self.statuses[pod.name, answer.status] += 1
        return not answer.will_close

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join()


def test_a_pod_goes_without_a_failed_request(world: World, token: str) -> None:
    """Envoy sends clients elsewhere at once, the application ends after its preStop, then Envoy,
    then authz, each with exit code 0.
    """
    old, new = world.another_app("app-old"), world.another_app("app-new")
    pods = [old]
    clients = [Client(world, token, pods) for _ in range(8)]
    try:
        for client in clients:
            client.start()
        wait_until(lambda: sum(one.statuses.total() for one in clients) > 200, "traffic")
        ending = threading.Thread(target=old.terminate)
        ending.start()
        time.sleep(LAG)
        pods[0] = new
        ending.join()
        wait_until(lambda: all(one.statuses["app-new", 200] for one in clients), "gone over")
    finally:
        for client in clients:
            client.ending.set()
        for client in clients:
            client.join()
        old.close()
        new.close()
    seen = sum((one.statuses for one in clients), Counter())
    assert seen.keys() == {("app-old", 200), ("app-new", 200)}, seen
    order = [event for event in old.events if event[1] != "preStop"]
    assert order == [
        (name, event) for name in ("app", "envoy", "authz") for event in ("SIGTERM", "ended")
    ]
    assert old.events.index(("envoy", "preStop")) < old.events.index(("app", "preStop"))
    assert {one.process.returncode for one in [*old.inits, *old.mains]} == {0}
    assert "stopped" in old["authz"].process.log_text().splitlines()[-1]
