"""Requests that another site's page made a browser send."""

from typing import Any

import pytest
from check.fakes import http_request, presented

from authz.check.credentials import Credential
from authz.check.csrf import SAFE_METHODS, CsrfGuard
from authz.check.request import PlainRequest
from authz.check.verdict import Reason

TRUSTED = "https://admin.example"
IN_COOKIE = Credential("unread", cookie=True)


def asked(
    origin: str | None = None, site: str | None = None, method: str = "POST", **parts: Any
) -> PlainRequest:
    """A request to https://app.example as a browser sends it."""
    given = {"origin": origin, "sec-fetch-site": site, **parts.pop("headers", {})}
    headers = {name: (value,) for name, value in given.items() if value is not None}
    return http_request(headers=headers, method=method, **{"scheme": "https", **parts})


def refused(
    request: PlainRequest, credential: Credential = IN_COOKIE, policy: dict[str, str] | None = None
) -> bool:
    verdict = CsrfGuard([TRUSTED]).look(presented(request, credential, policy=policy))
    assert verdict is None or verdict.reason is Reason.CROSS_SITE_REQUEST
    return verdict is not None


OURS = [
    asked(site="same-origin"),
    asked(site="none"),
    asked("https://app.example", "same-origin"),
    asked("https://app.example"),
    asked("https://app.example", host="app.example:443"),
    asked("https://app.example", host="APP.example"),
    asked("https://app.example:8443", host="app.example:8443"),
    asked("http://app.example", scheme="http"),
    asked("http://app.example", scheme="http", host="app.example:80"),
    asked("https://app.example", scheme="http"),  # TLS ended before Envoy
    asked(TRUSTED),
    asked(TRUSTED, "cross-site"),
    asked(TRUSTED, "same-site"),
]

FOREIGN = [
    asked(),
    asked("https://evil.example"),
    asked("https://evil.example", "cross-site"),
    asked("https://app.example.evil.example"),
    asked("https://evil.example/https://app.example"),
    asked("https://sub.app.example", "same-site"),
    asked(site="same-site"),
    asked(site="cross-site"),
    asked("https://app.example", "cross-site"),  # the browser knows better
    asked("https://app.example", "nonsense"),
    asked("null"),
    asked("null", "cross-site"),
    asked(""),
    asked("app.example"),
    asked("://app.example"),
    asked("ftp://app.example"),
    asked("https://app.example:8443"),
    asked("http://app.example"),  # a page that anyone on the way may have written
    asked(f"{TRUSTED}.evil.example"),
    asked(f"{TRUSTED}:8443"),
    asked("http://admin.example"),
]


@pytest.mark.parametrize("request_", OURS, ids=lambda one: f"{one.headers} {one.host}")
def test_a_request_of_our_own_page_passes(request_: PlainRequest) -> None:
    assert not refused(request_)


@pytest.mark.parametrize("request_", FOREIGN, ids=lambda one: f"{one.headers} {one.host}")
def test_a_request_that_another_page_may_have_sent_is_refused(request_: PlainRequest) -> None:
    """Also one that says nothing: every browser sends `Origin` with these methods."""
    assert refused(request_)


@pytest.mark.parametrize("values", [("same-origin", "cross-site"), ("same-origin,same-origin",)])
def test_a_header_that_came_twice_says_nothing(values: tuple[str, ...]) -> None:
    assert refused(http_request(headers={"sec-fetch-site": values}, method="POST"))
    origins = tuple(["https://app.example"] * len(values))
    assert refused(
        http_request(headers={"origin": (*origins, "https://app.example")}, method="POST")
    )


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
def test_a_method_that_changes_nothing_passes(method: str) -> None:
    """As links to us from other sites need."""
    assert not refused(asked("https://evil.example", "cross-site", method))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "CONNECT", "get", "BREW", ""])
def test_any_other_method_may_change_something(method: str) -> None:
    assert refused(asked("https://evil.example", "cross-site", method))


def test_a_websocket_is_no_mere_get() -> None:
    upgrade = {"upgrade": "websocket"}
    assert refused(asked("https://evil.example", "cross-site", "GET", headers=upgrade))
    assert not refused(asked("https://app.example", method="GET", headers=upgrade))


def test_a_token_that_came_in_a_header_as_well_needs_none_of_this() -> None:
    """No page of another site can put it there."""
    assert not refused(asked("https://evil.example", "cross-site"), Credential("unread"))


def test_a_route_may_do_without() -> None:
    foreign = asked("https://evil.example", "cross-site")
    assert not refused(foreign, policy={"csrf": "false"})
    assert refused(foreign, policy={"csrf": "true"})
