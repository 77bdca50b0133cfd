"""Every bad token and header of the book, through Envoy and directly: denied, with its reason,
before the store hears of it, and with the process as well as before.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from check.challenge import parse_challenge
from cryptography.hazmat.primitives import serialization
from integration.conftest import EC_KID, Deployment

from authz.check.jose import MAX_TOKEN_BYTES
from support import http
from support.cluster import ValkeyCluster
from support.grpc import headers_of, status_of
from support.jwks import (
    AUDIENCE,
    ISSUER,
    PrivateKey,
    b64,
    claims,
    ec_key,
    jwk,
    public_pem,
    rsa_key,
    sign,
)
from support.sidecar import KID
from support.waiting import wait_until

Headers = Sequence[tuple[str, str | bytes]]

LOOK_UPS = {"get", "mget", "exists", "eval", "evalsha", "fcall"}
"""Commands by which a sidecar could ask about, or write, a revocation."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, made when it is needed: tokens age."""

    headers: Callable[[], Headers]
    reason: str
    error: str | None = "invalid_token"
    """`error` of the challenge; None where RFC 6750 wants none."""
    path: str = "/"


def bearer(make: Callable[[], str], reason: str) -> Case:
    return Case(lambda: [("authorization", f"Bearer {make()}")], reason)


def signed(reason: str, *, payload: bytes | None = None, **changes: Any) -> Case:
    """Rightly signed claims with something wrong in them; see `support.jwks.claims`."""
    return bearer(lambda: sign(payload or claims(**changes), rsa_key(), kid=KID), reason)


def headed(reason: str, header: dict[str, Any], key: PrivateKey | None = None) -> Case:
    """Good claims under a bad header. Signed with the right key, or another's."""
    return bearer(lambda: sign(claims(), key or rsa_key(), headers={"kid": KID, **header}), reason)


def hmac_with(secret: bytes) -> Case:
    return bearer(lambda: sign(claims(), secret, kid=KID, alg="HS256"), "algorithm_not_allowed")


def good() -> str:
    return sign(claims(), rsa_key(), kid=KID)


def cut(number: int) -> Callable[[], str]:
    return lambda: ".".join(good().split(".")[:number])


def with_signature(raw: bytes) -> Callable[[], str]:
    return lambda: sign(claims(), ec_key(), kid=EC_KID).rpartition(".")[0] + "." + b64(raw)


def soon(seconds: int) -> int:
    return int(time.time()) + seconds


def of_size(above: int) -> str:
    """A good token of the first length beyond `above`."""
    filler = 0
    while len(token := sign(claims(filler="x" * filler), rsa_key(), kid=KID)) <= above:
        filler += max(1, (above - len(token)) * 3 // 4 - 4)
    return token


def nested(opening: str, closing: str, depth: int = 1000) -> bytes:
    good_claims = json.dumps(claims())
    return f'{good_claims[:-1]},"x":{opening * depth}0{closing * depth}}}'.encode()


ATTACKER = rsa_key("attacker")
DER = (
    rsa_key()
    .public_key()
    .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
)
HOUR = 3600

CASES = {
    # no token, or not one
    "no token": Case(list, "token_missing", None),
    "token in the query": Case(list, "token_missing", None, path=f"/?access_token={cut(3)()}"),
    "empty header": Case(lambda: [("authorization", "")], "token_missing", None),
    "wrong scheme": Case(
        lambda: [("authorization", "Basic dXNlcjpwYXNz")], "scheme_unsupported", None
    ),
    "bare token": Case(lambda: [("authorization", good())], "scheme_unsupported", None),
    "empty token": Case(lambda: [("authorization", "Bearer ")], "token_malformed"),
    "two tokens": Case(
        lambda: [("authorization", f"Bearer {good()},Bearer {good()}")],
        "multiple_credentials",
        "invalid_request",
    ),
    "duplicate header": Case(
        lambda: [("authorization", f"Bearer {good()}")] * 2,
        "multiple_credentials",
        "invalid_request",
    ),
    "two schemes": Case(
        lambda: [("authorization", "Basic dXNlcjpwYXNz"), ("Authorization", f"Bearer {good()}")],
        "multiple_credentials",
        "invalid_request",
    ),
    "header and cookie": Case(
        lambda: [("authorization", f"Bearer {good()}"), ("cookie", f"__Host-access={good()}")],
        "multiple_credentials",
        "invalid_request",
    ),
    "one cookie twice": Case(
        lambda: [("cookie", f"__Host-access={good()}; __Host-access={good()}")],
        "multiple_credentials",
        "invalid_request",
    ),
    "one cookie in two lines": Case(
        lambda: [("cookie", f"__Host-access={good()}"), ("cookie", f"__Host-access={good()}")],
        "multiple_credentials",
        "invalid_request",
    ),
    "a tab after the scheme": Case(
        lambda: [("authorization", f"Bearer\t{good()}")], "token_malformed"
    ),
    "forged identity and no token": Case(
        lambda: [("x-authz-subject", "root"), ("x-authz-decision", "allow")],
        "token_missing",
        None,
    ),
    # the form of it
    "larger than 8 KiB": bearer(lambda: of_size(MAX_TOKEN_BYTES), "token_too_large"),
    "8 KiB + 1 of nothing": bearer(lambda: "a" * (MAX_TOKEN_BYTES + 1), "token_too_large"),
    "one segment": bearer(cut(1), "token_malformed"),
    "two segments": bearer(cut(2), "token_malformed"),
    "four segments": bearer(lambda: f"{good()}.e30", "token_malformed"),
    "five segments": bearer(lambda: f"{good()}.e30.e30", "token_malformed"),
    "bad base64": bearer(lambda: good().replace(".", ".*", 1), "token_malformed"),
    "base64 with padding": bearer(lambda: f"{good()}==", "token_malformed"),
    "base64 of no length": bearer(lambda: "a." + good().split(".", 1)[1], "token_malformed"),
    "a blank in it": bearer(lambda: good().replace(".", " .", 1), "token_malformed"),
    "not JSON": signed("token_malformed", payload=b"not json"),
    "a list": signed("token_malformed", payload=b"[]"),
    "a claim twice": signed("token_malformed", payload=b'{"sub":"a","sub":"b"}'),
    "arrays 1,000 deep": bearer(
        lambda: sign(nested("[", "]"), rsa_key(), kid=KID), "token_malformed"
    ),
    "objects 1,000 deep": bearer(
        lambda: sign(nested('{"":', "}"), rsa_key(), kid=KID), "token_malformed"
    ),
    "not UTF-8": Case(
        lambda: [("authorization", b"Bearer " + good().encode() + b"\xff")], "token_malformed"
    ),
    "not UTF-8 at all": Case(
        lambda: [("authorization", b"Bearer \xc0\xaf.\xfe.\x80")], "token_malformed"
    ),
    "digits of another script": bearer(lambda: good()[:-1] + "\u0663", "token_malformed"),
    # the algorithm
    **{
        f"alg {name}": bearer(
            lambda name=name: sign(claims(), b"", kid=KID, alg="none", headers={"alg": name}),  # type: ignore[misc]
            "algorithm_not_allowed",
        )
        for name in ("none", "None", "NONE", "nOnE")
    },
    "alg missing": headed("token_malformed", {"alg": 0}),
    "HS256 with the public key in PEM": hmac_with(public_pem(rsa_key())),
    "HS256 with the public key in DER": hmac_with(DER),
    "HS256 with the JWK": hmac_with(json.dumps(jwk(rsa_key(), KID)).encode()),
    "HS256 with an empty file as the secret": bearer(
        lambda: sign(claims(), b"", kid="../../dev/null", alg="HS256"), "algorithm_not_allowed"
    ),
    "an algorithm that isn't allowed": bearer(
        lambda: sign(claims(), rsa_key(), kid=KID, alg="RS512"), "algorithm_not_allowed"
    ),
    "ES256 with r = s = 0": bearer(with_signature(bytes(64)), "signature_invalid"),
    "ES256 with r = s = 1": bearer(with_signature((b"\0" * 31 + b"\1") * 2), "signature_invalid"),
    "ES256 named, RS256 used": headed("key_unknown", {"alg": "ES256"}),
    # the key
    "unknown kid": headed("key_unknown", {"kid": "another"}),
    "kid with a path": headed("key_unknown", {"kid": "../../../../etc/passwd"}),
    "kid with SQL": headed("key_unknown", {"kid": "x' UNION SELECT 'secret'--"}),
    "kid of a wrong type": headed("token_malformed", {"kid": [KID]}),
    "another's key": headed("signature_invalid", {}, ATTACKER),
    "no signature": bearer(lambda: good().rpartition(".")[0] + ".", "signature_invalid"),
    "unknown crit": headed("header_unsupported", {"crit": ["http://example.com/x"], "x": 1}),
    "empty crit": headed("header_unsupported", {"crit": []}),
    "b64 false": headed("header_unsupported", {"b64": False, "crit": ["b64"]}),
    "b64 false without crit": headed("header_unsupported", {"b64": False}),
    "embedded jwk": headed("key_unknown", {"kid": "evil", "jwk": jwk(ATTACKER, "evil")}, ATTACKER),
    "embedded jwk, our kid": headed("signature_invalid", {"jwk": jwk(ATTACKER, KID)}, ATTACKER),
    "embedded x5c": headed("signature_invalid", {"x5c": [b64(DER)]}, ATTACKER),
    # the claims
    "expired": signed("token_expired", iat=soon(-2 * HOUR), exp=soon(-HOUR)),
    "not yet valid": signed("token_not_yet_valid", nbf=soon(HOUR), exp=soon(2 * HOUR)),
    "issued in the future": signed("token_not_yet_valid", iat=soon(HOUR), exp=soon(2 * HOUR)),
    "exp missing": signed("claim_invalid", exp=...),
    "exp a string": signed("claim_invalid", exp=str(soon(HOUR))),
    "exp a float": signed("claim_invalid", exp=soon(HOUR) + 0.5),
    "exp true": signed("claim_invalid", exp=True),
    "exp null": signed("claim_invalid", exp=None),
    "exp huge": signed("claim_invalid", exp=10**400),
    "exp 1e400": signed(
        "claim_invalid", payload=json.dumps({"iss": ISSUER})[:-1].encode() + b',"exp":1e400}'
    ),
    "exp of 5,000 digits": signed("token_malformed", payload=b'{"exp":' + b"9" * 5000 + b"}"),
    "exp as far as it goes": signed("lifetime_too_long", exp=2**53),
    "exp negative": signed("claim_invalid", exp=-1),
    "exp NaN": signed("token_malformed", payload=b'{"exp":NaN}'),
    "iat missing": signed("claim_invalid", iat=...),
    "lifetime over the limit": signed("lifetime_too_long", exp=soon(25 * HOUR)),
    "wrong iss": signed("issuer_unknown", iss="https://evil.example"),
    "iss with a slash more": signed("issuer_unknown", iss=f"{ISSUER}/"),
    "iss missing": signed("issuer_unknown", iss=...),
    "iss a list": signed("issuer_unknown", iss=[ISSUER]),
    "wrong aud": signed("audience_mismatch", aud="another"),
    "aud missing": signed("audience_mismatch", aud=...),
    "aud a number": signed("claim_invalid", aud=[AUDIENCE, 7]),
    "sub missing": signed("subject_missing", sub=...),
    "sub empty": signed("subject_missing", sub=""),
    "sub a number": signed("claim_invalid", sub=7),
    "sub with a new line": signed("claim_invalid", sub="a\r\nx-authz-scopes: admin"),
    "sub with a lone surrogate": signed("claim_invalid", sub="\ud800"),
    "sub with blanks around": signed("claim_invalid", sub=" alice"),
    "jti a number": signed("claim_invalid", jti=7),
    "jti empty": signed("claim_invalid", jti=""),
    "scope with a control character": signed("claim_invalid", scope="read\x1fadmin"),
}


def text_of(value: str | bytes) -> str:
    """As Envoy puts it into the map: bytes that aren't UTF-8 become `!`."""
    if isinstance(value, str):
        return value
    return "".join(chr(byte) if byte < 0x80 else "!" for byte in value)


def joined(headers: Headers) -> dict[str, str]:
    """As Envoy sends them without `encode_raw_headers`."""
    values: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        values[key] = f"{values[key]},{text_of(value)}" if key in values else text_of(value)
    return values


def raw(headers: Headers) -> list[tuple[str, bytes]]:
    return [
        (name.lower(), value.encode() if isinstance(value, str) else value)
        for name, value in headers
    ]


def denied_checks(deployment: Deployment, reason: str) -> float:
    return deployment.sidecar.metric("authz_checks_total", verdict="deny", reason=reason)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_denied_with_its_reason(deployment: Deployment, name: str) -> None:
    """In the body, in `WWW-Authenticate` and in the metrics; and nothing goes upstream."""
    case, before = CASES[name], denied_checks(deployment, CASES[name].reason)
    upstream_before = len(deployment.upstream.received)
    response = deployment.get(case.path, headers=case.headers())
    assert response.status == 401
    assert response.json()["reason"] == case.reason
    assert response.json()["error"] == (case.error or "unauthorized")
    challenge = response.header("www-authenticate")
    assert challenge is not None
    scheme, parameters = parse_challenge(challenge)
    assert (scheme, parameters.get("error")) == ("Bearer", case.error)
    assert denied_checks(deployment, case.reason) == before + 1
    assert len(deployment.upstream.received) == upstream_before


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["joined", "raw"])
def test_bad_input_is_denied_past_envoy_too(deployment: Deployment, name: str, form: str) -> None:
    """With headers in either form that Envoy has for them."""
    headers = CASES[name].headers()
    if form == "joined":
        response = deployment.client.check(headers=joined(headers))
    else:
        response = deployment.client.check(raw_headers=raw(headers))
    assert status_of(response) == 401
    assert response.denied_response is not None
    assert json.loads(response.denied_response.body)["reason"] == CASES[name].reason
    assert headers_of(response)["www-authenticate"].startswith("Bearer ")


def test_nothing_bad_reaches_the_store_or_troubles_the_process(
    deployment: Deployment, cluster: ValkeyCluster
) -> None:
    """Nor is it looked for among the revoked ones. All of it in a row, on required and optional
    routes; then a good token, which is.
    """
    sidecar = deployment.sidecar
    wait_until(lambda: sidecar.status()["feed"]["live"], "the feed is live")
    asked = sidecar.metric("authz_store_lookups_total")
    sought = sidecar.metric("authz_filter_lookups_total")
    for case in CASES.values():
        headers = case.headers()
        assert deployment.get(case.path, headers=headers).status == 401
        assert deployment.client.check(headers=joined(headers)).status is not None
        if case.error is not None:
            assert deployment.get("/public", headers=headers).status == 401
    assert sidecar.metric("authz_store_lookups_total") == asked
    assert sidecar.metric("authz_filter_lookups_total") == sought
    assert not LOOK_UPS & cluster.command_counts().keys()
    assert deployment.get(token=good()).status == 200
    assert sidecar.metric("authz_filter_lookups_total") == sought + 1
    assert deployment.envoy.ext_authz_stats()["error"] == 0
    assert sidecar.process.running
    assert "Traceback" not in sidecar.log_text()
    for secret in (".eyJ", "eyJhbGciOi"):
        assert secret not in sidecar.log_text()
        assert secret not in sidecar.metrics()


def test_a_token_at_the_limit_is_accepted(deployment: Deployment) -> None:
    token = of_size(MAX_TOKEN_BYTES - 4)
    assert MAX_TOKEN_BYTES - 4 < len(token) <= MAX_TOKEN_BYTES
    assert deployment.get(token=token).status == 200


@pytest.mark.parametrize("header", ["jku", "x5u"])
def test_no_url_of_a_token_is_ever_fetched(deployment: Deployment, header: str) -> None:
    """Not even where the key is named, known and right."""
    url = f"http://127.0.0.1:{deployment.upstream.port}/{header}.json"
    before = len(deployment.upstream.received)
    for kid, key, status in (
        ("evil", ATTACKER, 401),
        (KID, ATTACKER, 401),
        (KID, rsa_key(), 200),
    ):
        token = sign(claims(), key, headers={"kid": kid, header: url})
        assert deployment.get(token=token).status == status
    received = deployment.upstream.received[before:]
    assert [one["path"] for one in received] == ["/"]


def test_a_flood_of_different_bad_tokens_leaves_no_trace_in_memory(deployment: Deployment) -> None:
    cached = deployment.sidecar.status()["tokens"]["cached"]
    for number in range(300):
        token = sign(claims(sub=f"user-{number}"), b"x" * 32, kid=KID, alg="HS256")
        assert status_of(deployment.client.check(token=token)) == 401
    assert deployment.sidecar.status()["tokens"]["cached"] == cached


def test_a_changed_signature_of_a_token_that_is_remembered_is_refused(
    deployment: Deployment,
) -> None:
    token = good()
    assert deployment.get(token=token).status == 200
    head, _, tail = token.rpartition(".")
    changed = ("B" if tail[0] == "A" else "A") + tail[1:]
    response = deployment.get(token=f"{head}.{changed}")
    assert (response.status, response.json()["reason"]) == (401, "signature_invalid")
    assert deployment.get(token=token).status == 200


def test_a_token_in_a_second_line_of_cookies_is_not_overlooked(deployment: Deployment) -> None:
    """Envoy joins the two by a comma. On an optional route it would pass as anonymous."""
    lines = [("cookie", "x=1"), ("cookie", f"__Host-access={good()[:-9]}")]
    response = deployment.get("/public", headers=lines)
    assert (response.status, response.json()["reason"]) == (401, "multiple_credentials")


def test_pipelined_requests_are_judged_one_by_one(deployment: Deployment) -> None:
    """A good token on the same connection lends nothing to the next request."""
    good_head = f"GET /one HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {good()}\r\n\r\n"
    bad_head = "GET /two HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    before = len(deployment.upstream.received)
    first = http.exchange(deployment.envoy.port, (good_head + bad_head).encode())
    assert first.status == 200
    assert [one["path"] for one in deployment.upstream.received[before:]] == ["/one"]
