"""The listening sockets: all that are asked for, or none."""

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from authz.addresses import split_host_port
from authz.settings import SettingsError

SOCKET_MODE = 0o660
"""Envoy runs as another user of the same group; nobody else may ask, or listen in our place."""

MAX_SOCKET_PATH = 107
"""Bytes: Linux' `sun_path` has 108, the last of which is a zero (unix(7))."""

BACKLOG = 1024
"""Connections that wait to be accepted. After a restart all workers of all Envoys of a node come
at once; Linux caps it at `net.core.somaxconn`, 4,096. Nginx takes 511."""

UNIX = "unix:"


class SocketFile(NamedTuple):
    """The file of a Unix socket that this process bound."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """OSError: there is none."""
        found = path.lstat()
        return cls(path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Unlink the file, unless a successor has put its own in this place."""
        with suppress(OSError):
            if self.of(self.path) == self:
                self.path.unlink()


class ListeningSockets:
    """Bound sockets that listen, and the files of those that have one."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self._files: list[SocketFile] = []

    def add(self, address: str) -> None:
        """Bind and listen. SettingsError: the address can't be had."""
        try:
            if address.startswith(UNIX):
                self._add_unix(unix_path(address))
            else:
                self._add_tcp(address)
        except OSError as error:
            raise _refusal(address, error) from None

    def close(self) -> None:
        """Stop listening. Files go first: a path is ours for sure as long as we listen there."""
        for file in self._files:
            file.remove()
        for one in self.sockets:
            one.close()
        self._files.clear()
        self.sockets.clear()

    def _add_unix(self, path: Path) -> None:
        one = socket.socket(socket.AF_UNIX)
        self.sockets.append(one)
        with private_umask():
            one.bind(str(path))
        self._files.append(SocketFile.of(path))
        _listen(one)

    def _add_tcp(self, address: str) -> None:
        family, target = _resolve(address)
        one = socket.socket(family)
        self.sockets.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(target)
        _listen(one)


def bind(listen: Sequence[str]) -> ListeningSockets:
    """Listen at all of the addresses, `unix:/path` and `host:port` (port 0: any that is free).

    SettingsError: one of them can't be had. Then none is taken and no file is left behind.
    """
    require_free(listen)
    bound = ListeningSockets()
    try:
        for address in listen:
            bound.add(address)
    except SettingsError:
        bound.close()
        raise
    return bound


def require_free(listen: Sequence[str]) -> None:
    """SettingsError: one of the addresses can't be had. Sockets that a dead process left are
    removed.
    """
    for address in listen:
        if address.startswith(UNIX):
            _make_way(unix_path(address))
        else:
            _try_port(address)


def unix_path(address: str) -> Path:
    return Path(address.removeprefix(UNIX))


@contextmanager
def private_umask() -> Iterator[None]:
    """What is bound within has SOCKET_MODE from the start: wider rights, if only for a moment,
    would let others in.
    """
    old = os.umask(0o777 & ~SOCKET_MODE)
    try:
        yield
    finally:
        os.umask(old)


def _listen(one: socket.socket) -> None:
    one.setblocking(False)
    one.listen(BACKLOG)


def _make_way(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SettingsError(f"listen: unix:{path}: is longer than {MAX_SOCKET_PATH} bytes")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SettingsError(f"listen: unix:{path}: {path.parent} does not exist") from None
        return
    except OSError as error:
        raise _refusal(f"{UNIX}{path}", error) from None
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"listen: unix:{path}: is not a socket; remove it or choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full (connect(2), EAGAIN): somebody listens, if slowly
        except OSError as error:
            raise _refusal(f"{UNIX}{path}", error) from None
    raise SettingsError(f"listen: unix:{path}: another process is listening there")


def _try_port(address: str) -> None:
    try:
        family, target = _resolve(address)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        raise _refusal(address, error) from None


def _resolve(address: str) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[object, ...]]:
    host, port = split_host_port(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, target = found[0]
    return family, target


def _refusal(address: str, error: OSError) -> SettingsError:
    return SettingsError(f"listen: {address}: {error.strerror}")
