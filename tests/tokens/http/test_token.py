"""`POST /oauth2/token` as a client library that nobody here wrote asks it: Authlib."""

import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from tokens.conftest import World

from authz.tokens.clients.client import CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE
from support.token_service import (
    ISSUER,
    SECRET,
    TokenServer,
    assertion,
    claims_of,
    login_service,
    new_client,
)


def authlib(
    server: TokenServer, client_id: str, method: str = "client_secret_basic"
) -> OAuth2Client:
    return OAuth2Client(
        client_id,
        None if method == "none" else SECRET,
        token_endpoint=f"{server.url}/oauth2/token",
        revocation_endpoint_auth_method=method,
        token_endpoint_auth_method=method,
        trust_env=False,
    )


@pytest.fixture
def machine(world: World) -> Iterator[OAuth2Client]:
    with authlib(world.server, world.machine.id) as client:
        yield client


@pytest.fixture
def login(world: World) -> Iterator[OAuth2Client]:
    with authlib(world.server, world.login.id, "client_secret_post") as client:
        yield client


def log_in(client: OAuth2Client, subject_token: str, **more: Any) -> dict[str, Any]:
    token: dict[str, Any] = client.fetch_token(
        grant_type=TOKEN_EXCHANGE,
        subject_token=subject_token,
        subject_token_type="urn:ietf:params:oauth:token-type:jwt",
        **more,
    )
    return token


# client_credentials


def test_a_client_gets_a_token_for_itself(world: World, machine: OAuth2Client) -> None:
    """RFC 9068 section 2.2, checked with the published keys."""
    before = int(time.time())
    token = machine.fetch_token(grant_type=CLIENT_CREDENTIALS, scope="read", audience="billing")
    keys = jwt.PyJWKSet.from_dict(world.server.http.get("/.well-known/jwks.json").json())
    header = jwt.get_unverified_header(token["access_token"])
    claims = jwt.decode(
        token["access_token"],
        keys[header["kid"]],
        algorithms=["ES256"],
        audience="billing",
        issuer=ISSUER,
    )
    assert header["typ"] == "at+jwt"
    assert claims["sub"] == claims["client_id"] == world.machine.id
    assert claims["scope"] == token["scope"] == "read"
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] - claims["iat"] == token["expires_in"] == 900
    assert claims["jti"]
    assert token["token_type"] == "Bearer"
    assert "refresh_token" not in token  # RFC 6749 section 4.4.3


def test_without_a_scope_a_client_gets_all_that_it_may_have_and_the_first_audience(
    world: World, machine: OAuth2Client
) -> None:
    claims = claims_of(machine.fetch_token(grant_type=CLIENT_CREDENTIALS)["access_token"])
    assert claims["scope"].split() == list(world.machine.scopes)
    assert claims["aud"] == "api"


def test_a_client_s_own_lifetime_counts(world: World) -> None:
    short = new_client("short", lifetime=60.0)
    world.server.add(short)
    answer = world.server.token(short.id, grant_type=CLIENT_CREDENTIALS)
    assert answer.json()["expires_in"] == 60


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"scope": "read admin"}, "invalid_scope"),
        ({"scope": "READ"}, "invalid_scope"),
        ({"scope": "read\twrite"}, "invalid_scope"),
        ({"audience": "elsewhere"}, "invalid_target"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
    ],
)
def test_more_than_a_client_may_have_is_refused(
    machine: OAuth2Client, form: dict[str, str], error: str
) -> None:
    with pytest.raises(OAuthError) as refused:
        machine.fetch_token(grant_type=CLIENT_CREDENTIALS, **form)
    assert refused.value.error == error


def test_a_grant_that_a_client_may_not_use_is_refused(world: World, machine: OAuth2Client) -> None:
    with pytest.raises(OAuthError) as refused:
        log_in(machine, "x")
    assert refused.value.error == "unauthorized_client"
    with pytest.raises(OAuthError) as unknown:
        machine.fetch_token(grant_type="authorization_code", code="x", state="y")
    assert unknown.value.error == "unsupported_grant_type"


# exchange and refresh


def test_a_login_service_logs_in_its_user(world: World, login: OAuth2Client) -> None:
    """RFC 8693: the token is the user's, with who asked for it."""
    said = assertion(world.login, "alice", auth_time=1_700_000_000)
    token = log_in(login, said, scope="read sessions", device="phone", address="192.0.2.7")
    claims = claims_of(token["access_token"])
    assert token["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert (claims["sub"], claims["client_id"]) == ("alice", world.login.id)
    assert claims["auth_time"] == 1_700_000_000
    assert claims["sid"]
    assert token["refresh_token"]


def test_a_refresh_gives_new_tokens_of_the_same_session(world: World, login: OAuth2Client) -> None:
    first = log_in(login, assertion(world.login, "bob"), scope="read write")
    second = login.refresh_token(refresh_token=first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    before, after = claims_of(first["access_token"]), claims_of(second["access_token"])
    assert after["jti"] != before["jti"]
    assert (after["sid"], after["sub"], after["scope"]) == (before["sid"], "bob", "read write")


def test_a_refresh_may_ask_for_less_and_not_for_more(world: World, login: OAuth2Client) -> None:
    """RFC 6749 section 6."""
    token = log_in(login, assertion(world.login, "carol"), scope="read write")
    less = login.refresh_token(refresh_token=token["refresh_token"], scope="read")
    assert claims_of(less["access_token"])["scope"] == "read"
    with pytest.raises(OAuthError) as refused:
        login.refresh_token(refresh_token=less["refresh_token"], scope="read sessions")
    assert refused.value.error == "invalid_scope"


def test_another_client_s_refresh_token_is_refused(world: World, login: OAuth2Client) -> None:
    other = login_service("other")
    world.server.add(other)
    token = log_in(login, assertion(world.login, "dora"))
    answer = world.server.token(
        other.id, grant_type=REFRESH_TOKEN, refresh_token=token["refresh_token"]
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert login.refresh_token(refresh_token=token["refresh_token"])["access_token"]


def test_an_app_logs_in_with_what_the_login_service_gave_it_and_refreshes_alone(
    world: World,
) -> None:
    """A public client has no secret: the assertion is for it alone, the refresh token rotates."""
    said = assertion(world.login, "erin", azp=world.app.id)
    with authlib(world.server, world.app.id, "none") as app:
        token = log_in(app, said)
        assert claims_of(token["access_token"])["client_id"] == world.app.id
        again = app.refresh_token(refresh_token=token["refresh_token"])
    assert claims_of(again["access_token"])["sub"] == "erin"


# revocation, introspection, metadata


def test_a_revoked_refresh_token_ends_the_session(world: World, login: OAuth2Client) -> None:
    token = log_in(login, assertion(world.login, "frank"))
    url = f"{world.server.url}/oauth2/revoke"
    assert login.revoke_token(url, token["refresh_token"]).status_code == 200
    with pytest.raises(OAuthError) as refused:
        login.refresh_token(refresh_token=token["refresh_token"])
    assert refused.value.error == "invalid_grant"
    found = login.introspect_token(
        f"{world.server.url}/oauth2/introspect", token["access_token"]
    ).json()
    assert found == {"active": False}


def test_a_live_token_is_described_and_a_revoked_one_is_not(
    world: World, machine: OAuth2Client
) -> None:
    token = machine.fetch_token(grant_type=CLIENT_CREDENTIALS, scope="read")["access_token"]
    url = f"{world.server.url}/oauth2/introspect"
    found = machine.introspect_token(url, token).json()
    assert found["active"] is True
    assert (found["sub"], found["scope"], found["iss"]) == (world.machine.id, "read", ISSUER)
    assert machine.revoke_token(f"{world.server.url}/oauth2/revoke", token).status_code == 200
    assert machine.introspect_token(url, token).json() == {"active": False}


def test_a_token_of_another_client_is_seen_by_those_alone_who_may(
    world: World, machine: OAuth2Client
) -> None:
    token = machine.fetch_token(grant_type=CLIENT_CREDENTIALS)["access_token"]
    stranger, api = new_client("stranger"), new_client("api", may_introspect=True)
    for client, active in ((stranger, False), (api, True)):
        world.server.add(client)
        with authlib(world.server, client.id) as asking:
            found = asking.introspect_token(f"{world.server.url}/oauth2/introspect", token).json()
        assert found["active"] is active


def test_another_client_s_token_can_not_be_revoked(world: World, machine: OAuth2Client) -> None:
    """RFC 7009 section 2.1."""
    token = machine.fetch_token(grant_type=CLIENT_CREDENTIALS)["access_token"]
    stranger = new_client("stranger")
    world.server.add(stranger)
    with authlib(world.server, stranger.id) as asking:
        answer = asking.revoke_token(f"{world.server.url}/oauth2/revoke", token)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    url = f"{world.server.url}/oauth2/introspect"
    assert machine.introspect_token(url, token).json()["active"] is True


def test_what_is_no_token_is_revoked_already(world: World, machine: OAuth2Client) -> None:
    """RFC 7009 section 2.2: it is what the client wanted."""
    url = f"{world.server.url}/oauth2/revoke"
    assert machine.revoke_token(url, "no.such.token").status_code == 200
    assert machine.revoke_token(url, "x", token_type_hint="strange").status_code == 200


def test_the_metadata_names_what_is_there(world: World) -> None:
    """RFC 8414 section 3."""
    found = world.server.http.get("/.well-known/oauth-authorization-server").json()
    assert found["issuer"] == ISSUER
    for name in ("token_endpoint", "revocation_endpoint", "introspection_endpoint"):
        path = found[name].removeprefix(ISSUER)
        assert world.server.http.post(path).status_code == 415, name  # there, and wants a form
    for name in ("jwks_uri", "service_documentation"):
        assert world.server.http.get(found[name].removeprefix(ISSUER)).status_code == 200, name
