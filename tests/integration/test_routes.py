"""What a route may ask for, said in Envoy's `context_extensions`."""

from typing import Any

import pytest
from integration.conftest import Deployment

from support.grpc import status_of
from support.jwks import AUDIENCE, claims, rsa_key, sign
from support.sidecar import KID


def token(**changes: Any) -> str:
    return sign(claims(**changes), rsa_key(), kid=KID)


def outcome(deployment: Deployment, path: str, **request: Any) -> tuple[int, str]:
    """Status and reason; the reason of what reaches the upstream is `ok`."""
    response = deployment.get(path, **request)
    return response.status, response.json().get("reason", "ok")


@pytest.mark.parametrize("path", ["/", "/foreign", "/publicity/../private"])
def test_a_route_that_says_nothing_wants_a_token(deployment: Deployment, path: str) -> None:
    assert outcome(deployment, path) == (401, "token_missing")
    assert outcome(deployment, path, token=token()) == (200, "ok")


@pytest.mark.parametrize("value", [None, "", "Basic dXNlcjpwYXNz", "Negotiate abc"])
def test_an_optional_route_lets_in_who_shows_no_token(
    deployment: Deployment, value: str | None
) -> None:
    headers = [] if value is None else [("authorization", value)]
    assert outcome(deployment, "/public", headers=headers) == (200, "ok")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Bearer ", "token_malformed"),
        ("Bearer a.b.c", "token_malformed"),
        ("Bearer\ta.b.c", "token_malformed"),
        ("Basic x, Bearer a.b.c", "multiple_credentials"),
    ],
)
def test_an_optional_route_refuses_a_bad_token(
    deployment: Deployment, value: str, reason: str
) -> None:
    assert outcome(deployment, "/public", headers=[("authorization", value)]) == (401, reason)


def test_an_optional_route_tells_the_holder_of_a_good_token(deployment: Deployment) -> None:
    response = deployment.get("/public", token=token())
    assert ["x-authz-subject", "alice"] in response.json()["headers"]
    expired = token(iat=1_000_000_000, exp=1_000_000_600)
    assert outcome(deployment, "/public", token=expired) == (401, "token_expired")


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("admin", (200, "ok")),
        ("read admin write", (200, "ok")),
        (["admin"], (200, "ok")),
        ("read write", (403, "insufficient_scope")),
        ("administrator", (403, "insufficient_scope")),
        ("ADMIN", (403, "insufficient_scope")),
        ("not-admin", (403, "insufficient_scope")),
        (..., (403, "insufficient_scope")),
    ],
)
def test_a_route_may_want_a_scope(
    deployment: Deployment, scope: object, expected: tuple[int, str]
) -> None:
    assert outcome(deployment, "/admin", token=token(scope=scope)) == expected


def test_a_route_may_want_several_scopes(deployment: Deployment) -> None:
    assert outcome(deployment, "/read", token=token(scope="write read"))[0] == 200
    assert outcome(deployment, "/read", token=token(scope="read"))[0] == 403


def test_a_route_may_want_an_audience_beside_the_issuers(deployment: Deployment) -> None:
    both = token(aud=[AUDIENCE, "orders"])
    assert outcome(deployment, "/orders", token=both) == (200, "ok")
    assert outcome(deployment, "/orders", token=token()) == (403, "route_audience_mismatch")
    only = token(aud="orders")
    assert outcome(deployment, "/orders", token=only) == (401, "audience_mismatch")


@pytest.mark.parametrize(
    ("path", "key"), [("/misspelt", "authz.scope"), ("/unusable", "authz.mode")]
)
def test_a_route_that_cannot_be_understood_is_closed_and_says_which_key(
    deployment: Deployment, path: str, key: str
) -> None:
    """Whatever the token: a policy with a typing error is not the same as none."""
    for headers in ([], [("authorization", f"Bearer {token(scope='admin')}")]):
        response = deployment.get(path, headers=headers)
        assert response.status == 500
        assert response.json()["reason"] == "misconfigured_route"
        assert key in response.json()["error_description"]
        assert response.header("www-authenticate") is None
    assert deployment.sidecar.metric("authz_checks_total", reason="misconfigured_route") >= 2


def test_a_route_without_the_filter_is_not_asked_about(deployment: Deployment) -> None:
    before = deployment.sidecar.metric("authz_checks_total")
    assert outcome(deployment, "/unchecked") == (200, "ok")
    assert deployment.sidecar.metric("authz_checks_total") == before


@pytest.mark.parametrize(
    "path",
    ["/public/../admin", "/public/%2e%2e/admin", "/public/./../admin", "/public/x/../../admin"],
)
def test_a_detour_through_another_route_is_the_route_it_leads_to(
    deployment: Deployment, path: str
) -> None:
    """With `normalize_path`, as in the configuration that we print."""
    assert outcome(deployment, path) == (401, "token_missing")
    assert outcome(deployment, path, token=token()) == (403, "insufficient_scope")


def test_a_client_cannot_send_extensions(deployment: Deployment) -> None:
    headers = [("authz.mode", "optional"), ("context-extensions", "authz.mode=optional")]
    assert outcome(deployment, "/?authz.mode=optional", headers=headers) == (401, "token_missing")


@pytest.mark.parametrize(
    ("extensions", "status"),
    [
        ({}, 401),
        ({"authz.mode": "optional"}, 200),
        ({"authz.mode": "required"}, 401),
        ({"Authz.Mode": "optional"}, 500),
        ({"authz.mode": "optional", "authz.x": ""}, 500),
        ({"authz.scopes": ""}, 500),
        ({"authz.fail_mode": "ajar"}, 500),
        ({"authz.audience": ""}, 500),
        ({"other.key": "x"}, 401),
    ],
)
def test_extensions_are_read_alike_past_envoy(
    deployment: Deployment, extensions: dict[str, str], status: int
) -> None:
    """Istio has no context extensions per route; others send what they like."""
    assert status_of(deployment.client.check(extensions=extensions)) == status
