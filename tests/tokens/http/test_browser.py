"""Tokens in cookies: what a browser's page gets, and from which pages they count."""

from http.cookies import Morsel, SimpleCookie
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tokens.conftest import World

from authz.tokens.clients.client import REFRESH_TOKEN, TOKEN_EXCHANGE
from support.token_service import ISSUER, assertion, claims_of

OWN_PAGE = {"origin": ISSUER, "sec-fetch-site": "same-origin"}


def post(world: World, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
    """As a page does: no cookie jar of the client's, which would not send Secure ones over HTTP."""
    return httpx.post(f"{world.server.url}{path}", data=form, headers=headers, trust_env=False)


def cookies_of(answer: httpx.Response) -> dict[str, "Morsel[str]"]:
    found: SimpleCookie = SimpleCookie()
    for line in answer.headers.get_list("set-cookie"):
        found.load(line)
    return dict(found)


def log_in(world: World, **headers: str) -> httpx.Response:
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": world.page.id,
        "subject_token": assertion(world.login, f"u-{uuid4().hex[:8]}", azp=world.page.id),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    return post(world, "/oauth2/token", form, **(headers or OWN_PAGE))


def refresh(world: World, token: str, **headers: str) -> httpx.Response:
    form = {"grant_type": REFRESH_TOKEN, "client_id": world.page.id}
    return post(world, "/oauth2/token", form, cookie=f"__Secure-refresh={token}", **headers)


def test_no_script_ever_sees_a_token(world: World) -> None:
    answer = log_in(world)
    assert answer.status_code == 200, answer.text
    access, refreshing = (cookies_of(answer)[n] for n in ("__Host-access", "__Secure-refresh"))
    assert set(answer.json()) == {"token_type", "expires_in", "scope", "issued_token_type"}
    assert claims_of(access.value)["client_id"] == world.page.id
    for cookie in (access, refreshing):
        assert cookie["httponly"]
        assert cookie["secure"]
        assert not cookie["domain"]
        assert cookie["samesite"] == "strict"
    assert (access["path"], refreshing["path"]) == ("/", "/oauth2")
    assert (access["max-age"], refreshing["max-age"]) == ("900", str(14 * 86_400))


def test_a_page_of_ours_refreshes_with_its_cookie(world: World) -> None:
    first = cookies_of(log_in(world))
    answer = refresh(world, first["__Secure-refresh"].value, **OWN_PAGE)
    second = cookies_of(answer)
    assert answer.status_code == 200, answer.text
    assert second["__Secure-refresh"].value != first["__Secure-refresh"].value
    sid = claims_of(first["__Host-access"].value)["sid"]
    assert claims_of(second["__Host-access"].value)["sid"] == sid
    assert refresh(
        world, second["__Secure-refresh"].value, **{"sec-fetch-site": "same-origin"}
    ).is_success  # a GET's Origin is left out by some browsers, and so may a POST's be


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": "null"},
        {"origin": f"{ISSUER}.evil.example"},
        {"origin": ISSUER.replace("https", "http")},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_from_another_page_a_cookie_counts_for_nothing(
    world: World, headers: dict[str, str]
) -> None:
    """A sibling domain is `same-site`, so SameSite alone would let it through."""
    token = cookies_of(log_in(world))["__Secure-refresh"].value
    answer = refresh(world, token, **headers)
    assert (answer.status_code, answer.json()["error"]) == (403, "invalid_request")
    assert refresh(world, token, **OWN_PAGE).is_success  # it was not used up


def test_another_page_can_not_log_its_visitors_in(world: World) -> None:
    """As somebody else, that is: a cookie can be set across sites, whatever its SameSite says."""
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = log_in(world, **headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "invalid_request")
        assert not answer.headers.get_list("set-cookie")


def test_two_refresh_cookies_are_refused(world: World) -> None:
    """A sibling domain can set one for the parent domain; nobody knows which one is ours."""
    token = cookies_of(log_in(world))["__Secure-refresh"].value
    answer = refresh(world, f"{token}; __Secure-refresh={token}", **OWN_PAGE)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_a_page_logs_out_with_its_cookie(world: World) -> None:
    token = cookies_of(log_in(world))["__Secure-refresh"].value
    form = {"client_id": world.page.id}
    cookie = f"__Secure-refresh={token}"
    assert post(world, "/oauth2/revoke", form, cookie=cookie).status_code == 403
    answer = post(world, "/oauth2/revoke", form, cookie=cookie, **OWN_PAGE)
    assert answer.status_code == 200
    for cleared in cookies_of(answer).values():
        assert (cleared.value, cleared["max-age"]) == ("", "0")
    assert refresh(world, token, **OWN_PAGE).json()["error"] == "invalid_grant"


def test_another_page_cant_have_the_cookies_forgotten(world: World) -> None:
    """It could send any text as the token, and the browser would drop what it has of ours."""
    form = {"client_id": world.page.id, "token": "anything"}
    for headers in ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, {}):
        answer = post(world, "/oauth2/revoke", form, **headers)
        assert (answer.status_code, answer.headers.get_list("set-cookie")) == (200, [])
    assert post(world, "/oauth2/revoke", form, **OWN_PAGE).headers.get_list("set-cookie")


def test_a_client_without_cookies_gets_none_and_none_count(world: World) -> None:
    said = assertion(world.login, "ann", azp=world.app.id)
    answer = world.server.exchange(world.app.id, said, None)
    assert not answer.headers.get_list("set-cookie")
    form: dict[str, Any] = {"grant_type": REFRESH_TOKEN, "client_id": world.app.id}
    cookie = f"__Secure-refresh={answer.json()['refresh_token']}"
    refused = post(world, "/oauth2/token", form, cookie=cookie, **OWN_PAGE)
    assert refused.json()["error_description"] == "refresh_token is missing"
