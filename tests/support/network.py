"""A network of pods on this machine: a bridge in a namespace of its own, and a namespace a pod."""

import contextlib
import ctypes
import ctypes.util
import functools
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from support.waiting import wait_until

NETWORK = "10.42.0"
CLONE_NEWNET = 0x40000000  # <linux/sched.h>


@functools.cache
def can_unshare() -> bool:
    """Whether this user may make namespaces with networks and mounts, as root may."""
    probe = ["unshare", "--net", "--mount", "ip", "link", "add", "br0", "type", "bridge"]
    try:
        return (
            os.geteuid() == 0
            and not subprocess.run(probe, capture_output=True, check=False).returncode
        )
    except FileNotFoundError:
        return False


class Namespace:
    """A network namespace, kept by a process that sleeps in it, as a pod's is by its pause."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "--", "sleep", "1000"], stdin=subprocess.DEVNULL
        )
        self.path = Path(f"/proc/{self._process.pid}/ns/net")
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: self.path.readlink() != own, "a namespace")
        self.run("ip link set lo up")

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, script: str) -> None:
        """Run a shell script in it."""
        subprocess.run([*self.entering(), "sh", "-ec", script], check=True)

    def entering(self) -> list[str]:
        """What to put before a command."""
        return ["nsenter", f"--net={self.path}", "--"]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread of its own within the namespace: its sockets are there."""
        with ThreadPoolExecutor(1, initializer=self.enter) as thread:
            return thread.submit(function, *arguments).result()

    def enter(self) -> None:
        """Move the calling thread into it, for good."""
        libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
        with self.path.open() as file:
            if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Network:
    """The bridge that pods hang on. Threads of a test enter `node`, as a kubelet would."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.hosts = folder / "hosts"
        """What pods find under which name: Services, and pods of a StatefulSet."""
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.node = Namespace()
        self.node.run(
            f"ip link add br0 type bridge; ip addr add {NETWORK}.1/24 dev br0; ip link set br0 up"
        )
        self._given = 1

    def attach(self, pod: Namespace) -> str:
        """A cable from the bridge into the namespace. The pod's address."""
        self._given += 1
        address, name = f"{NETWORK}.{self._given}", f"v{self._given}"
        self.node.run(
            f"ip link add {name} type veth peer name eth0 netns {pod.pid};"
            f"ip link set {name} master br0 up"
        )
        pod.run(f"ip addr add {address}/24 dev eth0; ip link set eth0 up")
        return address

    def name(self, address: str, *names: str) -> None:
        """From now on pods find these names there."""
        lines = [
            line
            for line in self.hosts.read_text().splitlines()
            if not set(names) & set(line.split()[1:])
        ]
        # The same file, since it is mounted already.
        self.hosts.write_text("\n".join([*lines, f"{address} {' '.join(names)}", ""]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.node.close()
