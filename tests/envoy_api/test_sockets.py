"""Listening sockets: all or none, with the rights they should have, and gone in the end.

What both servers make of them is in test_both_servers.py.
"""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz.envoy_api import sockets
from authz.envoy_api.sockets import SOCKET_MODE, SocketFile, bind
from authz.settings import SettingsError
from support.ports import LOOPBACK, free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's must fit into 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="authz-") as folder:
        yield Path(folder)


def test_they_listen_in_the_order_they_were_asked_for(folder: Path) -> None:
    path = folder / "authz.sock"
    bound = bind([f"unix:{path}", f"{LOOPBACK}:0", "[::1]:0"])
    try:
        families = [one.family for one in bound.sockets]
        assert families == [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6]
        for one in bound.sockets:
            assert not one.getblocking()
            with socket.socket(one.family) as client:
                client.connect(one.getsockname())
        assert stat.S_IMODE(path.stat().st_mode) == SOCKET_MODE == 0o660
    finally:
        bound.close()
    assert not path.exists()
    assert bound.sockets == []


def test_a_failed_start_leaves_nothing_behind(folder: Path) -> None:
    path, port = folder / "authz.sock", free_port()
    with (
        socket.create_server((LOOPBACK, port)),
        pytest.raises(SettingsError, match="Address already in use"),
    ):
        bind([f"unix:{path}", f"{LOOPBACK}:{port}"])
    assert not path.exists()


def test_one_that_fails_after_it_was_found_free_takes_the_others_with_it(folder: Path) -> None:
    """Here because it is named twice; it could also be taken by another process meanwhile."""
    path, port = folder / "authz.sock", free_port()
    for address in (f"unix:{path}", f"{LOOPBACK}:{port}"):
        with pytest.raises(SettingsError, match=f"^listen: {address}: Address already in use$"):
            bind([f"unix:{path}", f"{LOOPBACK}:{port}", address])
        assert not path.exists()
        bind([f"{LOOPBACK}:{port}"]).close()


def test_a_second_one_does_not_share_the_port() -> None:
    bound = bind([f"{LOOPBACK}:0"])
    try:
        address = f"{LOOPBACK}:{bound.sockets[0].getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"^listen: {address}: Address already in use$"):
            bind([address])
    finally:
        bound.close()


def test_a_port_can_be_had_again_at_once() -> None:
    """Connections of the one before may linger for a minute (TIME_WAIT)."""
    address = f"{LOOPBACK}:{free_port()}"
    bound = bind([address])
    with socket.create_connection(bound.sockets[0].getsockname()) as client:
        bound.sockets[0].setblocking(True)
        accepted, _ = bound.sockets[0].accept()
        accepted.close()  # the side that closes first lingers
        assert client.recv(1) == b""
    bound.close()
    bind([address]).close()


def test_a_listener_too_busy_to_accept_is_alive(folder: Path) -> None:
    path = folder / "authz.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(SettingsError, match="another process is listening there"):
            bind([f"unix:{path}"])
        assert path.exists()


def test_a_socket_of_another_kind_is_not_removed(folder: Path) -> None:
    path = folder / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(SettingsError, match="Protocol wrong type for socket"):
            bind([f"unix:{path}"])
        assert path.exists()


def test_a_folder_that_may_not_be_written_is_named(folder: Path) -> None:
    if os.getuid() == 0:
        path = Path("/proc/authz.sock")  # nobody may write there
        words = "No such file or directory|Permission denied|Operation not permitted"
    else:
        folder.chmod(0o500)
        path, words = folder / "authz.sock", "Permission denied"
    with pytest.raises(SettingsError, match=f"^listen: unix:{path}: ({words})$"):
        bind([f"unix:{path}"])


def test_a_file_is_removed_by_who_made_it_only(folder: Path) -> None:
    path = folder / "authz.sock"
    with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as theirs:
        ours.bind(str(path))
        file = SocketFile.of(path)
        path.rename(folder / "aside")  # so that its inode is not given to the next
        theirs.bind(str(path))
        file.remove()
        assert path.exists()
        SocketFile.of(path).remove()
        assert not path.exists()
        file.remove()  # nothing there: nothing happens


def test_a_whole_nodes_connections_may_come_at_once(folder: Path) -> None:
    """While the process has other things to do, such as its start."""
    path = folder / "authz.sock"
    bound = bind([f"unix:{path}"])
    count = min(sockets.BACKLOG, 200)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect(str(path))
    finally:
        for client in clients:
            client.close()
        bound.close()
