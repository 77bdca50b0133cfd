"""Captures CheckRequests from the real Envoy: `make corpus` writes tests/data/check_requests."""

import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, StreamEnded

from support import http
from support.capture import CheckRecorder
from support.envoy import Envoy, ExtAuthz
from support.ports import LOOPBACK
from support.upstream import Upstream

FOLDER = Path(__file__).parents[1] / "data" / "check_requests"

TOKEN = ".".join(("eyJhbGciOiJSUzI1NiIsImtpZCI6InRlc3QtMSJ9", "c" * 200, "s" * 342))
"""Of the size of an RS256 token; nobody signed it."""
BEARER = ("authorization", f"Bearer {TOKEN}")


def _get(path: str, *headers: tuple[str | bytes, str | bytes]) -> Callable[[int], object]:
    return lambda port: http.request(port, path, headers=headers)


@dataclass(frozen=True, slots=True)
class Case:
    """One request, and how the Envoy in front is set."""

    send: Callable[[int], object]
    """Sends the request to this port of loopback."""
    ext_authz: ExtAuthz = field(default_factory=ExtAuthz)


RAW = ExtAuthz(encode_raw_headers=True)
DUPLICATES = (BEARER, ("authorization", "Bearer second"), ("x-tag", "one"), ("x-tag", "two"))
NOT_UTF8 = (BEARER, (b"x-name", b"Ren\xe9"), (b"x-bytes", b"\x80\xff\xfe\xc0\xaf"))

CASES = {
    "get": Case(_get("/orders", BEARER)),
    "get-raw": Case(_get("/orders", BEARER), RAW),
    "no-credential": Case(_get("/")),
    "duplicates": Case(_get("/", *DUPLICATES)),
    "duplicates-raw": Case(_get("/", *DUPLICATES), RAW),
    "not-utf8": Case(_get("/cafe", *NOT_UTF8)),
    "not-utf8-raw": Case(_get("/cafe", *NOT_UTF8), RAW),
    "forged": Case(_get("/", BEARER, ("x-authz-subject", "root"), ("X-Authz-Scopes", "admin"))),
    "long-path": Case(_get(f"/{'a' * 3000}/..;x/%2e%2e%2fb?q={'%41' * 500}&token=secret", BEARER)),
    "large-headers": Case(
        lambda port: http.request(
            port,
            "/upload",
            method="POST",
            headers=[BEARER, *((f"x-large-{n}", "v" * 4000) for n in range(8))],
            body=b"{}",
        )
    ),
    "allowed-headers": Case(
        _get("/", BEARER, ("cookie", "a=1; b=2"), ("x-other", "not sent")),
        ExtAuthz(allowed_headers=["authorization", "cookie", "x-request-id"]),
    ),
    "context-extensions": Case(
        _get("/admin/users", BEARER),
        ExtAuthz(
            routes={
                "/admin": {"authz.mode": "required", "authz.scopes": "admin read", "x": "\u00fc"}
            }
        ),
    ),
    "http2": Case(
        lambda port: _http2_get(
            port, "/h2?x=1", [BEARER, ("cookie", "a=1"), ("cookie", "b=2"), ("x-tag", "one")]
        )
    ),
    "http2-raw": Case(
        lambda port: _http2_get(port, "/h2?x=1", [BEARER, ("cookie", "a=1"), ("cookie", "b=2")]),
        RAW,
    ),
}


def capture(case: Case, folder: Path, upstream: Upstream) -> bytes:
    """The bytes of the CheckRequest that Envoy makes of the case."""
    with (
        CheckRecorder(folder / "check.sock") as recorder,
        Envoy.for_sidecar(
            folder / "envoy",
            sidecar=recorder.address,
            upstream_port=upstream.port,
            ext_authz=case.ext_authz,
        ) as envoy,
    ):
        case.send(envoy.port)
    (request,) = recorder.requests
    return request


def _http2_get(port: int, path: str, headers: Sequence[tuple[str, str]]) -> None:
    """One GET by HTTP/2 with prior knowledge (RFC 9113 section 3.3)."""
    connection = H2Connection(H2Configuration(header_encoding="utf-8"))
    pseudo = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "app.example"),
        (":path", path),
    ]
    with socket.create_connection((LOOPBACK, port), timeout=10) as line:
        connection.initiate_connection()
        connection.send_headers(1, [*pseudo, *headers], end_stream=True)
        events: list[Event] = []
        while not any(isinstance(event, StreamEnded) for event in events):
            line.sendall(connection.data_to_send())
            data = line.recv(65_536)
            if not data:
                raise ConnectionError("closed before the response was complete")
            events += connection.receive_data(data)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.bin"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="authz-") as temporary, Upstream() as upstream:
        for name, case in CASES.items():
            folder = Path(temporary, name)
            folder.mkdir()
            request = capture(case, folder, upstream)
            (FOLDER / f"{name}.bin").write_bytes(request)
            print(f"{name}.bin: {len(request)} bytes")  # noqa: T201  a command prints


if __name__ == "__main__":
    main()
