"""The lines of a file of revocations: each one JSON object, or a token by itself."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, NoReturn

from authz.cli.revocations import BadRevocationError, Reader, shown
from authz.revocation.record import Note
from authz.revocation.store import Revocation, UserRevocation

CHUNK = 65_536
"""Bytes read at a time: about a hundred lines, 5 ms of work until the store gets its turn."""

MAX_LINE = 16_384
"""Bytes: a token of 8 KiB, the longest that is accepted, twice over. A longer line isn't held."""

COMMENT = "#"
TOKEN = {"token"}
JTI = {"issuer", "jti", "expires_at"}
USER = {"issuer", "user"}
FORMS = (TOKEN, JTI, JTI | {"user"}, USER, USER | {"before"})
TIMES = {"expires_at", "before"}
DETAILS = {"reason", "by"}
FIELDS = set().union(*FORMS) | DETAILS


@dataclass(frozen=True, slots=True)
class Raw:
    """A line as it stands there."""

    number: int
    """From 1."""
    end: int
    """Bytes of the file up to and with its line end."""
    text: bytes
    """Without its line end. Empty where it is longer than `MAX_LINE`."""
    too_long: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A line that says something."""

    raw: Raw
    revocation: Revocation | None
    """None: there is nothing to write."""
    problem: str = ""
    """Why it can't be read. Empty also where the token has expired."""

    def again(self) -> bytes:
        """The line, for another file: a user's tokens up to this run and not up to the next."""
        if not isinstance(self.revocation, UserRevocation):
            return self.raw.text
        fields = json.loads(self.raw.text.decode("utf-8-sig"))
        fields.setdefault("before", self.revocation.not_before)
        return json.dumps(fields).encode()


@dataclass(frozen=True, slots=True)
class Defaults:
    """What lines needn't say."""

    reason: str
    by: str
    before: float
    """Seconds since 1970: when the run began, also where it was interrupted since."""


async def read_lines(
    descriptor: int, reader: Reader, defaults: Defaults, *, number: int = 0, offset: int = 0
) -> AsyncGenerator[Line, None]:
    """The lines of a file but for blank ones and comments. `number` lines of it, `offset` bytes,
    have been read. OSError: it can't be read on.
    """
    async for raw in _split(descriptor, number, offset):
        line = parse(raw, reader, defaults)
        if line is not None:
            yield line


async def _split(descriptor: int, number: int, offset: int) -> AsyncGenerator[Raw, None]:
    rest, skipping = b"", False
    while chunk := await _read(descriptor):
        *texts, rest = (rest + chunk).split(b"\n")
        for text in texts:
            number, offset = number + 1, offset + len(text) + 1
            yield _raw(number, offset, text, skipping=skipping)
            skipping = False
        if len(rest) > MAX_LINE:
            offset += len(rest)
            rest, skipping = b"", True
    if rest or skipping:
        yield _raw(number + 1, offset + len(rest), rest, skipping=skipping)


def _raw(number: int, end: int, text: bytes, *, skipping: bool) -> Raw:
    too_long = skipping or len(text) > MAX_LINE
    return Raw(number, end, b"" if too_long else text, too_long)


async def _read(descriptor: int) -> bytes:
    """The next bytes, none at the end; a pipe is waited for without holding up the loop."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # a regular file: epoll won't have it, and it never blocks for long
        await asyncio.sleep(0)
    else:
        try:
            await readable.wait()
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, CHUNK)


def parse(raw: Raw, reader: Reader, defaults: Defaults) -> Line | None:
    """What a line says; None: nothing, it is blank or a comment."""
    if raw.too_long:
        return Line(raw, None, f"longer than {MAX_LINE} bytes")
    try:
        text = raw.text.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Line(raw, None, "not UTF-8")
    if not text or text.startswith(COMMENT):
        return None
    try:
        fields = _object(text) if text.startswith("{") else {"token": text}
        revocation = _revocation(fields, reader, defaults)
    except BadRevocationError as error:
        return Line(raw, None, str(error))
    except ValueError as error:
        return Line(raw, None, str(error))
    return Line(raw, None if reader.is_over(revocation) else revocation)


def _object(text: str) -> dict[str, Any]:
    """ValueError: not JSON, or a name twice."""
    try:
        fields: dict[str, Any] = _JSON.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON that is meant: nested too deeply") from None
    return fields


def _revocation(fields: dict[str, Any], reader: Reader, defaults: Defaults) -> Revocation:
    for name, value in fields.items():
        if name not in FIELDS:
            raise ValueError(f"unknown field {shown(name)}")
        if not isinstance(value, str) and (name not in TIMES or type(value) not in {int, float}):
            kinds = "neither text nor a number" if name in TIMES else "no text"
            raise BadRevocationError(name, kinds)
    note = Note(fields.get("reason", defaults.reason), fields.get("by", defaults.by), reader.now())
    form = fields.keys() - DETAILS
    if form not in FORMS:
        raise ValueError("give token, or issuer, jti and expires_at, or issuer and user")
    if form == TOKEN:
        return reader.of_token(fields["token"], note)
    issuer, user = fields["issuer"], fields.get("user")
    if "jti" in form:
        return reader.of_jti(issuer, fields["jti"], fields["expires_at"], user, note)
    return reader.of_user(issuer, str(user), fields.get("before", defaults.before), note)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field stands there twice")
    return fields


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"not JSON: {text}")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
"""Made once, see `authz.check.jose`."""
