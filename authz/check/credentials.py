"""Where a request carries its token: by the scheme Bearer, or DPoP where a proof comes with it.

RFC 6750 section 2: a client must not use more than one method to transmit its token. A request with
two tokens is refused rather than guessed about: an Envoy, a proxy before it or the upstream may
each read another one (CVE-2020-25017 was of that kind).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from authz.check.request import CheckRequest
from authz.check.verdict import Reason

_AUTHORIZATION = "authorization"
_BEARER: Literal["bearer"] = "bearer"  # RFC 9110 section 11.1: schemes are case-insensitive
_DPOP: Literal["dpop"] = "dpop"
_JOINED_DUPLICATE = re.compile(
    r"^(?:bearer|dpop)[ \t].*,|,[ \t]*(?:bearer|dpop)(?:[ \t]|$)", re.IGNORECASE | re.DOTALL
)
"""Envoy joins duplicates by commas. No JWT has one; another scheme's parameters may."""


class Credential(NamedTuple):
    """A token, and how it came."""

    token: str
    scheme: Literal["bearer", "dpop"] = "bearer"
    cookie: bool = False
    """It came in a cookie and in no header: a browser sends that by itself, whoever asks it to."""

    def __bool__(self) -> bool:
        """Whether it has any text, as of a `str`."""
        return bool(self.token)


class CredentialFinder:
    """Finds the one token of a request at the configured places."""

    def __init__(self, credentials: Sequence[str]) -> None:
        """`credentials` as in the settings: `header:NAME` (lower case) and `cookie:NAME`."""
        places = [place.partition(":")[::2] for place in credentials]
        self._headers = tuple(name for kind, name in places if kind == "header")
        self._cookies = tuple(name for kind, name in places if kind == "cookie")
        # Envoy joins two cookie lines of HTTP/1 by a comma, so that the second one's first cookie
        # would be part of the first one's last.
        self._joined_cookie = re.compile(
            rf",[ \t]*(?:{'|'.join(map(re.escape, self._cookies))})[ \t]*="
        )

    def find(self, request: CheckRequest) -> str | Credential | Reason:
        """The text of a bearer token that came in a header; a token that came in another way; or
        why there is none to look at: TOKEN_MISSING, SCHEME_UNSUPPORTED, MULTIPLE_CREDENTIALS,
        TOKEN_MALFORMED.
        """
        found: list[str | Credential] = []
        other_scheme = False
        for name in self._headers:
            values = request.header(name)
            if len(values) > 1:
                return Reason.MULTIPLE_CREDENTIALS
            for value in values:
                token = _token_in(name, value.strip(" \t"))
                if isinstance(token, (str, Credential)):
                    found.append(token)
                elif token is Reason.MULTIPLE_CREDENTIALS:
                    return token
                else:
                    other_scheme = token is Reason.SCHEME_UNSUPPORTED or other_scheme
        if self._cookies:
            for line in request.header("cookie"):
                if not any(name in line for name in self._cookies):
                    continue
                if "," in line and self._joined_cookie.search(line):
                    return Reason.MULTIPLE_CREDENTIALS
                found += [Credential(value, cookie=True) for value in self._cookie_values(line)]
        if not found:
            return Reason.SCHEME_UNSUPPORTED if other_scheme else Reason.TOKEN_MISSING
        token = found[0] if len(found) == 1 else _only_one(found)
        return token or Reason.TOKEN_MALFORMED

    def _cookie_values(self, line: str) -> Iterator[str]:
        for pair in line.split(";"):  # RFC 6265 section 4.2.1
            name, equals, value = pair.strip(" \t").partition("=")
            # RFC 6265bis section 5.6: blanks around a name aren't part of it.
            if equals and value and name.rstrip(" \t") in self._cookies:
                yield value.removeprefix('"').removesuffix('"')


def _only_one(found: Sequence[str | Credential]) -> str | Credential | Reason:
    """The token that came several times, as the first of them; those of headers are before those
    of cookies. MULTIPLE_CREDENTIALS: they differ, or came by two schemes and so would be judged in
    two ways.
    """
    by_scheme = {
        (one, "bearer") if isinstance(one, str) else (one.token, one.scheme) for one in found
    }
    return found[0] if len(by_scheme) == 1 else Reason.MULTIPLE_CREDENTIALS


def _token_in(name: str, text: str) -> str | Credential | Reason | None:
    """The bearer token in a header's value, or one by DPoP, maybe an empty one;
    MULTIPLE_CREDENTIALS, SCHEME_UNSUPPORTED; None where there is nothing.
    """
    if not text:
        return None
    if text.startswith("Bearer ") and "," not in text:  # what the rest would find, for most
        return text[7:].strip(" ")
    if "," in text and _JOINED_DUPLICATE.search(text):  # the search takes 10 µs
        return Reason.MULTIPLE_CREDENTIALS
    # A tab is no separator (RFC 9110 section 11.4), but some upstreams take it for one: it stays
    # with the token, which is malformed by that.
    scheme, blank, _ = text.replace("\t", " ").partition(" ")
    if scheme.lower() == _BEARER:
        return text[len(scheme) :].strip(" ")
    if scheme.lower() == _DPOP:
        return Credential(text[len(scheme) :].strip(" "), _DPOP)
    if name == _AUTHORIZATION or blank:
        return Reason.SCHEME_UNSUPPORTED
    # A header of one's own may hold the bare token.
    return Reason.MULTIPLE_CREDENTIALS if "," in text else text
