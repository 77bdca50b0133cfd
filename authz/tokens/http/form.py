"""The body of a request to OAuth's endpoints: a form, read as RFC 6749 section 3.2 says.

"Parameters sent without a value MUST be treated as if they were omitted", and "request and response
parameters MUST NOT be included more than once": whoever reads the first of two and whoever reads
the last would disagree about what was asked.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from authz.tokens.http.errors import OAuthError, invalid_request, of_status

MAX_BODY = 64 * 1024
"""Bytes. Two tokens of 8 KiB, the largest that the sidecar reads, percent-encoded, and the rest."""

MAX_FIELDS = 64
"""Of one form. The longest here has ten."""

BODY_TIMEOUT = 10.0
"""Seconds for the whole body, so that a client that sends a byte a second gains nothing."""

REPEATABLE = frozenset({"audience", "resource"})
"""RFC 8693 section 2.1 and RFC 8707 section 2: each may name several."""

FORM = "application/x-www-form-urlencoded"


class Form:
    """The parameters of a request."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str) -> str | None:
        """Its value; None where there is none."""
        values = self._fields.get(name)
        return None if values is None else values[0]

    def need(self, name: str) -> str:
        """Its value. OAuthError invalid_request: there is none."""
        value = self.get(name)
        if value is None:
            raise invalid_request(f"{name} is missing")
        return value

    def every(self, name: str) -> list[str]:
        """All values of one of REPEATABLE."""
        return self._fields.get(name, [])


async def read_form(request: Request) -> Form:
    """OAuthError: the body is no such form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise of_status(415)
    body = await _read_body(request)
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:  # too many fields, or percent-encoded bytes that are no UTF-8
        raise invalid_request("the body is not a form of UTF-8 text") from None
    fields: dict[str, list[str]] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen and name not in REPEATABLE:
            raise OAuthError(400, "invalid_request", "a parameter came more than once")
        seen.add(name)
        if "\x00" in value:
            raise invalid_request("a value has a NUL in it")
        if value:
            fields.setdefault(name, []).append(value)
    return Form(fields)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise of_status(413)
    except TimeoutError:
        raise OAuthError(408, "invalid_request", "the body took too long") from None
    except ClientDisconnect:
        raise invalid_request("the body ended early") from None  # nobody is there to read it
    return bytes(body)
