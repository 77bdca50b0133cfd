"""Uvicorn as we run it: addresses, TLS, and clients that say nothing."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from authz.settings import SettingsError
from authz.settings.signing import SigningSettings
from authz.settings.token_http import TokensTlsSettings
from authz.settings.tokens import TokensSettings
from authz.tokens.http import server as server_module
from authz.tokens.http.app import make_app
from authz.tokens.http.errors import of_status
from authz.tokens.http.figures import Figures
from authz.tokens.http.middleware import Around, send_error
from authz.tokens.http.parts import Parts, Paths
from authz.tokens.http.server import HttpServer
from support.certificates import Certificates
from support.ports import LOOPBACK, free_port
from support.waiting import eventually


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that has an answer for everything."""
    await send_error(of_status(404), send)


@asynccontextmanager
async def serving(listen: str, tls: TokensTlsSettings | None = None) -> AsyncIterator[HttpServer]:
    server = HttpServer(fine, listen, tls=tls, drain=1)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def is_closed(reader: asyncio.StreamReader) -> None:
    """Without a word."""
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_unix_socket_is_for_owner_and_group_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # of a process that was killed
    async with serving(f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o660
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://x/")).status_code == 404
        with pytest.raises(SettingsError, match=r"tokens\.listen"):
            await HttpServer(fine, f"unix:{path}", tls=None, drain=1).start()
    assert not path.exists()


async def test_a_renewed_certificate_is_shown_after_a_reload(
    tmp_path: Path, certificates: Certificates
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(certificates.server, cert)
    shutil.copy(certificates.server_key, key)
    port = free_port()
    tls = TokensTlsSettings(cert_file=cert, key_file=key)
    context = ssl.create_default_context(cafile=str(certificates.ca))

    async def status() -> int:
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            return (await client.get(f"https://localhost:{port}/")).status_code

    async with serving(f"{LOOPBACK}:{port}", tls) as server:
        assert await status() == 404
        cert.write_text("damaged")
        server.reload_tls()
        assert await status() == 404  # the good one stays in force
        shutil.copy(certificates.client, cert)
        shutil.copy(certificates.client_key, key)
        server.reload_tls()
        with pytest.raises(httpx.ConnectError):
            await status()  # a client's certificate, which names no host


async def test_who_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all, or a head that never ends."""
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT", 0.1)
    port = free_port()
    async with serving(f"{LOOPBACK}:{port}"):
        for said in (b"", b"GET / HTTP/1.1\r\nhost: x\r\n"):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(said)
            await is_closed(reader)
            writer.close()


async def test_a_later_head_has_no_more_time_than_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT", 0.1)
    port = free_port()
    async with serving(f"{LOOPBACK}:{port}"):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        for _ in range(3):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"404" in await reader.readuntil(b"}")
            await asyncio.sleep(0.15)  # between two requests it may idle
        writer.write(b"GET / HT")
        await is_closed(reader)
        writer.close()


async def test_what_is_no_http_writes_nothing_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Uvicorn's line says nothing that helps, and anybody could fill a disk with it."""
    port = free_port()
    async with serving(f"{LOOPBACK}:{port}"):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"\x16\x03\x01\r\n\r\n")
        assert b"invalid_request" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert not caplog.records


async def test_who_does_not_read_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """And meanwhile takes the place of nobody."""
    monkeypatch.setattr(server_module, "WRITE_TIMEOUT", 0.2)
    ended: list[int] = []

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"10000000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    app = Around(large, lambda _, status, __: ended.append(status))
    port = free_port()
    server = HttpServer(app, f"{LOOPBACK}:{port}", tls=None, drain=1)
    await server.start()
    reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await eventually(lambda: ended, "the answer is given up")
    assert reader is not None
    writer.close()
    await server.stop()


async def test_who_still_sends_takes_nobody_s_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.tokens.http.middleware.MAX_AT_A_TIME", 1)

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await fine(scope, receive, send)

    port = free_port()
    server = HttpServer(Around(read, lambda *_: None), f"{LOOPBACK}:{port}", tls=None, drain=1)
    await server.start()
    slow = [await asyncio.open_connection(LOOPBACK, port) for _ in range(5)]
    for _, writer in slow:
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://{LOOPBACK}:{port}/")).status_code == 404
    for _, writer in slow:
        writer.close()
    await server.stop()


async def test_one_connection_too_many_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    port = free_port()
    async with serving(f"{LOOPBACK}:{port}"):
        kept = [await asyncio.open_connection(LOOPBACK, port) for _ in range(2)]
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        await is_closed(reader)
        writer.close()
        kept[0][1].write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await kept[0][0].read()).startswith(b"HTTP/1.1 404")
        for _, one in kept:
            one.close()


async def test_an_error_of_our_own_is_told_to_the_log_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a detail")

    seen: list[tuple[str, int]] = []
    app = Around(broken, lambda route, status, _: seen.append((route, status)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["error"]) == (500, "server_error")
    assert "detail" not in answer.text
    assert "a detail" in capsys.readouterr().out
    assert seen == [("other", 500)]


async def test_a_route_that_breaks_answers_in_the_same_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken:
        def jwks(self) -> dict[str, Any]:
            raise RuntimeError("a detail")

    none: Any = None
    parts = Parts(
        **dict.fromkeys((one.name for one in fields(Parts)), none)
        | {
            "keys": Broken(),
            "settings": TokensSettings(
                issuer="https://login.example",
                audiences=["api"],
                signing=SigningSettings(key_file=Path("/none")),
            ),
            "paths": Paths("https://login.example"),
            "figures": Figures(),
        }
    )
    transport = httpx.ASGITransport(make_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/.well-known/jwks.json")
    assert (answer.status_code, answer.json()["error"]) == (500, "server_error")
    assert answer.headers["cache-control"] == "no-store"
    assert "a detail" in capsys.readouterr().out
    assert parts.figures.requests == {("/.well-known/jwks.json", "500"): 1}


async def test_too_many_at_a_time_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.tokens.http.middleware.MAX_AT_A_TIME", 1)
    held, go = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        held.set()
        await go.wait()
        await fine(scope, receive, send)

    transport = httpx.ASGITransport(Around(slow, lambda *_: None))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        first = asyncio.ensure_future(client.get("/"))
        await held.wait()
        second = await client.get("/")
        go.set()
        assert (await first).status_code == 404
    assert second.status_code == 503
    assert int(second.headers["retry-after"]) >= 1


async def test_a_handshake_that_does_not_begin_ends_soon(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT", 0.1)
    tls = TokensTlsSettings(cert_file=certificates.server, key_file=certificates.server_key)
    port = free_port()
    async with serving(f"{LOOPBACK}:{port}", tls):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        await is_closed(reader)
        writer.close()


async def test_no_more_connections_than_there_are_descriptors_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process without descriptors can't even say that it is busy."""
    monkeypatch.setattr(server_module, "connections_within", lambda _: 2)
    port = free_port()
    async with serving(f"{LOOPBACK}:{port}"):
        kept = [await asyncio.open_connection(LOOPBACK, port) for _ in range(2)]
        for _, writer in kept:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        for reader, _ in kept:
            assert b"404" in await reader.readline()
        beyond, writer = await asyncio.open_connection(LOOPBACK, port)
        await is_closed(beyond)
        for _, each in (*kept, (beyond, writer)):
            each.close()
