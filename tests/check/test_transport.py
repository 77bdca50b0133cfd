"""Tokens that came over plain HTTP."""

from typing import Any

import pytest
from check.fakes import http_request, presented

from authz.check.policy import RoutePolicies
from authz.check.request import PlainRequest
from authz.check.token import Identity
from authz.check.transport import TransportGuard, client_scheme
from authz.check.verdict import Reason

REQUIRED = {"require_https": "true"}


def came_by(*values: str, **parts: Any) -> PlainRequest:
    """With these values of `x-forwarded-proto`."""
    return http_request(headers={"x-forwarded-proto": values} if values else {}, **parts)


def refusal(request: PlainRequest, policy: dict[str, str] = REQUIRED) -> Reason | None:
    verdict = TransportGuard().look(presented(request, policy=policy))
    return None if verdict is None else verdict.reason


@pytest.mark.parametrize("value", ["https", "HTTPS"])
def test_a_token_that_came_by_https_passes(value: str) -> None:
    assert refusal(came_by(value)) is None


@pytest.mark.parametrize(
    "values", [("http",), ("HTTP",), ("ws",), ("https,http",), ("https", "http"), ("https ",)]
)
def test_any_other_protocol_is_refused(values: tuple[str, ...]) -> None:
    """Several values: some hop was not by HTTPS, or a client tried its luck."""
    assert refusal(came_by(*values)) is Reason.HTTPS_REQUIRED


def test_what_a_client_says_in_its_own_scheme_counts_for_nothing() -> None:
    """A client of HTTP/2 chooses `:scheme`, over whatever connection."""
    assert refusal(came_by("http", scheme="https")) is Reason.HTTPS_REQUIRED
    assert refusal(came_by("https", scheme="http")) is None


@pytest.mark.parametrize("values", [(), ("",)])
def test_an_envoy_that_does_not_say_is_misconfigured(values: tuple[str, ...]) -> None:
    """Not the client's doing, and no reason to let anyone pass."""
    verdict = TransportGuard().look(presented(came_by(*values, scheme="https"), policy=REQUIRED))
    assert verdict is not None
    assert verdict.reason is Reason.MISCONFIGURED_ROUTE
    assert "x-forwarded-proto" in verdict.detail


def test_nothing_is_asked_where_nothing_is_demanded() -> None:
    assert refusal(came_by("http"), {}) is None
    assert refusal(came_by(), {"require_https": "false"}) is None


@pytest.mark.parametrize(
    ("globally", "on_route", "demanded"),
    [(True, None, True), (True, "false", False), (False, "true", True), (False, None, False)],
)
def test_the_route_goes_before_the_setting(
    globally: bool, on_route: str | None, demanded: bool
) -> None:
    extensions = {} if on_route is None else {"authz.require_https": on_route}
    policy = RoutePolicies("open", require_https=globally).of(extensions)
    assert (policy.require_https, policy.guarded) == (demanded, demanded)


def test_the_one_token_that_others_could_read_is_told_of() -> None:
    """Not one of which Envoy said nothing, or nothing clear."""
    told: list[Identity] = []
    guard = TransportGuard(told.append)
    for values in ((), ("https",), ("https,http",), ("http",)):
        guard.look(presented(came_by(*values), policy=REQUIRED, sub=f"user of {values}"))
    assert [one.subject for one in told] == ["user of ('http',)"]


def test_a_token_that_is_of_no_use_to_who_read_it_is_refused_and_left_alone() -> None:
    """Else whoever ever saw one, and can't use it, could have it revoked."""
    told: list[Identity] = []
    for cnf in ({"jkt": "k" * 43}, {"x5t#S256": "c" * 43}):
        verdict = TransportGuard(told.append).look(
            presented(came_by("http"), policy=REQUIRED, cnf=cnf)
        )
        assert verdict is not None
        assert verdict.reason is Reason.HTTPS_REQUIRED
    assert told == []


def test_the_protocol_is_the_whole_header() -> None:
    assert client_scheme(came_by("https", "http")) == "https,http"
    assert client_scheme(came_by()) == ""
