"""Requests that a browser was made to send: cross-site request forgery.

A browser adds cookies by itself, whichever page asks it to send a request. It also says which page
that was, in headers that no script can set (`Sec-Fetch-Site`; `Origin`, Fetch Standard section
3.2). A token in a header needs none of this: no other site's page can put it there.
"""

from collections.abc import Iterable

from authz.check.guard import Presented
from authz.check.request import CheckRequest
from authz.check.verdict import Reason, Verdict, deny

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""They are asked to change nothing (RFC 9110 section 9.2.1)."""

ORIGIN_HEADER = "origin"
FETCH_SITE_HEADER = "sec-fetch-site"
UPGRADE_HEADER = "upgrade"
"""A WebSocket begins with a GET and may change anything, and no CORS keeps other sites off it."""
CSRF_HEADERS = (ORIGIN_HEADER, FETCH_SITE_HEADER, UPGRADE_HEADER)

_OUR_SITES = frozenset({"same-origin", "none"})
"""`none`: no page asked, but the person, as with a bookmark. `same-site` is another host of ours or
of a neighbour, and must be trusted by name."""

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class CsrfGuard:
    """Refuses a token that came in a cookie where another site's page may have sent the request."""

    name = "csrf"
    of_cookies = True

    def __init__(self, trusted_origins: Iterable[str]) -> None:
        """`trusted_origins` as browsers write them: `https://app.example`."""
        self._trusted = frozenset(trusted_origins)

    def look(self, presented: Presented) -> Verdict | None:
        """As `Guard.look`."""
        request = presented.request
        if not presented.credential.cookie or not presented.policy.csrf or _is_safe(request):
            return None
        if self._is_ours(request):
            return None
        return deny(Reason.CROSS_SITE_REQUEST, identity=presented.verified.identity)

    def _is_ours(self, request: CheckRequest) -> bool:
        sites = request.header(FETCH_SITE_HEADER)
        if len(sites) == 1 and sites[0] in _OUR_SITES:
            return True
        origins = request.header(ORIGIN_HEADER)
        if len(origins) != 1:  # every browser sends one; what isn't a browser has no cookies
            return False
        if origins[0] in self._trusted:
            return True
        return not sites and _is_own_origin(origins[0], request)


def _is_safe(request: CheckRequest) -> bool:
    return request.method in SAFE_METHODS and not request.header(UPGRADE_HEADER)


def _is_own_origin(origin: str, request: CheckRequest) -> bool:
    """Whether the page is of the host that is asked. Where HTTPS is asked a page of HTTP isn't,
    since anyone on the way may have written it. A browser tells the truth in `:scheme`.
    """
    scheme, _, host = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or (scheme == "http" and request.scheme == "https"):
        return False
    return host == request.host.lower().removesuffix(port)
