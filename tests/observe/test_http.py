"""The admin server, asked by real clients over real sockets."""

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from authz.observe import events, http
from authz.observe.heartbeat import HUNG_AFTER, Heartbeat
from authz.observe.http import MAX_CONNECTIONS, MAX_REQUEST, AdminServer
from authz.observe.readiness import Readiness
from authz.settings import SettingsError
from support.waiting import wait_until


class Admin:
    """A server with parts that a test can change."""

    def __init__(self, listen: str) -> None:
        self.heartbeat = Heartbeat()
        self.readiness = Readiness()
        self.ailment = ""
        self.status: Any = {"keys": {"https://issuer.example": {"age_seconds": 3.5}}}
        self.accepted: list[str] = []
        self.status_thread: threading.Thread | None = None
        self.server = AdminServer(
            listen,
            metrics=self._render,
            status=self._tell,
            heartbeat=self.heartbeat,
            readiness=self.readiness,
            ailment=lambda: self.ailment,
        )

    def _render(self, accept: str) -> tuple[bytes, str]:
        self.accepted.append(accept)
        return b"authz_build_info 1\n", "text/plain; version=0.0.4"

    def _tell(self) -> Mapping[str, Any]:
        self.status_thread = threading.current_thread()
        if isinstance(self.status, Exception):
            raise self.status
        assert isinstance(self.status, dict)
        return self.status

    def hang(self) -> None:
        self.heartbeat._beat_at = time.monotonic() - HUNG_AFTER - 2

    def port(self) -> int:
        return int(self.server.address.rpartition(":")[2])

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        with httpx.Client(base_url=f"http://{self.server.address}") as client:
            return client.request(method, path, **more)

    async def get(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        """From another thread, so that the event loop stays free for the server's questions."""
        return await asyncio.to_thread(self.ask, path, method, **more)

    def exchange(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port()), timeout=10) as connection:
            connection.sendall(data)
            return _all_of(connection)


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    while more := connection.recv(65536):
        received += more
    return received


@asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[Admin]:
    admin = Admin(listen)
    admin.server.start()
    try:
        yield admin
    finally:
        await admin.server.aclose()


async def test_metrics_are_given_in_the_form_that_is_asked_for() -> None:
    async with serving() as admin:
        answer = await admin.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert (answer.status_code, answer.text) == (200, "authz_build_info 1\n")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4"
    assert admin.accepted == ["application/openmetrics-text"]


async def test_healthy_while_the_loop_turns_and_not_once_it_hangs() -> None:
    async with serving() as admin:
        assert (await admin.get("/healthz")).status_code == 200
        admin.hang()
        answer = await admin.get("/healthz")
        assert answer.status_code == 503
        assert "has not turned for 7 s" in answer.text


async def test_unhealthy_for_another_reason_says_which() -> None:
    async with serving() as admin:
        admin.readiness.serving()
        admin.ailment = "no worker lives"
        answer = await admin.get("/healthz")
        assert (answer.status_code, answer.text) == (503, "no worker lives\n")
        assert (await admin.get("/readyz")).status_code == 200  # readiness speaks for itself


async def test_a_status_that_has_to_be_waited_for_is() -> None:
    async with serving() as admin:

        async def ask_others() -> Mapping[str, Any]:
            await asyncio.sleep(0)
            return {"workers": []}

        admin.server._status = ask_others
        assert (await admin.get("/status")).json() == {"workers": []}


async def test_health_is_answered_while_the_loop_hangs() -> None:
    """The whole point of a thread of its own: here the loop is blocked for real."""
    async with serving() as admin:
        answer = admin.ask("/healthz")  # a blocking call, on the event loop
        assert answer.status_code == 200


async def test_ready_only_between_start_and_drain() -> None:
    async with serving() as admin:
        answer = await admin.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "starting\n")
        admin.readiness.serving()
        assert (await admin.get("/readyz")).status_code == 200
        admin.readiness.not_serving("draining")
        answer = await admin.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "draining\n")


async def test_not_ready_while_the_loop_hangs() -> None:
    async with serving() as admin:
        admin.readiness.serving()
        admin.hang()
        assert (await admin.get("/readyz")).status_code == 503


async def test_status_is_json_told_by_the_event_loop() -> None:
    async with serving() as admin:
        answer = await admin.get("/status")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == admin.status
        assert admin.status_thread is threading.main_thread()


async def test_status_masks_what_looks_secret() -> None:
    async with serving() as admin:
        admin.status = {"store": {"url": "redis://ann:hunter2@h", "password": "hunter2"}}
        answer = await admin.get("/status")
    assert answer.json() == {"store": {"url": "redis://[redacted]@h", "password": "[redacted]"}}


async def test_status_says_when_the_loop_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STATUS_TIMEOUT", 0.05)
    async with serving() as admin:
        answer = admin.ask("/status")  # a blocking call, on the event loop
        assert answer.status_code == 503
        assert answer.json() == {"error": "the event loop did not answer within 0.05 s"}


async def test_an_error_of_our_own_is_a_500_that_quotes_nothing() -> None:
    with capture_logs() as logged:
        async with serving() as admin:
            admin.status = ValueError("inner words")
            answer = await admin.get("/status")
    assert (answer.status_code, answer.text) == (500, "internal error, see the log\n")
    assert events.ADMIN_FAILED in [line["event"] for line in logged]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
async def test_only_get_and_head_are_allowed(method: str) -> None:
    async with serving() as admin:
        answer = await admin.get("/metrics", method)
    assert (answer.status_code, answer.text) == (405, "method not allowed\n")
    assert admin.accepted == []


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with serving() as admin:
        head, get = await admin.get("/metrics", "HEAD"), await admin.get("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == "19"


@pytest.mark.parametrize("path", ["/", "/metrics/", "//metrics", "/admin"])
async def test_other_paths_are_not_found(path: str) -> None:
    async with serving() as admin:
        assert (await admin.get(path)).status_code == 404


async def test_a_query_is_ignored() -> None:
    async with serving() as admin:
        assert (await admin.get("/metrics?name[]=up")).status_code == 200


async def test_no_header_tells_what_the_server_is_made_of() -> None:
    async with serving() as admin:
        for path in ("/metrics", "/nowhere"):
            answer = await admin.get(path)
            assert "server" not in answer.headers
            assert "python" not in str(answer.headers).lower()
            assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"505"),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"a" * MAX_REQUEST, b"431"),
        (b"\xff\xfe\x00 / HTTP/1.1\r\n\r\n", b"405"),
    ],
)
async def test_bad_requests_get_an_answer_that_quotes_nothing(data: bytes, status: bytes) -> None:
    async with serving() as admin:
        answer = await asyncio.to_thread(admin.exchange, data)
        assert status in answer.partition(b"\r\n")[0]
        assert b"nonsense" not in answer
        assert (await admin.get("/healthz")).status_code == 200


async def test_a_request_that_comes_byte_by_byte_is_understood() -> None:
    async with serving() as admin:

        def drip() -> bytes:
            with socket.create_connection(("127.0.0.1", admin.port()), timeout=10) as connection:
                for byte in b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n":
                    connection.sendall(bytes([byte]))
                return _all_of(connection)

        answer = await asyncio.to_thread(drip)
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok\n")


async def test_a_client_that_is_too_slow_as_a_whole_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sending a byte now and then gains it nothing."""
    monkeypatch.setattr(http, "EXCHANGE_TIMEOUT", 0.3)
    async with serving() as admin:

        def drip() -> bool:
            with socket.create_connection(("127.0.0.1", admin.port()), timeout=10) as connection:
                try:
                    for _ in range(1000):
                        connection.sendall(b"a")
                        time.sleep(0.02)
                except ConnectionError:
                    return True
                return False

        assert await asyncio.to_thread(drip)
        assert (await admin.get("/healthz")).status_code == 200


async def test_connections_beyond_the_limit_are_closed_unread() -> None:
    async with serving() as admin:
        address = ("127.0.0.1", admin.port())
        idle = [socket.create_connection(address, timeout=10) for _ in range(MAX_CONNECTIONS)]
        try:

            def one_more_is_refused() -> bool:
                with socket.create_connection(address, timeout=10) as one_more:
                    try:
                        one_more.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                        return one_more.recv(100) == b""
                    except ConnectionError:
                        return True

            await asyncio.to_thread(wait_until, one_more_is_refused, "a refusal")
        finally:
            for connection in idle:
                connection.close()

        def answered() -> bool:
            try:
                return admin.ask("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        await asyncio.to_thread(wait_until, answered, "an answer once the idle ones are gone")


async def test_it_listens_on_a_unix_socket_too(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with serving(f"unix:{path}") as admin:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

        def ask() -> httpx.Response:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
                return client.get("http://authz/status")

        answer = await asyncio.to_thread(ask)
        assert answer.json() == admin.status
    assert not path.exists()


async def test_the_socket_of_a_killed_sidecar_is_bound_over(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    async with serving(f"unix:{path}"):
        assert path.is_socket()


async def test_the_socket_of_a_living_sidecar_is_left_to_it(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path / 'admin.sock'}"
    async with serving(listen):
        with pytest.raises(SettingsError, match=f"^http_listen: {listen}: {os.strerror(98)}$"):
            Admin(listen).server.start()
        assert (tmp_path / "admin.sock").is_socket()


async def test_a_port_that_is_taken_is_an_error_at_the_start() -> None:
    async with serving() as admin:
        with pytest.raises(SettingsError, match=f"^http_listen: 127.*: {os.strerror(98)}$"):
            Admin(admin.server.address).server.start()


async def test_an_ipv6_address_is_told_as_it_is_written_in_settings() -> None:
    try:
        async with serving("[::1]:0") as admin:
            assert admin.server.address.startswith("[::1]:")
            assert (await admin.get("/healthz")).status_code == 200
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")


async def test_after_the_stop_nobody_listens() -> None:
    async with serving() as admin:
        port = admin.port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


async def test_the_answer_to_status_is_what_json_reads() -> None:
    """Also for values that JSON has no word for."""
    async with serving() as admin:
        admin.status = {"path": Path("/var/log/authz"), "seen": {1}}
        answer = await admin.get("/status")
    assert json.loads(answer.text) == {"path": "/var/log/authz", "seen": [1]}
