"""What the description at `/openapi.json` promises is kept, whatever is sent: schemathesis."""

from base64 import b64encode
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tokens.conftest import World

from authz.tokens.clients.client import CLIENT_CREDENTIALS
from support.token_service import SECRET

EXAMPLES = 20
"""Requests of each endpoint, each sent by three askers: 2 ms each, and as much to make one up."""

PROFILE = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def description(world: World) -> Any:
    return schemathesis.openapi.from_dict(world.server.http.get("/openapi.json").json())


@pytest.fixture(scope="module")
def askers(world: World) -> list[dict[str, str]]:
    """Headers of nobody, of a client, of an administrator: nobody doesn't get far."""
    form = {"grant_type": CLIENT_CREDENTIALS, "scope": "sessions:all"}
    token = world.server.token(world.machine.id, **form).json()["access_token"]
    basic = b64encode(f"{world.machine.id}:{SECRET}".encode()).decode()
    return [{}, {"authorization": f"Basic {basic}"}, {"authorization": f"Bearer {token}"}]


def test_every_answer_is_one_that_is_described(
    world: World, description: Any, askers: list[dict[str, str]]
) -> None:
    """No 5xx, no status that isn't listed, no error of another form."""
    asked: dict[str, set[int]] = {}
    for found in description.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @PROFILE
        def holds(case: Any) -> None:
            for headers in askers:
                response = case.call(base_url=world.server.url, headers=headers)
                case.validate_response(response, checks=CHECKS)
                asked.setdefault(case.operation.label, set()).add(response.status_code)
                if response.status_code >= 400:
                    assert set(response.json()) == {"error", "error_description"}, response.text

        holds()
    assert len(asked) == 9
    for endpoint in ("token", "revoke", "introspect"):
        assert {400, 401} <= asked[f"POST /oauth2/{endpoint}"]
