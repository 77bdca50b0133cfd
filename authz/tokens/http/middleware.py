"""Around every request: headers that each answer carries, errors in OAuth's form, figures."""

import json
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from authz.observe import events
from authz.tokens.http.errors import OAuthError, of_status, unavailable

MAX_AT_A_TIME = 512
"""Requests that are worked on. At 2 ms each, of which most is waiting for Redis, this is more than
a core can do; what comes beyond would only wait, and is told to come back."""

HEADERS = (
    # RFC 6749 section 5.1 for tokens; there is nothing here that should be kept.
    (b"cache-control", b"no-store"),
    (b"pragma", b"no-cache"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")

log = structlog.get_logger(__name__)


class Around:
    """An ASGI application around another. Outermost: no error passes it by."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, int, float], None]) -> None:
        """`observe` is told of each answer: the route's path as it was declared, the status, and
        the seconds that it took.
        """
        self._app = app
        self._observe = observe
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.monotonic()
        status = 0

        async def receive_meanwhile() -> Message:
            """Whoever still sends keeps nobody else waiting."""
            self._busy -= 1
            try:
                return await receive()
            finally:
                self._busy += 1
                self._require_place()

        async def send_meanwhile(message: Message) -> None:
            """Nor does whoever still reads."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message)
            self._busy -= 1
            try:
                await send(message)
            finally:
                self._busy += 1

        self._busy += 1
        try:
            self._require_place()
            await self._app(scope, receive_meanwhile, send_meanwhile)
        except OAuthError as error:  # of `_require_place`, before there was an application
            await send_error(error, send_meanwhile)
        except Exception:  # our own mistake: the client gets no word of it, the log all
            log.exception(events.TOKENS_FAILED, path=route_of(scope))
            if not status:
                await send_error(of_status(500), send_meanwhile)
        finally:
            self._busy -= 1
            self._observe(route_of(scope), status, time.monotonic() - started)

    def _require_place(self) -> None:
        """OAuthError: too many are being worked on."""
        if self._busy > MAX_AT_A_TIME:
            raise unavailable("busy")


async def send_error(error: OAuthError, send: Send) -> None:
    """Without a framework: for what happens outside it."""
    body = json.dumps(error.body).encode()
    headers = {"content-type": "application/json", **error.headers, "content-length": len(body)}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(k.encode(), str(v).encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def route_of(scope: Scope) -> str:
    """The declared path, as in `/users/{subject}/sessions`, so that a metric has few values."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else "other"


def _add_headers(message: MutableMapping[str, Any]) -> None:
    headers = list(message.get("headers", []))
    names = {name for name, _ in headers}
    headers += [pair for pair in (*HEADERS, CSP) if pair[0] not in names]
    message["headers"] = headers
