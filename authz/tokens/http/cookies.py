"""Tokens in cookies, for applications in a browser: no script can read them.

The access token's cookie is `__Host-access`, which the sidecar looks for. The refresh token's goes
to OAuth's endpoints alone, so that no application behind Envoy ever sees it; a `__Host-` name would
demand the path `/`. Both are HttpOnly and Secure, and the refresh token's is SameSite=Strict.

SameSite lets pages of sibling domains through (`a.shop.example` and `b.shop.example`), and doesn't
keep a cookie from being set. So whoever logs in, refreshes or logs out with cookies must also come
from the issuer's own origin, or a trusted one.
"""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response

from authz.settings.token_http import CookieSettings
from authz.tokens.grant import Issued
from authz.tokens.http.errors import OAuthError, invalid_request, invalid_scope

ACCESS = "__Host-access"
REFRESH = "__Secure-refresh"

MAX_COOKIE = 4096
"""Bytes of name and value that a browser has to keep (RFC 6265bis section 5.6)."""


class Cookies:
    """Sets, reads and takes back the two cookies."""

    def __init__(self, settings: CookieSettings, *, origin: str, prefix: str) -> None:
        """`origin`: the issuer's; `prefix`: the path of its URL."""
        self._settings = settings
        self._origins = {origin, *settings.trusted_origins}
        self._path = f"{prefix}/oauth2"

    def give(self, response: Response, issued: Issued, refresh_lifetime: float) -> None:
        """Put the tokens into cookies. `refresh_lifetime` in seconds.

        OAuthError: browsers would drop a cookie of that size.
        """
        if len(ACCESS) + len(issued.access_token) > MAX_COOKIE:
            raise invalid_scope("the token is too large for a cookie; ask for fewer scopes")
        self._set(response, ACCESS, issued.access_token, issued.expires_in, "/")
        if issued.refresh_token is not None:
            self._set(response, REFRESH, issued.refresh_token, int(refresh_lifetime), self._path)

    def take_back(self, response: Response) -> None:
        """Make the browser forget both."""
        self._set(response, ACCESS, "", 0, "/")
        self._set(response, REFRESH, "", 0, self._path)

    def refresh_token(self, request: Request) -> str | None:
        """The refresh token that came by cookie, if one did.

        Call `require_own_page` before. OAuthError: two came, one of them set by a sibling domain.
        """
        found = list(_cookies(request, REFRESH))
        if len(found) > 1:
            raise invalid_request("two refresh cookies came")
        return found[0] if found else None

    def require_own_page(self, request: Request) -> None:
        """OAuthError: it isn't known that a page of ours sent this."""
        if not self.from_own_page(request):
            raise OAuthError(403, "invalid_request", "cookies count from our own pages only")

    def from_own_page(self, request: Request) -> bool:
        """Whether a page of ours sent this, as far as that is known.

        Fetch metadata cannot be forged by a page; where a browser sends none, `Origin` of a POST
        can't be either.
        """
        origin = request.headers.get("origin")
        if origin is not None:
            return origin.lower() in self._origins
        return request.headers.get("sec-fetch-site") == "same-origin"

    def _set(self, response: Response, name: str, value: str, age: int, path: str) -> None:
        response.set_cookie(
            name,
            value,
            max_age=age,
            path=path,
            secure=True,
            httponly=True,
            samesite="strict" if name == REFRESH else self._settings.same_site,
        )


def _cookies(request: Request, name: str) -> Iterator[str]:
    """RFC 6265 section 5.4. Starlette's own reading keeps one of several with the same name."""
    for header in request.headers.getlist("cookie"):
        for pair in header.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name and value:
                yield value
