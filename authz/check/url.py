"""URLs made comparable: as much normalisation as two honest writers of one URL may differ by."""

import re

_URL = re.compile(r"(https?)://([^/?#@\s]+)(|/[^?#\s]*)(?:[?#]\S*)?", re.IGNORECASE | re.ASCII)
"""RFC 9110 section 4.2: with an authority, and without user information."""

_DEFAULT_PORT = {"http": "80", "https": "443"}
_PORT = re.compile(r":(\d*)$", re.ASCII)
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]", re.ASCII)  # RFC 3986 section 2.3


def normal_url(text: str) -> str | None:
    """An `http` or `https` URL without query and fragment, in the form of RFC 3986 sections 6.2.2
    (case, percent-encoding, dot segments) and 6.2.3 (default port, empty path). None: it is none.
    """
    match = _URL.fullmatch(text)
    if match is None:
        return None
    scheme, authority, path = match.groups()
    return f"{normal_origin(scheme, authority)}{normal_path(path)}"


def normal_origin(scheme: str, authority: str) -> str:
    """`scheme://host[:port]`, of an authority without user information."""
    scheme, authority = scheme.lower(), authority.lower()
    port = _PORT.search(authority)
    if port is not None and port[1] in {"", _DEFAULT_PORT.get(scheme)}:
        authority = authority[: port.start()]
    return f"{scheme}://{authority}"


def normal_path(path: str) -> str:
    """A path that begins with `/` or is empty."""
    escaped = _ESCAPE.sub(_normal_escape, path) if "%" in path else path
    if "/." in escaped:
        escaped = _without_dots(escaped)
    return escaped or "/"


def _normal_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if _UNRESERVED.fullmatch(character) else match[0].upper()


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/".join(kept)
