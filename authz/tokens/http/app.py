"""The application: every route, and what each failure becomes."""

from functools import cache
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from authz import __version__
from authz.keys.signer import SigningUnavailableError
from authz.observe import events
from authz.revocation.store import StoreError
from authz.tokens.encryption import MixedAudiencesError, TokenTooLargeError
from authz.tokens.http import metadata, revoke, schemas, sessions
from authz.tokens.http.cookies import Cookies
from authz.tokens.http.docs_page import docs_response
from authz.tokens.http.errors import (
    OAuthError,
    invalid_grant,
    invalid_scope,
    of_status,
    unavailable,
)
from authz.tokens.http.middleware import Around
from authz.tokens.http.parts import Parts
from authz.tokens.http.token import TokenEndpoint

log = structlog.get_logger(__name__)

DESCRIPTION = """OAuth 2: tokens are issued, refreshed, looked at and taken back here.

Every error is a JSON object of RFC 6749 section 5.2: `error` and `error_description`."""


def make_app(parts: Parts) -> ASGIApp:
    """The application, with all that stands around it."""
    prefix = parts.paths.prefix
    app = FastAPI(
        title="authz tokens",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=None,  # `_about` has it, written once
        docs_url=None,  # the framework's pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    cookies = Cookies(parts.settings.cookies, origin=parts.paths.origin, prefix=prefix)
    app.include_router(_oauth(parts, cookies), prefix=prefix)
    app.include_router(_users(parts), prefix=prefix)
    app.include_router(_about(parts, app), prefix=prefix)

    @app.get(
        parts.paths.metadata,
        response_model=schemas.MetadataAnswer,
        responses=schemas.errors(),
        tags=["about"],
        summary="RFC 8414: the server's metadata",
    )
    async def server_metadata() -> Response:
        return JSONResponse(metadata.metadata(parts))

    _handle_failures(app, parts)
    _describe_what_happens(app)
    return Around(app, parts.figures.answered)


def _oauth(parts: Parts, cookies: Cookies) -> APIRouter:
    router = APIRouter(prefix="/oauth2", tags=["oauth2"])
    endpoint = TokenEndpoint(parts, cookies)

    @router.post(
        "/token",
        response_model=schemas.TokenAnswer,
        responses=schemas.errors(401, 403, 415),
        openapi_extra=schemas.TOKEN_FORM,
        summary="RFC 6749: a client gets a token, refreshes one, or exchanges one (RFC 8693)",
    )
    async def token(request: Request) -> Response:
        return await endpoint.answer(request)

    @router.post(
        "/revoke",
        response_model=dict[str, Any],
        responses=schemas.errors(401, 403, 415),
        openapi_extra=schemas.REVOKE_FORM,
        summary="RFC 7009: a client takes back a token of its own",
    )
    async def revoke_token(request: Request) -> Response:
        return await revoke.revoke(parts, cookies, request)

    @router.post(
        "/introspect",
        response_model=schemas.IntrospectionAnswer,
        responses=schemas.errors(401, 415),
        openapi_extra=schemas.TOKEN_ONLY_FORM,
        summary="RFC 7662: whether a token is live, and whose",
    )
    async def introspect_token(request: Request) -> Response:
        return await revoke.introspect(parts, request)

    return router


def _users(parts: Parts) -> APIRouter:
    router = APIRouter(prefix="/users", tags=["sessions"])
    # `:path`, for a subject may have a slash in it; a session's id has none.

    @router.get(
        "/{subject:path}/sessions",
        response_model=schemas.SessionsAnswer,
        responses=schemas.errors(401, 403, 404, 429),
        summary="Where a user is logged in",
    )
    async def list_sessions(request: Request, subject: str) -> Response:
        return await sessions.list_sessions(parts, request, subject)

    @router.delete(
        "/{subject:path}/sessions",
        response_model=schemas.EndedAnswer,
        responses=schemas.errors(401, 403, 404, 429),
        summary="Log a user out everywhere",
    )
    async def end_sessions(request: Request, subject: str) -> Response:
        return await sessions.end_all(parts, request, subject)

    @router.get(
        "/{subject:path}/sessions/{sid}",
        response_model=schemas.Session,
        responses=schemas.errors(401, 403, 404, 429),
        summary="One session",
    )
    async def show_one(request: Request, subject: str, sid: str) -> Response:
        return await sessions.show_session(parts, request, subject, sid)

    @router.delete(
        "/{subject:path}/sessions/{sid}",
        status_code=204,
        responses=schemas.errors(401, 403, 404, 429),
        summary="End one session",
    )
    async def end_one(request: Request, subject: str, sid: str) -> Response:
        return await sessions.end_session(parts, request, subject, sid)

    return router


def _about(parts: Parts, app: FastAPI) -> APIRouter:
    router = APIRouter(tags=["about"])

    @router.get(
        "/.well-known/jwks.json",
        response_model=schemas.JwksAnswer,
        responses=schemas.errors(),
        summary="RFC 7517: the keys that tokens are verified with",
    )
    async def jwks() -> Response:
        return JSONResponse(parts.keys.jwks())

    @cache
    def described() -> tuple[Response, Response]:
        """Written once: they are large, and always the same."""
        return JSONResponse(app.openapi()), docs_response(app.openapi())

    @router.get("/openapi.json", include_in_schema=False)
    async def description() -> Response:
        return described()[0]

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return described()[1]

    return router


def _handle_failures(app: FastAPI, parts: Parts) -> None:
    """One handler for each kind of failure; what has none is an error of our own: 500."""

    def refuse(error: OAuthError) -> Response:
        parts.figures.refused(error.cause)
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(OAuthError)
    async def oauth_error(_: Request, error: OAuthError) -> Response:
        return refuse(error)

    @app.exception_handler(StoreError)
    async def store_error(_: Request, error: StoreError) -> Response:
        log.warning(events.TOKENS_STORE_FAILED, error=str(error))
        return refuse(unavailable("store"))

    @app.exception_handler(SigningUnavailableError)
    async def signing_error(_: Request, error: SigningUnavailableError) -> Response:
        return refuse(unavailable("signing", error.retry_after))

    @app.exception_handler(TokenTooLargeError)
    async def too_large(_: Request, error: TokenTooLargeError) -> Response:
        return refuse(invalid_scope(f"the token would be too large: {error}"))

    @app.exception_handler(MixedAudiencesError)
    async def mixed(_: Request, __: MixedAudiencesError) -> Response:
        # Of a refresh: `tokens.encryption` has changed since the user logged in.
        return refuse(invalid_grant("its audiences can't share one token any more; log in again"))

    @app.exception_handler(Exception)
    async def our_own(_: Request, __: Exception) -> Response:
        return refuse(of_status(500))  # the framework raises it again: `Around` has it logged

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        answer = of_status(error.status_code)
        answer.headers.update(error.headers or {})
        return refuse(answer)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, __: RequestValidationError) -> Response:
        return refuse(of_status(400))


def _describe_what_happens(app: FastAPI) -> None:
    """The framework describes a 422 that never comes: what is wrong with a request is a 400."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        description = made()
        for path in description["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(name, None)
        return description

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does
