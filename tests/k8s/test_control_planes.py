"""What envoy/ has for control planes: checked against their schemas, and as far as an Envoy by
itself can run it, run. What those planes make of the rest is theirs.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema_rs import Draft202012Validator

from authz.check.policy import RoutePolicies
from support.manifests import REPOSITORY

ENVOY = REPOSITORY / "envoy"
SCHEMAS = REPOSITORY / "tests/data/resources"
PLANES = ("contour", "envoy-gateway", "istio", "kgateway")
READ = {"authorization", "cookie", "origin", "sec-fetch-site", "upgrade", "dpop", "x-request-id"}
"""What authz reads by default, of the headers that envoy.yaml allows."""


def resources(plane: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ENVOY / plane / "authz.yaml").read_text()))


def schema_of(resource: dict[str, Any]) -> Any:
    name = f"{resource['apiVersion'].replace('/', '_')}_{resource['kind']}.json"
    return strict(json.loads((SCHEMAS / name).read_text()))


def strict(schema: Any) -> Any:
    """The same, but nothing may come that it doesn't name."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: strict(value) for key, value in schema.items()}
    # Draft 4's form, of which OpenAPI is made.
    if stricter.get("exclusiveMaximum") is True:
        stricter["exclusiveMaximum"] = stricter.pop("maximum")
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        stricter.setdefault("additionalProperties", False)
    return stricter


def values_of(node: Any, key: str) -> Iterator[Any]:
    """All values of a key, wherever it stands."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from values_of(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value, key)


@pytest.mark.parametrize("plane", PLANES)
def test_the_plane_takes_it(plane: str) -> None:
    for resource in resources(plane):
        errors = Draft202012Validator(schema_of(resource)).iter_errors(resource["spec"])
        found = [
            f"{resource['kind']} {'/'.join(map(str, error.instance_path))}: {error.message}"
            for error in errors
        ]
        assert not found, found


def test_a_misspelt_field_is_found() -> None:
    """The check above would fail where it should."""
    (policy, *_) = resources("envoy-gateway")
    policy["spec"]["extAuth"]["failOpenn"] = False
    assert list(Draft202012Validator(schema_of(policy)).iter_errors(policy["spec"]))


@pytest.mark.parametrize("plane", PLANES)
def test_no_plane_fails_open_or_waits_long(plane: str) -> None:
    """Failing open is authz' decision, on record; and no default of minutes."""
    texts = list(yaml.safe_load_all((ENVOY / plane / "authz.yaml").read_text()))
    if plane == "istio":
        texts = [yaml.safe_load((ENVOY / plane / "mesh-config.yaml").read_text())]
    assert set(values_of(texts, "failOpen")) == {False}
    names = ("timeout", "responseTimeout", "requestTimeout")
    waits = [one for name in names for one in values_of(texts, name) if isinstance(one, str)]
    assert waits
    assert set(waits) <= {"0.2s", "200ms", "1s"}
    assert not list(values_of(texts, "retry"))


@pytest.mark.parametrize("plane", ["contour", "envoy-gateway", "kgateway"])
def test_what_a_route_asks_for_is_known_to_authz(plane: str) -> None:
    """A misspelt policy would be a 500 of every request of the route."""
    found = 0
    for resource in resources(plane):
        for key in ("context", "contextExtensions"):
            for given in values_of(resource, key):
                pairs = (
                    given
                    if isinstance(given, dict)
                    else {one["name"]: one["value"] for one in given}
                )
                RoutePolicies("open").of(pairs)
                found += 1
    assert found


def test_the_gateway_sends_what_authz_reads() -> None:
    for resource in resources("envoy-gateway"):
        for headers in values_of(resource, "headersToExtAuth"):
            assert set(headers) == READ
    shipped = yaml.safe_load((ENVOY / "envoy.yaml").read_text())
    (allowed,) = values_of(shipped, "allowed_headers")
    assert {one["exact"] for one in allowed["patterns"] if "exact" in one} == READ


@pytest.mark.parametrize("plane", PLANES)
def test_each_says_what_to_do_with_it(plane: str) -> None:
    lines = (ENVOY / plane / "README.md").read_text().splitlines()
    assert len([line for line in lines if line]) <= 12
