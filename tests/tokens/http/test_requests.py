"""What is no good request: each answer is of RFC 6749's form, and kept by nobody."""

import asyncio
import json
import socket
from base64 import b64encode
from typing import Any

import httpx
import pytest
from tokens.conftest import World

from authz.tokens.clients.client import CLIENT_CREDENTIALS
from support import http
from support.token_service import FORM, SECRET, new_client
from support.waiting import wait_until


def basic(client_id: str, secret: str) -> dict[str, str]:
    encoded = b64encode(f"{client_id}:{secret}".encode()).decode()
    return {"authorization": f"Basic {encoded}"}


def token(world: World, body: str | bytes, **headers: str) -> httpx.Response:
    return world.server.http.post("/oauth2/token", content=body, headers={**FORM, **headers})


def assert_error(answer: httpx.Response, status: int, error: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "error_description"}
    assert body["error"] == error
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/users", 404, "not_found"),
        ("GET", "/oauth2/token", 405, "method_not_allowed"),
        ("PUT", "/oauth2/revoke", 405, "method_not_allowed"),
        ("POST", "/.well-known/jwks.json", 405, "method_not_allowed"),
        ("OPTIONS", "/oauth2/token", 405, "method_not_allowed"),
        ("POST", "/oauth2/token", 415, "invalid_request"),
        ("POST", "/oauth2/introspect", 415, "invalid_request"),
    ],
)
def test_what_is_not_there_is_said_in_the_same_form(
    world: World, method: str, path: str, status: int, error: str
) -> None:
    answer = world.server.http.request(method, path)
    assert_error(answer, status, error)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "invalid_request"),
        ("grant_type=", "invalid_request"),
        ("scope=read&scope=write", "invalid_request"),
        ("grant_type=client_credentials&grant_type=client_credentials", "invalid_request"),
        ("grant_type=client_credentials&grant_type=", "invalid_request"),
        ("grant_type=%ff", "invalid_request"),
        ("grant_type=%00", "invalid_request"),
        ("&".join(f"x{n}=1" for n in range(65)), "invalid_request"),
        ("grant_type=password&username=a&password=b", "unsupported_grant_type"),
        ("grant_type=refresh_token", "unauthorized_client"),
    ],
)
def test_a_form_that_can_be_read_two_ways_is_refused(world: World, body: str, error: str) -> None:
    """RFC 6749 section 3.2: a parameter comes once; one without a value isn't there."""
    headers = basic(world.machine.id, SECRET)
    assert_error(token(world, body, **headers), 400, error)


def test_a_body_that_is_too_large_is_refused(world: World) -> None:
    body = "grant_type=client_credentials&scope=" + "x" * 70_000
    assert_error(token(world, body, **basic(world.machine.id, SECRET)), 413, "invalid_request")


def test_a_client_authenticates_in_one_way(world: World) -> None:
    """RFC 6749 section 2.3."""
    body = f"grant_type=client_credentials&client_id={world.machine.id}"
    good = basic(world.machine.id, SECRET)
    assert token(world, body, **good).status_code == 200
    assert_error(token(world, f"{body}&client_secret={SECRET}", **good), 400, "invalid_request")
    other = basic("other", SECRET)
    assert_error(token(world, body, **other), 400, "invalid_request")
    twice = world.server.http.post(
        "/oauth2/token",
        content=body,
        headers=[*FORM.items(), *good.items(), *good.items()],
    )
    assert_error(twice, 400, "invalid_request")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer x"},
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic " + b64encode(b"no colon").decode()},
        {"authorization": "Basic " + b64encode(b"\xff:\xff").decode()},
        basic("nobody", SECRET),
        basic("", ""),
    ],
)
def test_a_client_that_is_unknown_gets_a_challenge(world: World, headers: dict[str, str]) -> None:
    answer = token(world, "grant_type=client_credentials", **headers)
    assert_error(answer, 401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_wrong_unknown_and_disabled_get_the_same_answer(world: World) -> None:
    disabled = new_client("disabled", disabled=True)
    world.server.add(disabled)
    answers = [
        world.server.token(client, secret, grant_type=CLIENT_CREDENTIALS)
        for client, secret in (
            (world.machine.id, "wrong"),
            (world.machine.id, None),
            ("nobody", SECRET),
            (disabled.id, SECRET),
            (world.app.id, SECRET),
        )
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}


def test_a_secret_may_have_any_character(world: World) -> None:
    """RFC 6749 section 2.3.1: both parts of HTTP Basic are encoded as in a form."""
    secret = "100% +:&ü"
    client = new_client("odd", secret=secret)
    world.server.add(client)
    encoded = "100%25+%2B%3A%26%C3%BC"
    body = "grant_type=client_credentials"
    assert token(world, body, **basic(client.id, encoded)).status_code == 200
    assert world.server.token(client.id, secret, grant_type=CLIENT_CREDENTIALS).is_success


def test_introspection_is_for_clients_with_a_secret(world: World) -> None:
    form = {"client_id": world.app.id, "token": "x"}
    assert_error(world.server.http.post("/oauth2/introspect", data=form), 401, "invalid_client")


@pytest.mark.parametrize("path", ["/oauth2/revoke", "/oauth2/introspect"])
def test_a_missing_token_is_said_so(world: World, path: str) -> None:
    form = {"client_id": world.machine.id, "client_secret": SECRET}
    assert_error(world.server.http.post(path, data=form), 400, "invalid_request")


# the server around it


@pytest.mark.parametrize(
    "data",
    [
        b"no http at all\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS, that is",
    ],
    ids=["words", "no version", "no host", "two lengths", "TLS"],
)
def test_what_is_no_http_is_answered_in_the_same_form(world: World, data: bytes) -> None:
    answer = http.exchange(world.server.port, data + b"\r\n\r\n")
    assert answer.status == 400
    assert json.loads(answer.body)["error"] == "invalid_request"
    assert world.server.http.get("/.well-known/jwks.json").status_code == 200


def test_a_body_that_ends_early_harms_nobody(world: World) -> None:
    head = b"POST /oauth2/token HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n"
    head += b"content-type: application/x-www-form-urlencoded\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=5) as connection:
        connection.sendall(head + b"grant_type")
    failed = world.server.metric("authz_tokens_requests_total", status="500")
    assert world.server.http.get("/.well-known/jwks.json").status_code == 200
    assert failed == 0


async def test_many_at_once_are_all_answered(world: World) -> None:
    """Beside each other, as the loop waits for nobody."""
    form = {
        "grant_type": CLIENT_CREDENTIALS,
        "client_id": world.machine.id,
        "client_secret": SECRET,
    }
    async with httpx.AsyncClient(base_url=world.server.url, trust_env=False, timeout=20) as client:
        asked = [client.post("/oauth2/token", data=form) for _ in range(100)]
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}


def test_the_description_and_its_page_are_of_one_piece(world: World) -> None:
    """No script, nothing from elsewhere, and a policy that would forbid it."""
    page = world.server.http.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "<script" not in page.text
    assert "https://" not in page.text.replace("https://login.example", "")
    for path in world.server.http.get("/openapi.json").json()["paths"]:
        assert path in page.text


def test_metrics_tell_what_was_asked_and_what_came_of_it(world: World) -> None:
    grant = {"grant": "client_credentials"}
    issued = world.server.metric("authz_tokens_issued_total", **grant)
    answered: dict[str, Any] = {"route": "/oauth2/token", "status": "200"}
    before = world.server.metric("authz_tokens_requests_total", **answered)
    world.server.token(world.machine.id, grant_type=CLIENT_CREDENTIALS)
    wait_until(
        lambda: world.server.metric("authz_tokens_requests_total", **answered) == before + 1,
        "the request is counted",
    )
    assert world.server.metric("authz_tokens_issued_total", **grant) == issued + 1
    refused = world.server.metric("authz_tokens_errors_total", error="invalid_client")
    world.server.token("nobody", grant_type=CLIENT_CREDENTIALS)
    assert world.server.metric("authz_tokens_errors_total", error="invalid_client") == refused + 1
