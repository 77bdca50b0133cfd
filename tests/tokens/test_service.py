"""The token service as a process: how it starts, serves, and stops."""

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.cli.main import main
from authz.tokens.clients.client import CLIENT_CREDENTIALS
from support.ports import LOOPBACK, free_port
from support.token_service import SECRET, TokenServer, new_client, write_signing_key
from support.valkey import ValkeyServer
from support.waiting import wait_until


@pytest.mark.parametrize(
    ("settings", "tokens", "says"),
    [
        ({"store": {"url": "memory://"}}, {}, "store.url"),
        ({}, {"issuer": "nonsense"}, "tokens.issuer"),
        ({}, {"limits": {"issue_client": "many"}}, "tokens.limits.issue_client"),
        ({}, {"listen": "192.0.2.1:1"}, "tokens.listen"),
        ({}, {"tls": {"cert_file": "/none", "key_file": "/none"}}, "tokens.tls"),
        ({}, {"signing": {"key_file": "/none", "algorithm": "ES256"}}, "tokens.signing.key_file"),
        ({"dpop": {"nonce": {"secret_file": "/none"}}}, {}, "dpop.nonce.secret_file"),
    ],
)
def test_what_can_not_work_is_said_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    tokens: dict[str, Any],
    says: str,
) -> None:
    """With exit code 2, and no traceback."""
    server = TokenServer(tmp_path, f"redis://{LOOPBACK}:{free_port()}", tokens, **settings)
    write_signing_key(server.signing_file)
    monkeypatch.setattr(sys, "argv", ["authz", "tokens", "--config", str(server.config)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr().err
    lines = [line for line in captured.splitlines() if line.startswith("authz:")]
    assert ended.value.code == 2
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in captured


def test_it_starts_without_redis_serves_once_it_is_there_and_stops_in_order(tmp_path: Path) -> None:
    """Below the issuer's own path (RFC 8414 section 3.1); what is under way at the stop is answered
    to its end.
    """
    port = free_port()
    url = f"redis://{LOOPBACK}:{port}"
    tokens = {"issuer": "https://shop.example/auth"}
    store = {"url": url, "write_timeout": "300ms"}
    client = new_client()
    form = {"grant_type": CLIENT_CREDENTIALS, "client_id": client.id, "client_secret": SECRET}
    statuses: list[int] = []
    ends: list[httpx.TransportError] = []

    with TokenServer(tmp_path, url, tokens, store=store) as server:

        def ask() -> None:
            try:
                while True:
                    statuses.append(server.http.post("/auth/oauth2/token", data=form).status_code)
            except httpx.TransportError as error:
                ends.append(error)

        found = server.http.get("/.well-known/oauth-authorization-server/auth").json()
        assert found["token_endpoint"] == "https://shop.example/auth/oauth2/token"
        assert server.http.get("/auth/.well-known/jwks.json").json()["keys"]
        assert server.http.post("/oauth2/token", data=form).status_code == 404
        assert server.http.post("/auth/oauth2/token", data=form).status_code == 503
        with ValkeyServer(tmp_path / "valkey", port=port):
            server.add(client)
            wait_until(
                lambda: server.http.post("/auth/oauth2/token", data=form).is_success,
                "tokens are issued",
            )
            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(statuses) > 10, "tokens are issued all the time")
            server.process.send(signal.SIGTERM)
            assert server.process.wait() == 0
            for thread in threads:
                thread.join()
    assert set(statuses) == {200}
    lost = [end for end in ends if not isinstance(end, httpx.ConnectError)]
    assert len(lost) <= 1, lost  # which the kernel had accepted, and we not yet
