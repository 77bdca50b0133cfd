"""`/users/{subject}/sessions`: where a user is logged in, and log-out there.

Asked with an access token of this service:

- the user's own, with the scope `sessions`: of that user;
- a client's (`client_credentials`), with the scope `sessions:all`: of every user.
"""

from dataclasses import asdict
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from authz.revocation.record import Note
from authz.tokens.http.errors import (
    OAuthError,
    insufficient_scope,
    invalid_token,
)
from authz.tokens.http.parts import Parts
from authz.tokens.refresh import RefreshToken

OWN = "sessions"
ALL = "sessions:all"


class _Asker(NamedTuple):
    """Who asks, as far as the token says."""

    by: str
    sid: str | None


async def list_sessions(parts: Parts, request: Request, subject: str) -> Response:
    """OAuthError, StoreError."""
    return JSONResponse({"sessions": await _sessions(parts, request, subject)})


async def show_session(parts: Parts, request: Request, subject: str, sid: str) -> Response:
    """OAuthError 404: the user has no such session. StoreError."""
    for session in await _sessions(parts, request, subject):
        if session["id"] == sid:
            return JSONResponse(session)
    raise _no_such_session()


async def end_session(parts: Parts, request: Request, subject: str, sid: str) -> Response:
    """OAuthError 404: the user has no such session. StoreError."""
    asker = await _asker(parts, request, subject)
    now = parts.clock()
    note = Note("session ended", asker.by, now)
    if not await parts.tokens.end_session(subject, sid, note, now):
        raise _no_such_session()
    return Response(status_code=204)


async def end_all(parts: Parts, request: Request, subject: str) -> Response:
    """Log out everywhere. OAuthError, StoreError."""
    asker = await _asker(parts, request, subject)
    now = parts.clock()
    ended = await parts.tokens.end_all(subject, Note("logged out everywhere", asker.by, now), now)
    return JSONResponse({"ended": ended})


async def _sessions(parts: Parts, request: Request, subject: str) -> list[dict[str, Any]]:
    """As they are shown, the one that asks marked. OAuthError, StoreError."""
    asker = await _asker(parts, request, subject)
    found = await parts.tokens.sessions(subject, parts.clock())
    return [{**_shown(asdict(one)), "current": one.sid == asker.sid} for one in found]


async def _asker(parts: Parts, request: Request, subject: str) -> _Asker:
    """OAuthError: 401 without a good token, 403 where it may not."""
    address = parts.address(request)
    await parts.throttle.look("failures_address", address)
    scheme, token = _token(request)
    claims = await parts.tokens.introspect(token, parts.clock())
    if not claims.get("active"):
        await parts.throttle.note("failures_address", address)
        raise invalid_token("the token is unknown, expired or was revoked", scheme)
    await _require_proof(parts, request, scheme, token, claims)
    scopes = str(claims.get("scope", "")).split(" ")
    holder, client_id = claims.get("sub"), claims.get("client_id")
    if holder == client_id:  # a client's own; no user has a client's name
        if ALL not in scopes:
            raise insufficient_scope(ALL)
        return _Asker(f"client {client_id}", None)
    if holder != subject or OWN not in scopes:
        raise insufficient_scope(OWN if holder == subject else ALL)
    return _Asker(f"user by client {client_id}", claims.get("sid"))


def _token(request: Request) -> tuple[str, str]:
    """The scheme and the token. OAuthError: there is none, or two."""
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        raise invalid_token("one Authorization header with an access token is needed")
    scheme, _, token = values[0].partition(" ")
    scheme = {"bearer": "Bearer", "dpop": "DPoP"}.get(scheme.lower(), "")
    if not scheme or RefreshToken.read(token) is not None:
        raise invalid_token("an access token of this service is needed")
    return scheme, token


async def _require_proof(
    parts: Parts, request: Request, scheme: str, token: str, claims: dict[str, Any]
) -> None:
    """RFC 9449 section 7: a bound token comes with the proof of its key, and no other does."""
    bound = claims.get("cnf")
    if bound is None and scheme == "Bearer":
        return
    if bound is None or scheme != "DPoP":
        raise invalid_token("the token and the scheme do not go together", scheme)
    # As it was sent: a subject may have been percent-encoded, and `htu` is as well.
    path = request.scope["raw_path"].decode("ascii").partition("?")[0]
    url = parts.paths.url(path.removeprefix(parts.paths.prefix))
    try:
        proven = await parts.proofs.of(request, url, parts.clock(), access_token=token)
    except OAuthError as error:
        raise _challenged(error) from None
    if proven is None or proven.cnf != bound:
        raise invalid_token("the token is bound to a key that the request does not prove", scheme)


def _challenged(error: OAuthError) -> OAuthError:
    """RFC 9449 section 7.1: what is a 400 at the token endpoint is a 401 with a challenge here."""
    if error.status != HTTPStatus.BAD_REQUEST:
        return error
    challenge = f'DPoP error="{error.error}", error_description="{error.description}"'
    return OAuthError(
        401, error.error, error.description, {**error.headers, "www-authenticate": challenge}
    )


def _no_such_session() -> OAuthError:
    return OAuthError(404, "not_found", "the user has no such session")


def _shown(session: dict[str, Any]) -> dict[str, Any]:
    """`sid` is the name in tokens; here it is the id of what is listed."""
    return {"id": session.pop("sid"), **session}
