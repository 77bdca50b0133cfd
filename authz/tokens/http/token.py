"""`POST /oauth2/token`: a client gets a token (RFC 6749 section 3.2).

Ordered guards: who asks too often, who asks at all, what this client may ask for. Then one of three
grants, each a method.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from authz.tokens.clients.client import (
    CLIENT_CREDENTIALS,
    GRANTS,
    REFRESH_TOKEN,
    TOKEN_EXCHANGE,
    Client,
)
from authz.tokens.encryption import MixedAudiencesError
from authz.tokens.grant import (
    MAX_ABOUT,
    GrantRequest,
    Issued,
    LoggedOutError,
    RefreshRefused,
    RefreshRequest,
    Refusal,
)
from authz.tokens.http.cookies import Cookies
from authz.tokens.http.errors import (
    OAuthError,
    invalid_request,
    invalid_scope,
    invalid_target,
    unauthorized_client,
)
from authz.tokens.http.form import Form, read_form
from authz.tokens.http.parts import Parts, narrowed
from authz.tokens.http.subjects import ACCESS_TOKEN, JWT
from authz.tokens.limits.limiter import Limit
from authz.tokens.refresh import user_of

_GUESSES = frozenset({Refusal.UNKNOWN, Refusal.REUSED, Refusal.OTHER_CLIENT})
"""Refusals that count as failures: what is refused to whoever holds a token that is not theirs."""


class TokenEndpoint:
    """Answers one request."""

    def __init__(self, parts: Parts, cookies: Cookies) -> None:
        self._parts = parts
        self._cookies = cookies

    async def answer(self, request: Request) -> Response:
        """The tokens, in the body or in cookies.

        OAuthError, StoreError, SigningUnavailableError.
        """
        parts = self._parts
        address = parts.address(request)
        form = await read_form(request)
        grant = form.need("grant_type")
        refreshing = grant == REFRESH_TOKEN
        await parts.throttle.spend("refresh_address" if refreshing else "issue_address", address)
        client = await parts.authenticator.client(request, form, address)
        if grant not in GRANTS:
            raise OAuthError(400, "unsupported_grant_type", f"use one of {' '.join(GRANTS)}")
        if grant not in client.grants:
            raise unauthorized_client("this client may not use this grant")
        if client.cookies:
            # Also to log in: or another's page could log its visitors in as somebody else.
            self._cookies.require_own_page(request)
        limit: Limit = "refresh_client" if refreshing else "issue_client"
        await parts.throttle.admit(limit, client.id, proven=not client.public)
        proven = await parts.proofs.of(request, parts.paths.url("/oauth2/token"), parts.clock())
        cnf = None if proven is None else proven.cnf
        if refreshing:
            issued = await self._refresh(client, request, form, cnf, address)
        elif grant == CLIENT_CREDENTIALS:
            issued = await self._client_credentials(client, form, cnf)
        else:
            issued = await self._exchange(client, request, form, cnf, address)
        if client.public:
            await parts.throttle.note(limit, client.id)
        parts.figures.gave({TOKEN_EXCHANGE: "token_exchange"}.get(grant, grant))
        response = self._give(client, issued, exchanged=grant == TOKEN_EXCHANGE)
        if proven is not None and proven.next_nonce is not None:
            response.headers["dpop-nonce"] = proven.next_nonce
        return response

    # ---- the grants

    async def _client_credentials(
        self, client: Client, form: Form, cnf: Mapping[str, Any] | None
    ) -> Issued:
        """Section 4.4: a token for the client itself. No refresh token (section 4.4.3)."""
        grant = GrantRequest(
            subject=client.id,
            client_id=client.id,
            scopes=_scopes(form, client),
            audiences=self._audiences(form, client),
            session=False,
            lifetime=client.lifetime,
            cnf=cnf,
        )
        return await self._parts.tokens.issue(grant, self._parts.clock())

    async def _exchange(
        self,
        client: Client,
        request: Request,
        form: Form,
        cnf: Mapping[str, Any] | None,
        address: str,
    ) -> Issued:
        """RFC 8693: a user logs in, by the word of a login service."""
        parts = self._parts
        if form.get("actor_token") is not None:
            raise invalid_request("actor_token: delegation is not supported, leave it out")
        if form.get("requested_token_type") not in {None, ACCESS_TOKEN, JWT}:
            raise invalid_request(f"requested_token_type: only {ACCESS_TOKEN}")
        token, kind = form.need("subject_token"), form.need("subject_token_type")
        scopes, audiences = _scopes(form, client), self._audiences(form, client)
        device, where = _about(client, request, form, address)
        try:
            said = await parts.subjects.said(client, token, kind, parts.clock(), cnf)
        except OAuthError as error:
            if error.status < 500:  # noqa: PLR2004  it is the client's fault
                await parts.throttle.note("failures_address", address)
            raise
        await parts.throttle.spend("issue_user", said.subject)
        await parts.keys.current()  # before the assertion is used up for nothing
        await said.use_up()
        grant = GrantRequest(
            subject=said.subject,
            client_id=client.id,
            scopes=scopes,
            audiences=audiences,
            refreshable=REFRESH_TOKEN in client.grants,
            lifetime=client.lifetime,
            auth_time=said.auth_time,
            vouched_at=said.vouched_at,
            device=device,
            address=where,
            cnf=cnf,
            bind_refresh=client.public,
        )
        try:
            return await parts.tokens.issue(grant, parts.clock())
        except LoggedOutError:
            raise invalid_request("subject_token: the user was logged out since") from None

    async def _refresh(
        self,
        client: Client,
        request: Request,
        form: Form,
        cnf: Mapping[str, Any] | None,
        address: str,
    ) -> Issued:
        """Section 6, with rotation."""
        parts = self._parts
        token = self._refresh_token(client, request, form)
        user = user_of(token)
        if user is not None:
            # The user's digest in a refresh token can be worked out by anybody.
            await parts.throttle.admit("refresh_user", user, proven=False)
        asked = form.get("scope")
        wanted = RefreshRequest(
            token=token,
            client_id=client.id,
            scopes=None if asked is None else tuple(dict.fromkeys(_split_scopes(asked))),
            cnf=cnf,
            address=_about(client, request, form, address)[1],
        )
        issued = await parts.tokens.refresh(wanted, parts.clock())
        if isinstance(issued, Issued):
            if user is not None:
                await parts.throttle.note("refresh_user", user)
            return issued
        await self._note_refused(issued, user, address)
        raise OAuthError(
            400,
            issued.refusal.error,
            issued.refusal.description,
            cause=f"refresh_{issued.refusal.name.lower()}",
        )

    async def _note_refused(self, refused: RefreshRefused, user: str | None, address: str) -> None:
        if refused.refusal not in _GUESSES:
            return
        await self._parts.throttle.note("failures_address", address)
        if user is not None:
            # Of failures alone: what is made up must not keep the user from refreshing.
            await self._parts.throttle.spend("failures_user", user)

    # ---- what is asked for, and what is given

    def _refresh_token(self, client: Client, request: Request, form: Form) -> str:
        if not client.cookies:
            return form.need("refresh_token")
        token = self._cookies.refresh_token(request)
        if token is None:
            raise invalid_request("the refresh cookie is missing")
        return token

    def _audiences(self, form: Form, client: Client) -> tuple[str, ...]:
        """Of `audience` (RFC 8693) and `resource` (RFC 8707), which mean the same here; the first
        that the client may have where neither is given.
        """
        known = self._parts.settings.audiences
        allowed = tuple(one for one in client.audiences or known if one in known)
        asked = [*form.every("audience"), *form.every("resource")] or list(allowed[:1])
        if not asked:
            raise invalid_target("none of this client's audiences is among tokens.audiences")
        audiences = narrowed(asked, allowed, invalid_target, "audience")
        try:
            self._parts.encryption.wanted(audiences)
        except MixedAudiencesError:
            raise invalid_target("these audiences can't share one token; ask for each") from None
        return audiences

    def _give(self, client: Client, issued: Issued, *, exchanged: bool) -> Response:
        """Section 5.1, and RFC 8693 section 2.2.1."""
        body: dict[str, Any] = {
            "token_type": issued.token_type,
            "expires_in": issued.expires_in,
            "scope": issued.scope,
        }
        if exchanged:
            body["issued_token_type"] = ACCESS_TOKEN
        if client.cookies:
            response = JSONResponse(body)
            self._cookies.give(response, issued, self._parts.settings.refresh_lifetime)
            return response
        body["access_token"] = issued.access_token
        if issued.refresh_token is not None:
            body["refresh_token"] = issued.refresh_token
        return JSONResponse(body)


def _scopes(form: Form, client: Client) -> tuple[str, ...]:
    """RFC 6749 section 3.3: all that the client may have where it asks for none."""
    asked = _split_scopes(form.get("scope") or "") or list(client.scopes)
    return narrowed(asked, client.scopes, invalid_scope, "scope")


def _split_scopes(text: str) -> list[str]:
    """RFC 6749 section 3.3: separated by spaces, and by nothing else."""
    return [scope for scope in text.split(" ") if scope]


def _about(client: Client, request: Request, form: Form, address: str) -> tuple[str, str]:
    """The user's device and address. A login service says both, for it stands between; an app that
    asks for itself is what it seems to be.
    """
    if client.public:
        device = form.get("device") or request.headers.get("user-agent", "")
        return _printable(device), address
    said = form.get("address")
    if said is not None:
        try:
            said = str(ipaddress.ip_address(said))
        except ValueError:
            raise invalid_request("address: is not an IP address") from None
    return _printable(form.get("device") or ""), said or ""


def _printable(text: str) -> str:
    return "".join(one for one in text if one.isprintable())[:MAX_ABOUT]
