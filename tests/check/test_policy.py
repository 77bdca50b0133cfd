"""What a route asks for."""

import itertools
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.check.policy import ROUTES_REMEMBERED, PolicyError, RoutePolicies, RoutePolicy
from authz.check.token import Identity
from authz.check.verdict import Reason
from authz.revocation.record import TokenRef

REF = TokenRef("user", "token", 1, 0, 1)


def identity(**changes: Any) -> Identity:
    values = {"scopes": ("read", "write"), "audiences": ("api", "orders"), **changes}
    return Identity("https://issuer.example", "alice", "jti", ref=REF, **values)


def policy(**extensions: str) -> RoutePolicy:
    return RoutePolicies("open").of({f"authz.{name}": value for name, value in extensions.items()})


def objection(policy: RoutePolicy, **changes: Any) -> Reason | None:
    verdict = policy.objection(identity(**changes))
    return None if verdict is None else verdict.reason


@pytest.mark.parametrize("fail_mode", ["open", "closed"])
def test_a_route_that_says_nothing_needs_a_token_and_has_the_global_fail_mode(
    fail_mode: Any,
) -> None:
    assert RoutePolicies(fail_mode).of({}) == RoutePolicy(
        optional=False, fail_mode=fail_mode, audience=None, scopes=()
    )


def test_a_route_may_say_all_there_is() -> None:
    found = policy(
        mode="optional",
        fail_mode="closed",
        audience="orders",
        scopes="read write",
        require_https="true",
        csrf="false",
        binding="required",
        use="once",
    )
    assert found == RoutePolicy(
        optional=True,
        fail_mode="closed",
        audience="orders",
        scopes=("read", "write"),
        require_https=True,
        csrf=False,
        bound=True,
        once=True,
    )


@pytest.mark.parametrize(
    ("extensions", "guarded"),
    [
        ({}, False),
        ({"scopes": "read", "audience": "orders", "mode": "optional"}, False),
        ({"csrf": "false"}, False),
        ({"require_https": "true"}, True),
        ({"binding": "required"}, True),
        ({"use": "once"}, True),
        ({"require_https": "false", "binding": "optional", "use": "many"}, False),
    ],
)
def test_guards_are_asked_about_plain_tokens_only_where_the_route_demands_something(
    extensions: dict[str, str], guarded: bool
) -> None:
    assert policy(**extensions).guarded == guarded


@pytest.mark.parametrize("fail_mode", ["open", "closed"])
@pytest.mark.parametrize("of_route", ["open", "closed"])
def test_the_routes_fail_mode_goes_before_the_global_one(fail_mode: Any, of_route: str) -> None:
    assert RoutePolicies(fail_mode).of({"authz.fail_mode": of_route}).fail_mode == of_route


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("authz.mode", ""),
        ("authz.mode", "Optional"),
        ("authz.mode", "optional "),
        ("authz.mode", "off"),
        ("authz.fail_mode", ""),
        ("authz.fail_mode", "Closed"),
        ("authz.audience", ""),
        ("authz.scopes", ""),
        ("authz.scopes", " "),
        ("authz.scopes", "read,write "),
        ("authz.scopes", "read  write"),
        ("authz.scopes", "read\twrite"),
        ("authz.scopes", 'read "write"'),
        ("authz.scopes", "lesen schreib\u00e9n"),
        ("authz.require_https", ""),
        ("authz.require_https", "True"),
        ("authz.require_https", "yes"),
        ("authz.csrf", "off"),
        ("authz.csrf", ""),
        ("authz.binding", "Required"),
        ("authz.binding", "dpop"),
        ("authz.use", "Once"),
        ("authz.use", "1"),
        ("authz.bound", "required"),
        ("authz.scope", "admin"),
        ("authz.", "x"),
        ("authz.Scopes", "admin"),
        ("Authz.scopes", "admin"),
        ("AUTHZ.MODE", "required"),
        (" authz.scopes", "admin"),
        ("authz.scopes ", "admin"),
        ("authz.mode.x", "required"),
    ],
)
def test_a_misspelt_policy_is_an_error_that_names_its_key(key: str, value: str) -> None:
    """It must not become none."""
    with pytest.raises(PolicyError) as caught:
        RoutePolicies("open").of({key: value})
    assert key.strip() in str(caught.value)
    assert value.strip() == "" or value.strip() not in str(caught.value)


def test_an_unknown_keys_name_is_shown_without_what_could_break_an_answer() -> None:
    with pytest.raises(PolicyError, match=r"^authz\.xscript is unknown$"):
        RoutePolicies("open").of({'authz.x"<\r\n\\script>': ""})
    with pytest.raises(PolicyError) as caught:
        RoutePolicies("open").of({"authz." + "x" * 5000: ""})
    assert len(str(caught.value)) < 100


def test_extensions_of_other_services_are_none_of_ours() -> None:
    extensions = {"virtual_host": "x", "authzed.token": "y", "my.authz.mode": "z", "authz": "q"}
    assert RoutePolicies("open").of(extensions) == RoutePolicies("open").of({})


def test_every_scope_is_needed() -> None:
    assert objection(policy(scopes="read write")) is None
    assert objection(policy(scopes="read admin")) is Reason.INSUFFICIENT_SCOPE
    assert objection(policy(scopes="read"), scopes=()) is Reason.INSUFFICIENT_SCOPE
    assert objection(policy(scopes="rea")) is Reason.INSUFFICIENT_SCOPE
    assert objection(policy(scopes="READ")) is Reason.INSUFFICIENT_SCOPE


def test_the_denial_says_which_scopes_are_needed() -> None:
    verdict = policy(scopes="read admin").objection(identity())
    assert verdict is not None
    assert verdict.detail == "needs read admin"
    assert verdict.identity == identity()


def test_the_token_must_be_meant_for_the_route() -> None:
    assert objection(policy(audience="orders")) is None
    assert objection(policy(audience="billing")) is Reason.ROUTE_AUDIENCE_MISMATCH
    assert objection(policy(audience="orders"), audiences=()) is Reason.ROUTE_AUDIENCE_MISMATCH
    assert objection(policy(audience="ord")) is Reason.ROUTE_AUDIENCE_MISMATCH


def test_policies_are_parsed_once_and_only_so_many_kept() -> None:
    policies = RoutePolicies("open")
    assert policies.of({"authz.scopes": "a"}) is policies.of({"authz.scopes": "a"})
    for number in range(ROUTES_REMEMBERED + 10):
        policies.of({"authz.scopes": f"s{number}"})
    assert len(policies._known) == ROUTES_REMEMBERED


def test_the_order_of_envoys_map_makes_no_difference() -> None:
    extensions = {"authz.mode": "optional", "authz.scopes": "a", "authz.audience": "b"}
    policies = RoutePolicies("open")
    found = [policies.of(dict(order)) for order in itertools.permutations(extensions.items())]
    assert all(one == found[0] for one in found)


@given(st.dictionaries(st.text(max_size=20) | st.just("authz.mode"), st.text(max_size=20)))
def test_no_extension_raises_anything_but_a_policy_error(extensions: dict[str, str]) -> None:
    with suppress(PolicyError):
        found = RoutePolicies("closed").of(extensions)
        assert found.fail_mode == "closed" or "authz.fail_mode" in extensions
