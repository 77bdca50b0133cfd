"""Becomes a container: a root of its own, an unprivileged user, no capabilities, then the program.

    unshare --mount python container.py SPEC.json

It runs as root in a mount namespace of its own, with the standard library alone. What stands in
for an image is the machine's /usr and what `image` lists, read-only, with the `programs` on PATH.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAMS = "/opt/programs"
LINKS = ("bin", "lib", "lib64", "sbin")
"""To /usr, on a merged file system; else folders of their own."""
DEVICES = ("null", "zero", "full", "random", "urandom")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def bind(source: str, target: Path, *, read_only: bool) -> None:
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", source, str(target))
    if read_only:
        mount("-o", "remount,bind,ro", str(target))


def build_root(root: Path, spec: dict[str, Any]) -> None:
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for name in LINKS:
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            bind(str(host), root / name, read_only=True)
    for path in ["/usr", "/etc/ssl", "/etc/ld.so.cache", *spec["image"]]:
        bind(path, root / path.lstrip("/"), read_only=True)
    for name in DEVICES:
        bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    for name in ("proc", "tmp"):
        (root / name).mkdir(exist_ok=True)
    mount("--rbind", "/proc", str(root / "proc"))
    bind(spec["hosts"], root / "etc/hosts", read_only=True)
    (root / "etc/nsswitch.conf").write_text("hosts: files\n")
    programs = root / PROGRAMS.lstrip("/")
    programs.mkdir(parents=True)
    for name, command in spec["programs"].items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
    for volume in spec["volumes"]:
        target = root / volume["target"].lstrip("/")
        bind(volume["source"], target, read_only=volume["read_only"])
    if spec["read_only_root"]:
        mount("-o", "remount,ro", str(root))


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    os.umask(0o022)
    build_root(Path(spec["root"]), spec)
    os.chroot(spec["root"])
    os.chdir("/")
    os.execve("/usr/bin/setpriv", [*spec["setpriv"], *spec["command"]], spec["env"])


if __name__ == "__main__":
    main()
