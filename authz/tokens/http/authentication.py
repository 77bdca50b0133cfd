"""Which client asks (RFC 6749 section 2.3): by HTTP Basic, by the form, or public.

A wrong secret, an unknown client and a disabled one get the same answer after the same time, that
of one hash; only while two secrets of a client are good, a wrong one takes two.
"""

from base64 import b64decode
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote_plus

from starlette.requests import Request

from authz.tokens.clients.client import Client
from authz.tokens.clients.secret import SecretHasher
from authz.tokens.clients.store import ClientStore
from authz.tokens.http.address import limited_by
from authz.tokens.http.errors import invalid_client, invalid_request, unavailable
from authz.tokens.http.form import Form
from authz.tokens.http.throttle import Throttle

METHODS = ("client_secret_basic", "client_secret_post", "none")
"""RFC 8414 section 2: `token_endpoint_auth_methods_supported`."""

_WRONG = "the client is unknown, or its secret is wrong"


class _Shown(NamedTuple):
    """What a request says of its client."""

    client_id: str
    secret: str | None


class Authenticator:
    """Finds the client of a request."""

    def __init__(
        self,
        clients: ClientStore,
        hasher: SecretHasher,
        throttle: Throttle,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._clients = clients
        self._hasher = hasher
        self._throttle = throttle
        self._clock = clock

    async def client(self, request: Request, form: Form, address: str) -> Client:
        """The client that asks from `address`; a public one by its name alone.

        OAuthError: 401 invalid_client, 400 for a request that can't be understood, 429, 503.
        StoreError: clients can't be read.
        """
        await self._throttle.look("failures_address", address)
        shown = _shown(request, form)
        client = await self._clients.get(shown.client_id)
        # From one place, or whoever knows a client's name could lock it out.
        guesser = f"{shown.client_id} {limited_by(address)}"
        fits = await self._fits(shown, client, guesser)
        if fits and client is not None and not client.disabled:
            return client
        await self._throttle.note("failures_client", guesser)
        await self._throttle.note("failures_address", address)
        raise invalid_client(_WRONG)

    async def _fits(self, shown: _Shown, client: Client | None, guesser: str) -> bool:
        if shown.secret is None:
            return client is not None and client.public
        now = self._clock()
        if not self._hasher.remembers(client, shown.secret, now):
            await self._throttle.look("failures_client", guesser)
        outcome = await self._hasher.compare(client, shown.secret, now)
        if outcome == "busy":
            raise unavailable("secrets_busy")
        return outcome == "right"


def _shown(request: Request, form: Form) -> _Shown:
    """OAuthError: no client, or two ways at once."""
    values = request.headers.getlist("authorization")
    client_id, secret = form.get("client_id"), form.get("client_secret")
    if not values:
        if client_id is None:
            raise invalid_client("say which client asks: by HTTP Basic, or client_id in the form")
        return _Shown(client_id, secret)
    if len(values) > 1 or secret is not None:
        raise invalid_request("a client authenticates in one way only (RFC 6749 section 2.3)")
    shown = _of_basic(values[0])
    if client_id is not None and client_id != shown.client_id:
        raise invalid_request("client_id is not the client of the Authorization header")
    return shown


def _of_basic(value: str) -> _Shown:
    """RFC 7617, with both parts encoded as in a form (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        raise invalid_client("clients authenticate by HTTP Basic or in the form")
    try:
        client_id, colon, secret = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        raise invalid_client("the Authorization header is not HTTP Basic") from None
    if not colon:
        raise invalid_client("the Authorization header is not HTTP Basic")
    return _Shown(unquote_plus(client_id), unquote_plus(secret))
