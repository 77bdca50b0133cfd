"""The lines of a file of revocations: what they may say, and what is wrong with the others."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.cli.bulk.lines import CHUNK, MAX_LINE, Defaults, Line, Raw, parse, read_lines
from authz.cli.revocations import Reader
from authz.revocation.record import bucket_of, token_digest, user_digest
from authz.revocation.store import TokenRevocation, UserRevocation
from authz.settings import Settings
from support.jwks import ISSUER, claims, rsa_key, sign
from support.sidecar import KID, default_issuer

NOW = 1_767_225_600.0
DEFAULTS = Defaults("a reason", "somebody", NOW - 5)
EXPIRES = round(NOW) + 1000


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    issuer = default_issuer(tmp_path_factory.mktemp("keys"))
    return Reader(Settings.model_validate({"issuers": [issuer]}), lambda: NOW)


def token(**overrides: Any) -> str:
    return sign(claims(**{"iat": round(NOW), "exp": EXPIRES, **overrides}), rsa_key(), kid=KID)


def said(reader: Reader, text: str | bytes | dict[str, Any]) -> Line | None:
    if isinstance(text, dict):
        text = json.dumps(text)
    data = text.encode() if isinstance(text, str) else text
    return parse(Raw(1, len(data), data), reader, DEFAULTS)


def test_a_token_by_itself_or_in_an_object(reader: Reader) -> None:
    text = token(sub="alice", jti="j1")
    line = said(reader, text)
    assert line
    revocation = line.revocation
    assert isinstance(revocation, TokenRevocation)
    assert revocation.user == user_digest(ISSUER, "alice")
    assert revocation.token == token_digest(ISSUER, "j1", b"")
    assert revocation.bucket == bucket_of(ISSUER, "alice", 16)
    assert revocation.expires_at == EXPIRES
    assert (revocation.note.reason, revocation.note.by, revocation.note.at) == (
        "a reason", "somebody", NOW,
    )  # fmt: skip
    for same in ({"token": text}, f"  {text}\r", b"\xef\xbb\xbf" + text.encode()):
        again = said(reader, same)
        assert again
        assert again.revocation == revocation


@pytest.mark.parametrize(
    "expires_at", [EXPIRES, float(EXPIRES), str(EXPIRES), "2026-01-01T00:16:40Z"]
)
def test_a_token_by_its_names(reader: Reader, expires_at: object) -> None:
    names: dict[str, Any] = {"issuer": ISSUER, "jti": "j", "expires_at": expires_at}
    line = said(reader, names)
    assert line
    assert isinstance(line.revocation, TokenRevocation)
    assert (line.revocation.user, line.revocation.bucket) == (None, None)
    assert line.revocation.expires_at == EXPIRES
    line = said(reader, {**names, "user": "alice", "reason": "stolen", "by": "bob"})
    assert line
    assert isinstance(line.revocation, TokenRevocation)
    assert line.revocation.user == user_digest(ISSUER, "alice")
    assert (line.revocation.note.reason, line.revocation.note.by) == ("stolen", "bob")


def test_all_tokens_of_a_user_up_to_a_time_or_to_the_beginning_of_the_run(reader: Reader) -> None:
    """To the beginning of the first run where it was interrupted, or a repeat would reach further.
    For the same reason the line is given again with that time.
    """
    line = said(reader, {"issuer": ISSUER, "user": "alice"})
    assert line
    assert isinstance(line.revocation, UserRevocation)
    assert line.revocation.not_before == NOW - 5
    assert json.loads(line.again()) == {"issuer": ISSUER, "user": "alice", "before": NOW - 5}
    line = said(reader, {"issuer": ISSUER, "user": "alice", "before": "2025-12-31T23:59:00Z"})
    assert line
    assert isinstance(line.revocation, UserRevocation)
    assert line.revocation.not_before == NOW - 60
    assert json.loads(line.again())["before"] == "2025-12-31T23:59:00Z"


@pytest.mark.parametrize("text", ["", "   ", "\r", "# a comment", "  # {}"])
def test_blank_lines_and_comments_say_nothing(reader: Reader, text: str) -> None:
    assert said(reader, text) is None


def test_an_expired_token_is_nothing_to_revoke_and_no_problem(reader: Reader) -> None:
    line = said(reader, token(iat=1000, exp=2000))
    assert line
    assert (line.revocation, line.problem) == (None, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("garbage", "token: no token that could be accepted: token_malformed"),
        ("[1]", "token_malformed"),
        (b"\xff\xfe", "not UTF-8"),
        ("{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        ('{"token": "x"} {}', "not JSON: Extra data at column 16"),
        ('{"token": NaN}', "not JSON: NaN"),
        ('{"issuer": "a", "issuer": "b", "user": "c"}', "a field stands there twice"),
        ("{" + '"a":{' * 3000, "not JSON"),
        ({}, "give token, or issuer, jti and expires_at, or issuer and user"),
        ({"token": token(), "user": "alice"}, "give token, or"),
        ({"issuer": ISSUER}, "give token, or"),
        ({"issuer": ISSUER, "jti": "j"}, "give token, or"),
        ({"issuer": ISSUER, "jti": "j", "user": "u", "before": 1}, "give token, or"),
        ({"reason": "r"}, "give token, or"),
        ({"issuer": ISSUER, "user": "u", "expiresAt": 1}, "unknown field 'expiresAt'"),
        ({"token": 1}, "token: no text"),
        ({"issuer": ISSUER, "user": None}, "user: no text"),
        ({"issuer": ISSUER, "user": "u", "reason": ["r"]}, "reason: no text"),
        ({"issuer": ISSUER, "user": "u", "before": True}, "before: neither text nor a number"),
        ({"issuer": ISSUER, "user": "u", "before": 10**400}, "before: a text of 401 characters"),
        ({"issuer": ISSUER, "user": "u", "before": NOW + 100}, "before: lies in the future"),
        ({"issuer": ISSUER, "user": "u", "before": "soon"}, "before: 'soon' is neither"),
        ({"issuer": "https://else", "user": "u"}, "issuer: the issuer is none of those"),
        ({"issuer": ISSUER, "user": ""}, "user: no token that is accepted can have ''"),
        ({"issuer": ISSUER, "user": "\ud800"}, "user: no token that is accepted can have"),
        ({"issuer": ISSUER, "jti": "", "expires_at": EXPIRES}, "jti: no token that is accepted"),
        (token(iss="https://else"), "token: the issuer is none of those under `issuers`"),
        (token(exp="soon"), "claim_invalid: exp"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line(reader: Reader, text: Any, problem: str) -> None:
    line = said(reader, text)
    assert line
    assert line.revocation is None
    assert problem in line.problem
    assert "\n" not in line.problem


@pytest.mark.parametrize("field", ["issuer", "jti", "user", "expires_at", "before", "extra"])
def test_a_token_in_the_wrong_place_is_not_repeated(reader: Reader, field: str) -> None:
    """It may well be a good one."""
    text = token()
    for value in (text, f" {text}"):
        fields = {"issuer": ISSUER, "jti": "j", "expires_at": EXPIRES}
        if field == "before":
            fields = {"issuer": ISSUER, "user": "u"}
        name = text if field == "extra" else field
        line = said(reader, {**fields, name: value})
        if line and line.problem:
            assert not any(part in line.problem for part in text.split("."))


# From bytes


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "lines"
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


async def lines_of(descriptor: int, reader: Reader, content: bytes, **start: int) -> list[Line]:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    os.lseek(descriptor, start.get("offset", 0), os.SEEK_SET)
    return [line async for line in read_lines(descriptor, reader, DEFAULTS, **start)]


def user_line(number: int) -> bytes:
    return json.dumps({"issuer": ISSUER, "user": f"user-{number}"}).encode()


async def test_lines_are_numbered_as_they_stand_there(descriptor: int, reader: Reader) -> None:
    """With blank ones and comments; a file whose last line has no end has it all the same."""
    content = b"\n".join([b"# users", user_line(2), b"", b"nonsense", user_line(5)])
    lines = await lines_of(descriptor, reader, content)
    assert [line.raw.number for line in lines] == [2, 4, 5]
    assert [bool(line.problem) for line in lines] == [False, True, False]
    ends = [line.raw.end for line in lines]
    assert [content[:end].splitlines()[-1] for end in ends] == [
        user_line(2), b"nonsense", user_line(5),
    ]  # fmt: skip
    later = await lines_of(descriptor, reader, content, number=4, offset=ends[1])
    assert [(line.raw.number, line.raw.end) for line in later] == [(5, ends[2])]


async def test_a_line_is_whole_wherever_the_reading_falls(descriptor: int, reader: Reader) -> None:
    """Over several pieces of the file, of lines that don't end where they do."""
    count = 4 * CHUNK // len(user_line(1000))
    content = b"".join(user_line(n) + b"\n" for n in range(count))
    lines = await lines_of(descriptor, reader, content)
    assert [line.raw.text for line in lines] == [user_line(n) for n in range(count)]
    assert lines[-1].raw.end == len(content)


@pytest.mark.parametrize("length", [MAX_LINE + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
@pytest.mark.parametrize("end", [b"\n", b""])
async def test_a_line_that_is_too_long_is_left_out_without_holding_it(
    descriptor: int, reader: Reader, length: int, end: bytes
) -> None:
    behind = user_line(3) + b"\n" if end else b""
    content = user_line(1) + b"\n" + b"x" * length + end + behind
    lines = await lines_of(descriptor, reader, content)
    assert [line.raw.number for line in lines] == ([1, 2, 3] if end else [1, 2])
    assert lines[1].problem == f"longer than {MAX_LINE} bytes"
    assert lines[1].raw.text == b""
    assert lines[-1].raw.end == len(content)


async def test_a_line_of_the_greatest_length_is_read(descriptor: int, reader: Reader) -> None:
    line = user_line(1)
    padded = line + b" " * (MAX_LINE - len(line))
    (found,) = await lines_of(descriptor, reader, padded + b"\n")
    assert found.revocation


async def test_a_pipe_is_waited_for(reader: Reader) -> None:
    """And the store gets its turn meanwhile: the loop isn't held up."""
    inside, outside = os.pipe()
    try:
        os.write(outside, user_line(1) + b"\n" + user_line(2)[:10])
        lines = read_lines(inside, reader, DEFAULTS)
        assert (await anext(lines)).raw.number == 1
        os.write(outside, user_line(2)[10:] + b"\n")
        assert (await anext(lines)).raw.number == 2
        os.close(outside)
        assert [line async for line in lines] == []
    finally:
        os.close(inside)
