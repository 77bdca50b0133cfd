"""CheckRequests as Hypothesis makes them: plausible ones, odd ones, and bytes that are none."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from support.grpc import check_request

NAMES = (
    "authorization", "Authorization", "cookie", "x-request-id", "x-authz-subject",
    "x-authz-decision", "x-authz-other", "X-Authz-Scopes", "x_authz_subject", "x-authz", ":path",
    "content-type", "x-forwarded-for", "x-forwarded-proto", "origin", "sec-fetch-site", "upgrade",
    "dpop", "x-other",
)  # fmt: skip
"""Names of headers that mean something to a sidecar, and some that look like it."""

EXTENSIONS: dict[str, Sequence[str]] = {
    "authz.mode": ("required", "optional", "Optional", "perhaps", ""),
    "authz.fail_mode": ("open", "closed", "ajar"),
    "authz.audience": ("api", "orders", ""),
    "authz.scopes": ("read", "read write", "admin", "", " read  write "),
    "authz.scope": ("admin",),
    "authz.require_https": ("true", "false", "yes"),
    "authz.csrf": ("false", "true", "off"),
    "authz.binding": ("required", "optional", "dpop"),
    "authz.use": ("many", "twice"),  # not once: what one sidecar used up the other can't
    "other.service": ("x", "ü"),
}
"""Context extensions: settings of a route, good, bad, and other people's."""

LARGEST = 60_000
"""Bytes of one value: Envoy takes 60 KiB of request headers unless told otherwise."""

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def credentials(tokens: Sequence[str]) -> st.SearchStrategy[str]:
    """Values of Authorization: right and wrong ones."""
    token = st.sampled_from(tokens)
    return st.one_of(
        token.map("Bearer {}".format),
        token.map("bearer  {}".format),
        token,
        st.tuples(token, token).map(lambda two: f"Bearer {two[0]},Bearer {two[1]}"),
        st.sampled_from(["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer a.b.c", ","]),
        _text.map("Bearer {}".format),
    )


def cookies(tokens: Sequence[str]) -> st.SearchStrategy[str]:
    pair = st.one_of(
        st.sampled_from(tokens).map("__Host-access={}".format),
        st.sampled_from(["a=1", "__Host-access=", "__Host-access", "=", "__host-access=x"]),
    )
    return st.lists(pair, max_size=3).map("; ".join)


def headers(tokens: Sequence[str]) -> st.SearchStrategy[tuple[str, str]]:
    """One header. Mostly of those that matter."""
    size = st.integers(0, LARGEST)
    return st.one_of(
        st.tuples(st.just("authorization"), credentials(tokens)),
        st.tuples(st.just("cookie"), cookies(tokens)),
        st.tuples(st.sampled_from(NAMES), _text),
        st.tuples(st.just("x-large"), size.map(lambda count: "v" * count)),
    )


def check_requests(tokens: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Messages with any of these tokens, in either form that Envoy has for headers."""
    pairs = st.lists(headers(tokens), max_size=6)
    raw = pairs.map(lambda them: [(name, value.encode()) for name, value in them])
    odd_raw = st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=60)), max_size=4)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "path": st.one_of(st.sampled_from(["/", "/a?b=c", "*", ""]), _text),
        "method": st.sampled_from(["GET", "POST", "", "BREW"]),
        "host": _text,
        "request_id": st.one_of(st.just("1234567890"), _text, st.just("i" * 300)),
        "source": st.sampled_from(["127.0.0.1", "2001:db8::1", ""]),
        "scheme": st.sampled_from(["http", "https", ""]),
        "certificate": st.one_of(st.just(""), _text),
        "extensions": st.dictionaries(
            st.sampled_from(list(EXTENSIONS)), st.just(""), max_size=3
        ).flatmap(
            lambda names: st.fixed_dictionaries(
                {name: st.sampled_from(EXTENSIONS[name]) for name in names}
            )
        ),
    }
    joined = st.fixed_dictionaries({**fields, "headers": pairs.map(dict)})
    mapped = st.fixed_dictionaries({**fields, "raw_headers": st.one_of(raw, odd_raw)})
    return st.one_of(joined, mapped).map(lambda chosen: bytes(check_request(**chosen)))


def spoilt(messages: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes that are, mostly, no CheckRequest: cut off, overwritten, spliced, or made up."""
    place = st.floats(0, 1, exclude_max=True)

    def cut(message: bytes, where: float) -> bytes:
        return message[: int(len(message) * where)]

    def overwritten(message: bytes, where: float, piece: bytes) -> bytes:
        at = int(len(message) * where)
        return message[:at] + piece + message[at + len(piece) :]

    def spliced(one: bytes, other: bytes, where: float) -> bytes:
        return one[: int(len(one) * where)] + other[int(len(other) * where) :]

    def inserted(message: bytes, where: float, piece: bytes) -> bytes:
        at = int(len(message) * where)
        return message[:at] + piece + message[at:]

    # Wrong wire types, groups, field number 0, an endless varint, lengths beyond the end, UTF-8
    # that is none.
    pieces = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from(
            [b"\x0b", b"\x0c", b"\x0d", b"\x0f", b"\x00", b"\xff" * 11, b"\x0a\xff\xff\xff\x7f",
             b"\x0a\x80\x80\x80\x80\x08", b"\x08\x01", b"\xc0\xaf", b"\xed\xa0\x80"]
        ),
    )  # fmt: skip
    return st.one_of(
        st.builds(cut, messages, place),
        st.builds(overwritten, messages, place, pieces),
        st.builds(inserted, messages, place, pieces),
        st.builds(spliced, messages, messages, place),
        st.builds(bytes.__add__, messages, pieces),
        st.binary(max_size=200),
    )
