"""`POST /oauth2/revoke` (RFC 7009) and `POST /oauth2/introspect` (RFC 7662)."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from authz.tokens.clients.client import Client
from authz.tokens.grant import Revoked
from authz.tokens.http.cookies import Cookies
from authz.tokens.http.errors import OAuthError, invalid_client, invalid_grant, invalid_request
from authz.tokens.http.form import Form, read_form
from authz.tokens.http.parts import Parts


async def revoke(parts: Parts, cookies: Cookies, request: Request) -> Response:
    """Take back a token of the client that asks. 200 also where there was nothing to take back
    (RFC 7009 section 2.2). OAuthError, StoreError.
    """
    address = parts.address(request)
    form = await read_form(request)
    client = await parts.authenticator.client(request, form, address)
    token = _token(cookies, client, request, form)
    revoked = await parts.tokens.revoke(token, client.id, parts.clock())
    if revoked is Revoked.ENCRYPTED:
        raise OAuthError(
            400,
            "unsupported_token_type",
            "an encrypted token that can't be read here; revoke its refresh token or session",
        )
    if revoked is Revoked.OTHER_CLIENT:
        # Section 2.1: "the request is refused and the client is informed of the error".
        await parts.throttle.note("failures_address", address)
        raise invalid_grant("the token was issued to another client")
    response = JSONResponse({})
    # A token in the form may come from anywhere, but no other page logs its visitors out here.
    if client.cookies and cookies.from_own_page(request):
        cookies.take_back(response)
    return response


def _token(cookies: Cookies, client: Client, request: Request, form: Form) -> str:
    token = form.get("token")
    if token is None and client.cookies:
        cookies.require_own_page(request)
        token = cookies.refresh_token(request)
    if token is None:
        raise invalid_request("token is missing")
    return token


async def introspect(parts: Parts, request: Request) -> Response:
    """Whether a token is live, and whose. Of a token of another client only where the client that
    asks may introspect; else it is as if there were none (RFC 7662 section 2.2). OAuthError,
    StoreError.
    """
    form = await read_form(request)
    client = await parts.authenticator.client(request, form, parts.address(request))
    if client.public:
        raise invalid_client("introspection is for clients with a secret")
    found = await parts.tokens.introspect(form.need("token"), parts.clock())
    if not client.may_introspect and found.get("client_id") != client.id:
        found = {"active": False}
    return JSONResponse(found)
