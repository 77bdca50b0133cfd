"""Clients of a token service that ask as fast as they are answered, a few at a time.

A closed loop over HTTP/1.1 connections that are kept. The specification has: `port` of the service
on loopback, `pid` of its process, `client` and `secret`, `key` (the private key file of the login
service), `issuer`, `operation` (one of OPERATIONS), `count` (how many) and `connections`. What an
operation needs, such as the refresh token that it uses up, is obtained before anything counts. One
JSON object goes to stdout.
"""

import asyncio
import gc
import json
import sys
import time
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from authz.demo.login import EXCHANGE, JWT
from authz.event_loop import loop_factory
from authz.keys.signing import SigningKey, load_signing_key, sign
from loadtest.cores import cpu_seconds
from loadtest.feed.scripts import specification

ISSUE, LOG_IN, REFRESH, REVOKE = "issue", "log-in", "refresh", "revoke"
OPERATIONS = (ISSUE, LOG_IN, REFRESH, REVOKE)
"""A token for the client itself; a session by exchange, with a refresh token; a session's refresh;
the revocation of an access token. Each of the last three is of a user of its own.
"""
ASSERTION_LIFETIME = 300
"""Seconds: as long as an assertion may live, for they are made before anything counts."""
OK = 200

Form = dict[str, str]


class Connection:
    """One request at a time, on a connection that is kept."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authorization: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._head = f"HTTP/1.1\r\nhost: localhost\r\nauthorization: {authorization}\r\n"

    async def post(self, path: str, form: Form) -> tuple[int, bytes]:
        """Status and body. EOFError, OSError: there was no answer."""
        body = urlencode(form)
        self._writer.write(
            f"POST {path} {self._head}content-type: application/x-www-form-urlencoded\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, after = head.partition(b"content-length:")
        size = int(after.partition(b"\r")[0])
        return int(head.split(b" ", 2)[1]), await self._reader.readexactly(size)

    async def aclose(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class Load:
    """One operation, many times."""

    def __init__(self, what: dict[str, Any]) -> None:
        self._what = what
        self._key: SigningKey = load_signing_key(Path(what["key"]), time.time())
        self.times: list[float] = []
        """Seconds from a request to its answer."""
        self.wrong = 0

    async def run(self) -> dict[str, Any]:
        what = self._what
        secret = b64encode(f"{what['client']}:{what['secret']}".encode()).decode()
        connections = [
            Connection(*await asyncio.open_connection("127.0.0.1", what["port"]), f"Basic {secret}")
            for _ in range(what["connections"])
        ]
        prepare, measured = self._steps()
        forms = await self._spread(connections, prepare, [{} for _ in range(what["count"])])
        self.times, self.wrong = [], 0
        spent, started = cpu_seconds(what["pid"]), time.perf_counter()
        await self._spread(connections, measured, forms)
        seconds = time.perf_counter() - started
        spent = cpu_seconds(what["pid"]) - spent
        for connection in connections:
            await connection.aclose()
        return {
            "operations": len(self.times),
            "seconds": seconds,
            "server_seconds": spent,
            "times_us": [int(one * 1e6) for one in self.times],
            "wrong": self.wrong,
        }

    async def _spread(
        self,
        connections: Sequence[Connection],
        step: Callable[[Connection, Form], Awaitable[Form]],
        forms: Sequence[Form],
    ) -> list[Form]:
        """All forms, each connection taking the next one when it is free."""
        left, results = iter(forms), []

        async def work(connection: Connection) -> None:
            results.extend([await step(connection, form) for form in left])

        await asyncio.gather(*map(work, connections))
        return results

    def _steps(
        self,
    ) -> tuple[
        Callable[[Connection, Form], Awaitable[Form]], Callable[[Connection, Form], Awaitable[Form]]
    ]:
        """What makes each form before anything counts, and what sends it then."""
        match self._what["operation"]:
            case "issue":
                return self._nothing, self._issue
            case "log-in":
                return self._assert, self._send_to_token
            case "refresh":
                return self._log_in, self._send_to_token
            case "revoke":
                return self._log_in_to_revoke, self._revoke
            case other:
                raise ValueError(other)

    async def _nothing(self, connection: Connection, form: Form) -> Form:
        del connection
        return form

    async def _assert(self, connection: Connection, form: Form) -> Form:
        """The word of a login service about a user of its own."""
        del connection, form
        now = int(time.time())
        claims = {
            "iss": self._what["client"],
            "sub": f"user-{uuid.uuid4().hex}",
            "aud": self._what["issuer"],
            "iat": now,
            "exp": now + ASSERTION_LIFETIME,
            "jti": uuid.uuid4().hex,
        }
        return {
            "grant_type": EXCHANGE,
            "subject_token_type": JWT,
            "subject_token": sign(claims, self._key),
        }

    async def _log_in(self, connection: Connection, form: Form) -> Form:
        given = await self._send_to_token(connection, await self._assert(connection, form))
        return {"grant_type": "refresh_token", "refresh_token": given.get("refresh_token", "")}

    async def _log_in_to_revoke(self, connection: Connection, form: Form) -> Form:
        given = await self._send_to_token(connection, await self._assert(connection, form))
        return {"token": given.get("access_token", "")}

    async def _issue(self, connection: Connection, form: Form) -> Form:
        del form
        return await self._send_to_token(connection, {"grant_type": "client_credentials"})

    async def _revoke(self, connection: Connection, form: Form) -> Form:
        return await self._send(connection, "/oauth2/revoke", form)

    async def _send_to_token(self, connection: Connection, form: Form) -> Form:
        given = await self._send(connection, "/oauth2/token", form)
        self.wrong += not given.get("access_token")
        return given

    async def _send(self, connection: Connection, path: str, form: Form) -> Form:
        started = time.perf_counter()
        status, body = await connection.post(path, form)
        self.times.append(time.perf_counter() - started)
        if status != OK:
            self.wrong += 1
            return {}
        given: Form = json.loads(body)
        return given


def main() -> None:
    gc.disable()  # nothing here lives long
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        json.dump(runner.run(Load(specification()).run()), sys.stdout)


if __name__ == "__main__":
    main()
