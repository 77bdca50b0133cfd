"""What a decision becomes: headers for the upstream, an answer for the client, a log line."""

from collections.abc import Sequence
from typing import Any

import pytest
from check.challenge import parse_challenge
from integration.conftest import Deploy, Deployment

from authz.envoy_api.codec import OWN_HEADERS
from support.http import Response
from support.jwks import ISSUER, claims, rsa_key, sign
from support.sidecar import KID

SENT = ["authorization", "cookie", "x-request-id"]
"""What the sidecar reads, the least that `allowed_headers` can be."""
OWN_PATTERN = {"safe_regex": {"regex": "x[-_]authz[-_].*"}}

ENVOYS: dict[str, dict[str, Any]] = {
    "joined": {},
    "raw": {"encode_raw_headers": True},
    "allowed": {"allowed_headers": SENT},
    "allowed, raw": {"allowed_headers": SENT, "encode_raw_headers": True},
    "allowed with ours": {
        "extra": {
            "allowed_headers": {"patterns": [*({"exact": name} for name in SENT), OWN_PATTERN]}
        }
    },
}
"""How the filter may be set to send headers."""

SEES_ALL = {"joined", "raw", "allowed with ours"}
"""Envoys that tell the sidecar of every `x-authz-*` header; others only have our five removed."""

FORGED_NAMES = (*OWN_HEADERS, "x-authz-role", "x_authz_subject", "x-authz_scopes")
FORGED = [
    *((name, "root") for name in FORGED_NAMES),
    ("X-Authz-Subject", "root again"),
    ("x-authz-scopes", ""),
]


@pytest.fixture(scope="module")
def envoys(deploy: Deploy, deployment: Deployment) -> dict[str, Deployment]:
    """One sidecar behind an Envoy of each kind."""
    return {
        name: deployment if name == "joined" else deploy(sidecar=deployment.sidecar, **options)
        for name, options in ENVOYS.items()
    }


def token(**changes: Any) -> str:
    return sign(claims(**changes), rsa_key(), kid=KID)


def own_headers(response: Response) -> dict[str, str]:
    """What of `x-authz-*` the upstream received, in whatever spelling. Nothing twice."""
    assert response.status == 200, response.body
    received: Sequence[tuple[str, str]] = response.json()["headers"]
    pairs = [(k, v) for k, v in received if k.replace("_", "-").startswith("x-authz-")]
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def only_known(headers: dict[str, str], envoy: str) -> dict[str, str]:
    """Without the forged ones that this Envoy keeps from the sidecar."""
    return {k: v for k, v in headers.items() if envoy in SEES_ALL or k in OWN_HEADERS}


# To the upstream


@pytest.mark.parametrize("forged", [(), FORGED], ids=["honest", "forged"])
@pytest.mark.parametrize("path", ["/", "/public", "/read"])
@pytest.mark.parametrize("envoy", ENVOYS)
def test_the_upstream_learns_who_it_is_from_us_alone(
    envoys: dict[str, Deployment], envoy: str, path: str, forged: Sequence[tuple[str, str]]
) -> None:
    response = envoys[envoy].get(path, token=token(jti=f"jti of {envoy}"), headers=forged)
    assert only_known(own_headers(response), envoy) == {
        "x-authz-subject": "alice",
        "x-authz-issuer": ISSUER,
        "x-authz-token-id": f"jti of {envoy}",
        "x-authz-scopes": "read write",
        "x-authz-decision": "allow",
    }


@pytest.mark.parametrize("forged", [(), FORGED], ids=["honest", "forged"])
@pytest.mark.parametrize("envoy", ENVOYS)
def test_an_anonymous_client_brings_no_identity_along(
    envoys: dict[str, Deployment], envoy: str, forged: Sequence[tuple[str, str]]
) -> None:
    response = envoys[envoy].get("/public", headers=forged)
    assert only_known(own_headers(response), envoy) == {"x-authz-decision": "allow"}


@pytest.mark.parametrize("envoy", ENVOYS)
def test_a_token_without_scopes_leaves_no_room_for_forged_ones(
    envoys: dict[str, Deployment], envoy: str
) -> None:
    scopes: list[object] = [..., "", []]
    for scope in scopes:
        headers = own_headers(envoys[envoy].get(token=token(scope=scope), headers=FORGED))
        assert "x-authz-scopes" not in headers
        assert headers["x-authz-subject"] == "alice"


def test_a_token_without_jti_is_named_by_its_digest(deployment: Deployment) -> None:
    text = token(jti=...)
    first = own_headers(deployment.get(token=text))["x-authz-token-id"]
    assert len(first) == 43
    assert own_headers(deployment.get(token=text))["x-authz-token-id"] == first


@pytest.mark.parametrize(
    "subject", ["Zoë", "名前", "a b", 'a"b', "a,b", "a;b", "a|b", "😀", "%0d%0a", "x" * 5000]
)
@pytest.mark.parametrize("envoy", ["joined", "allowed, raw"])
def test_a_subject_of_any_script_arrives_as_it_is(
    envoys: dict[str, Deployment], envoy: str, subject: str
) -> None:
    """As UTF-8; the upstream here reads Latin-1."""
    headers = own_headers(envoys[envoy].get(token=token(sub=subject)))
    assert headers["x-authz-subject"].encode("latin-1").decode() == subject


def test_a_connection_header_does_not_take_ours_away(deployment: Deployment) -> None:
    """RFC 9110 section 7.6.1 lets a sender name fields that end with this hop."""
    nominated = [("connection", f"close, {', '.join(OWN_HEADERS)}")]
    headers = own_headers(deployment.get(token=token(), headers=nominated))
    assert headers.keys() == set(OWN_HEADERS)


def test_the_clients_other_headers_go_on_untouched(deployment: Deployment) -> None:
    sent = [("x-tag", "one"), ("x-tag", "two"), ("x-authzed", "7"), ("accept", "a/b")]
    text = token()
    received = deployment.get(token=text, headers=sent).json()["headers"]
    for pair in (*sent, ("authorization", f"Bearer {text}")):
        assert list(pair) in received


# Where the token may be


@pytest.mark.parametrize("envoy", ENVOYS)
def test_a_cookie_is_as_good_as_a_header(envoys: dict[str, Deployment], envoy: str) -> None:
    text = token()
    for cookie in (f"a=1; __Host-access={text}; b=2", f'__Host-access="{text}"'):
        response = envoys[envoy].get(headers=[("cookie", cookie)])
        assert own_headers(response)["x-authz-subject"] == "alice"


def test_the_same_token_in_header_and_cookie_is_one(deployment: Deployment) -> None:
    text = token()
    response = deployment.get(token=text, headers=[("cookie", f"__Host-access={text}")])
    assert response.status == 200


@pytest.mark.parametrize("envoy", ENVOYS)
@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_as_rfc_9110_has_it(
    envoys: dict[str, Deployment], envoy: str, scheme: str
) -> None:
    response = envoys[envoy].get(headers=[("authorization", f"{scheme} {token()}")])
    assert response.status == 200


# To the client


def test_a_401_says_how_to_authenticate(deployment: Deployment) -> None:
    response = deployment.get()
    assert response.status == 401
    assert response.header("www-authenticate") == 'Bearer realm="authz"'
    assert response.header("content-type") == "application/json"
    assert response.header("cache-control") == "no-store"
    assert response.json()["request_id"]


def test_a_403_says_what_is_missing(deployment: Deployment) -> None:
    response = deployment.get("/admin", token=token())
    assert response.status == 403
    assert response.json()["reason"] == "insufficient_scope"
    assert response.json()["error"] == "insufficient_scope"
    challenge = response.header("www-authenticate")
    assert challenge is not None
    _, parameters = parse_challenge(challenge)
    assert parameters["error"] == "insufficient_scope"
    assert parameters["error_description"].endswith("needs admin")


def test_a_denial_shows_nothing_of_the_token_or_its_holder(deployment: Deployment) -> None:
    text = token(sub="very-private")
    response = deployment.get("/admin", token=text)
    shown = response.body.decode() + repr(response.headers)
    assert "very-private" not in shown
    assert text[:20] not in shown
    assert not [name for name, _ in response.headers if name.startswith("x-authz-")]


def test_nothing_a_client_sends_comes_back_unescaped(deployment: Deployment) -> None:
    evil = '"><script>alert(1)</script>'
    response = deployment.get(headers=[("x-request-id", evil), ("authorization", f"Bearer {evil}")])
    assert response.status == 401
    assert response.header("content-type") == "application/json"
    assert "<script>" not in repr(response.headers)
    shown = response.json()
    assert evil not in {value for key, value in shown.items() if key != "request_id"}


def test_a_long_request_id_is_not_echoed_whole(deployment: Deployment) -> None:
    response = deployment.get(headers=[("x-request-id", "r" * 20_000)])
    assert len(response.json()["request_id"]) <= 128


# To the access log


def test_envoys_access_log_tells_who_and_why(deploy: Deploy, deployment: Deployment) -> None:
    """By the dynamic metadata of the filter."""
    own = deploy(sidecar=deployment.sidecar)
    own.get("/", token=token(jti="logged"))
    own.get("/public")
    own.get("/admin", token=token(jti="lacks", scope=...))
    own.get("/", token="a.b.c")
    lines = [line["authz"] for line in own.envoy.access_log(4)]
    for line in lines:
        line.pop("ext_authz_duration", None)  # Envoy's own
    logged, anonymous, lacks, malformed = lines
    assert logged == {
        "decision": "allow",
        "reason": "ok",
        "subject": "alice",
        "issuer": ISSUER,
        "token_id": "logged",
        "scopes": "read write",
    }
    assert anonymous == {"decision": "allow", "reason": "anonymous"}
    assert (lacks["decision"], lacks["reason"]) == ("deny", "insufficient_scope")
    assert (lacks["subject"], lacks["scopes"]) == ("alice", "")
    assert malformed == {"decision": "deny", "reason": "token_malformed"}
